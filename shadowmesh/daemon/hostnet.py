"""The host's network as the daemon sees it: interfaces kept as they shall be, changes of the underlay told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv4Interface, IPv6Interface

import structlog

from shadowmesh.dataplane.host import HostNetwork, HostWatcher, Interface
from shadowmesh.model.addresses import IPNetwork
from shadowmesh.model.errors import ShadowMeshError

log = structlog.get_logger(__name__)

_SETTLE = 0.1  # seconds in which changes are gathered
NAME = "shadowmesh"  # overlay interfaces are named so, with a number


class HostNet:
    """`underlay_changed` is called when the host's own addresses changed. Calls take a few milliseconds, and are rare."""

    def __init__(self, underlay_changed: Callable[[], None]) -> None:
        self._underlay_changed = underlay_changed
        self._host = HostNetwork()
        self._wanted: dict[str, Interface] = {}
        self._watcher: HostWatcher | None = None
        self._look: asyncio.TimerHandle | None = None
        self._addresses: list[IPv4Interface | IPv6Interface] = []

    def start(self) -> None:
        """Removes what a crash may have left behind, and begins to watch."""
        for leftover in self._host.clean():
            log.info("left by an earlier run, removed", what=leftover)
        self._addresses = self._host.candidates()
        self._watcher = HostWatcher()
        asyncio.get_running_loop().add_reader(self._watcher.fileno(), self._readable)

    def stop(self) -> None:
        if self._watcher is not None:
            asyncio.get_running_loop().remove_reader(self._watcher.fileno())
            self._watcher.close()
        if self._look is not None:
            self._look.cancel()
        self._host.close()

    def configure(self, wanted: Interface) -> None:
        """Makes an interface so, and puts back what others take from it. Raises ShadowMeshError."""
        self._host.apply(wanted)
        self._wanted[wanted.name] = wanted

    def forget(self, interface: str) -> None:
        """The interface is about to go. Its addresses and routes go now: the pump may hold the device a moment longer."""
        self._wanted.pop(interface, None)
        with suppress(ShadowMeshError):
            self._host.undo(interface)

    def addresses(self) -> list[IPv4Interface | IPv6Interface]:
        """The host's own addresses, without those of overlays."""
        return list(self._addresses)

    def overlaps(self, subnet: IPNetwork, ignore: Collection[str]) -> list[tuple[str, IPNetwork]]:
        return self._host.find_overlaps(subnet, {"lo", *ignore})

    def _readable(self) -> None:
        assert self._watcher is not None
        if self._watcher.read() and self._look is None:
            self._look = asyncio.get_running_loop().call_later(_SETTLE, self._looked)

    def _looked(self) -> None:
        self._look = None
        for wanted in list(self._wanted.values()):
            with suppress(ShadowMeshError):  # the interface just went: its network is told by the pump
                for change in self._host.apply(wanted):
                    log.warning("put back what was taken", interface=wanted.name, what=change)
        addresses = self._host.candidates()
        if addresses != self._addresses:
            self._addresses = addresses
            self._underlay_changed()
