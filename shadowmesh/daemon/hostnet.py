"""The host's network as the daemon sees it: interfaces kept as they shall be, changes of the underlay told.

What the kernel tells of is gathered for a moment, then looked at once, in the thread of `HostNetwork`: the event loop waits for no answer of
the kernel. How much is looked at depends on what the daemon uses (its interfaces, the addresses it talks to), not on the size of the host's
routing tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from typing import Final, TypeAlias

import structlog

from shadowmesh.daemon.outeraddresses import OuterAddresses
from shadowmesh.dataplane.resolver import nameservers
from shadowmesh.dataplane.tun import tun_name
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig, NextHop
from shadowmesh.host.namespaces import inside
from shadowmesh.host.rtnetlink import Change, Changed, HostWatcher
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.hostaddresses import HostAddresses

log = structlog.get_logger(__name__)

_SETTLE = 0.1  # seconds in which changes are gathered
_AFTER_FAILURE = 1.0  # seconds from a look that failed to the next
_SHARE = 4.0  # between two looks lie at least so many times what one takes
# Where only default routes lead: reserved by RFC 7526 and RFC 9637. Nothing is sent there.
_ELSEWHERE: Final = (ip_address("192.88.99.1"), ip_address("3fff::1"))
_WATCHED: Final = 64  # addresses whose next hops are looked up; more would tell nothing more


@dataclass(frozen=True, slots=True)
class UnderlayChanged:
    """The host's own addresses changed (`moved`), or only its ways to others."""

    moved: bool


@dataclass(frozen=True, slots=True)
class InterfaceGone:
    """The device of this descriptor was deleted, or taken elsewhere; it is to be forgotten and made anew."""

    fd: int


@dataclass(frozen=True, slots=True)
class InterfaceChanged:
    """The device of this descriptor is called `name`. `trouble`: a sentence about what doesn't work, `overlap`: an interface whose own network
    covers one of the overlay's, and that network."""

    fd: int
    name: str
    trouble: str | None = None
    overlap: tuple[str, IPNetwork] | None = None


@dataclass(frozen=True, slots=True)
class HostSettled:
    """Something on the host changed, and was looked at: what failed before may work now."""


HostEvent: TypeAlias = UnderlayChanged | InterfaceGone | InterfaceChanged | HostSettled


@dataclass(slots=True)
class _Kept:
    wanted: InterfaceConfig
    told: InterfaceChanged


@dataclass(slots=True)
class _Look:
    """What one look found, by descriptor."""

    names: dict[int, str | None] = field(default_factory=dict)
    changed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    trouble: dict[int, str] = field(default_factory=dict)
    overlap: dict[int, tuple[str, IPNetwork]] = field(default_factory=dict)
    addresses: HostAddresses = field(default_factory=HostAddresses)
    next_hops: dict[IPAddress, NextHop | None] = field(default_factory=dict)
    took: float = 0.0


class HostNet:
    """Tells `on_event` of what happens. Calls take a few milliseconds, and are rare."""

    def __init__(
        self,
        on_event: Callable[[HostEvent], None],
        is_member: Callable[[IPAddress], bool],
        netns: str | None = None,
    ) -> None:
        """`is_member`: whether an address is a member's in a network that is up. `netns`: the network namespace that is
        looked after, None for the daemon's own."""
        self._netns = netns
        self._on_event = on_event
        self.warnings: list[str] = []  # for people, of what is wrong with this host
        self._host = HostNetwork(netns=netns)
        self._kept: dict[int, _Kept] = {}
        self._outer = OuterAddresses(is_member)
        self._watcher: HostWatcher | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self._failure: str | None = None  # of the last look
        self._pause = _SETTLE
        self._addresses = HostAddresses()
        self._next_hops: dict[IPAddress, NextHop | None] = {}

    def start(self) -> None:
        """Removes what a crash may have left behind, and begins to watch. Raises ShadowMeshError."""
        for leftover in self._host.clean():
            log.info("left by an earlier run, removed", what=leftover)
        self.warnings = self._host.conflicts()
        for conflict in self.warnings:
            log.warning("marks conflict", what=conflict)
        self._next_hops = self._host.next_hops(_ELSEWHERE)
        self._addresses = self._host.underlay((), _interfaces(self._next_hops))
        self._outer.hold("resolver", nameservers())
        self._watcher = inside(self._netns, HostWatcher)
        asyncio.get_running_loop().add_reader(self._watcher.fileno(), self._readable)

    def stop(self) -> None:
        if self._watcher is not None:
            asyncio.get_running_loop().remove_reader(self._watcher.fileno())
            self._watcher.close()
            self._watcher = None
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        self._host.close()

    def gateway(self) -> tuple[IPv4Address, IPv4Address] | None:
        """The next hop to the internet by IPv4, and this host's address towards it; None without one."""
        hop = self._next_hops.get(_ELSEWHERE[0])
        if hop is None or hop.gateway is None or hop.source is None:
            return None
        gateway, source = ip_address(hop.gateway), ip_address(hop.source)
        return (gateway, source) if isinstance(gateway, IPv4Address) and isinstance(source, IPv4Address) else None

    # interfaces

    def configure(self, fd: int, wanted: InterfaceConfig) -> None:
        """Makes the interface of this TUN descriptor so, and puts back what others take from it. Raises ShadowMeshError."""
        wanted = self._clipped(wanted)
        applied = self._host.apply(wanted)
        trouble = "; ".join(applied.failed.values()) or None
        self._kept[fd] = _Kept(wanted, InterfaceChanged(fd, wanted.name))
        self._tell(fd, InterfaceChanged(fd, wanted.name, trouble))

    def forget(self, fd: int) -> None:
        """The interface is about to go. Its addresses and routes go now: the pump may hold the device a moment longer."""
        kept = self._kept.pop(fd, None)
        if kept is not None:
            with suppress(ShadowMeshError):
                self._host.undo(kept.wanted.name)

    def _clipped(self, wanted: InterfaceConfig) -> InterfaceConfig:
        inside = {a for a in self._outer.around() if any(a in n for n in wanted.routes) and a not in wanted.addresses}
        return replace(wanted, around=frozenset(inside))

    # the underlay

    def addresses(self) -> HostAddresses:
        """The host's own addresses, without those of overlays."""
        return self._addresses

    def overlaps(self, subnet: IPNetwork, ignore: Collection[str]) -> list[tuple[str, IPNetwork]]:
        return self._host.find_overlaps(subnet, {"lo", *ignore})

    def outer_within(self, subnet: IPNetwork) -> list[IPAddress]:
        """Addresses inside `subnet` that this host needs outside the overlays."""
        return sorted(a for a in self._outer.held() if a.version == subnet.version and a in subnet)

    def hold_outer(self, owner: Hashable, addresses: Iterable[IPAddress]) -> None:
        """No overlay's route leads to these, until `owner` holds others, or none."""
        if self._outer.hold(owner, addresses):
            self._outer_changed()

    def members_changed(self) -> None:
        """Other addresses are members' now, which are not routed around."""
        if any(self._clipped(kept.wanted) != kept.wanted for kept in self._kept.values()):
            self._outer_changed()

    def reaching(self, address: IPAddress) -> None:
        """Something connects to this address outside the overlays: no overlay's route leads there for the next minutes."""
        if self._outer.sent_to(address, time.clock_gettime(time.CLOCK_BOOTTIME)) and any(
            address in n for kept in self._kept.values() for n in kept.wanted.routes if n.version == address.version
        ):
            self._outer_changed()

    def _outer_changed(self) -> None:
        if self._watcher is not None:
            self._look_in(0.0)

    # looking

    def _readable(self) -> None:
        assert self._watcher is not None
        if any(map(self._matters, self._watcher.read())):
            self._look_in(self._pause)

    def _matters(self, change: Change) -> bool:
        """Whether there is something to look at: our own doings are, when somebody undoes them."""
        return change.what in (Changed.LINK, Changed.UNKNOWN) or change.lost or not change.ours

    def _look_in(self, seconds: float) -> None:
        if self._looking is not None:
            self._again = True
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._start_looking)

    def _start_looking(self) -> None:
        self._timer = None
        self._looking = asyncio.create_task(self._look(), name="host's network")

    async def _look(self) -> None:
        for interface in self._kept.values():
            interface.wanted = self._clipped(interface.wanted)
        kept, wanted = dict(self._kept), {fd: kept.wanted for fd, kept in self._kept.items()}
        watched = [*_ELSEWHERE, *sorted(self._outer.held(), key=str), *self._outer.around()]
        watched = list(dict.fromkeys(watched))[:_WATCHED]
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._host.thread, _look, self._host, wanted, watched
            )
        except Exception as e:  # whatever the kernel or pyroute2 come up with: the next look may succeed
            if str(e) != self._failure:
                log.warning("the host's network can't be looked at", why=str(e), kind=type(e).__name__)
            self._failure, self._looking, self._again = str(e), None, False
            self._look_in(_AFTER_FAILURE)
            return
        self._failure = self._looking = None
        self._pause = max(_SETTLE, _SHARE * found.took)
        self._looked(found, kept)
        if self._again:
            self._again = False
            self._look_in(self._pause)

    def _looked(self, found: _Look, looked_at: dict[int, _Kept]) -> None:
        for fd, name in found.names.items():
            kept = self._kept.get(fd)
            if kept is None:
                continue  # forgotten meanwhile
            if kept is not looked_at[fd]:  # configured anew, or another device that got this number
                self._again = True
                continue
            if name is None:
                log.warning("interface gone", interface=kept.wanted.name)
                self._on_event(InterfaceGone(fd))
                continue
            if name != kept.wanted.name:
                log.warning("interface renamed", old=kept.wanted.name, new=name)
                kept.wanted = replace(kept.wanted, name=name)
            for change in found.changed.get(fd, ()):
                log.warning("put back what was taken", interface=name, what=change)
            self._tell(fd, InterfaceChanged(fd, name, found.trouble.get(fd), found.overlap.get(fd)))
        routes_changed = any(self._next_hops[a] != hop for a, hop in found.next_hops.items() if a in self._next_hops)
        addresses_changed = found.addresses != self._addresses
        self._addresses, self._next_hops = found.addresses, found.next_hops
        if routes_changed or addresses_changed:
            self._outer.hold("resolver", nameservers())
            self._on_event(UnderlayChanged(moved=addresses_changed))
        self._on_event(HostSettled())

    def _tell(self, fd: int, news: InterfaceChanged) -> None:
        kept = self._kept.get(fd)
        if kept is not None and kept.told != news:
            kept.told = news
            self._on_event(news)


def _interfaces(next_hops: dict[IPAddress, NextHop | None]) -> set[int]:
    return {hop.interface for hop in next_hops.values() if hop is not None}


def _look(host: HostNetwork, wanted: dict[int, InterfaceConfig], watched: list[IPAddress]) -> _Look:
    """In the thread of `host`. Raises ShadowMeshError where nothing at all can be seen."""
    began = time.monotonic()
    found = _Look()
    for fd, interface in wanted.items():
        name = tun_name(fd)
        found.names[fd] = name if name is not None and host.is_here(name, interface.name) else None
    own = {name for name in found.names.values() if name is not None}
    lans = host.lans(own)
    for fd, interface in wanted.items():
        name = found.names[fd]
        if name is None:
            continue
        for lan_name, lan in lans:
            if any(lan.version == n.version and lan.overlaps(n) for n in interface.routes):
                found.overlap[fd] = lan_name, lan
        covered = [n for n in interface.routes if any(lan.version == n.version and n.subnet_of(lan) for _, lan in lans)]  # type: ignore[arg-type]
        routes = tuple(n for n in interface.routes if n not in covered)
        try:
            applied = host.apply(replace(interface, name=name, routes=routes))
        except ShadowMeshError as e:
            found.trouble[fd] = str(e)
            continue
        found.changed[fd] = applied.changed
        if applied.failed:
            found.trouble[fd] = "; ".join(applied.failed.values())
    found.next_hops = host.next_hops(watched)
    found.addresses = host.underlay(own, _interfaces(found.next_hops))
    found.took = time.monotonic() - began
    return found
