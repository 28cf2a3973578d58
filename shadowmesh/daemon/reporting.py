"""Sends controllers the reports of this device's connections: when they are due, where the network's map asks for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from math import inf

from shadowmesh.daemon.healthreports import EVERY, NetworkReports, View
from shadowmesh.daemon.mesh import Mesh
from shadowmesh.daemon.network import Network
from shadowmesh.engine import PathChanged
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Health
from shadowmesh.model.keys import NetworkID

_MODES = ("health", "full")  # one that a newer controller knows asks for nothing that we could know of


class Reporting:
    """One per daemon. `send` returns False while the network's controller isn't connected."""

    def __init__(
        self,
        clock: Callable[[], Now],
        mesh: Mesh,
        networks: Mapping[NetworkID, Network],
        send: Callable[[NetworkID, Health], bool],
    ) -> None:
        self._clock = clock
        self._mesh = mesh
        self._networks = networks
        self._send = send
        self._reports: dict[NetworkID, NetworkReports] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._set_timer()

    def connected(self, network: Network) -> None:
        """On a new connection the controller knows of nothing."""
        self._of(network).connected(self._clock().boot, random.uniform(0, EVERY))  # noqa: S311 - no secret
        self._set_timer()

    def changed(self, event: PathChanged) -> None:
        network = self._networks.get(event.network_id)
        if network is not None and _wanted(network):
            self._of(network).changed(event)
            self._set_timer()

    def forget(self, network: Network) -> None:
        self._reports.pop(network.id, None)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reports.clear()

    def _of(self, network: Network) -> NetworkReports:
        return self._reports.setdefault(network.id, NetworkReports(network.id))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        connected = [r.due() for network, r in self._reports.items() if self._networks[network].connected]
        wait = min(connected, default=inf) - self._clock().boot
        self._timer = asyncio.get_running_loop().call_later(min(max(wait, 0.0), EVERY), self._look)

    def _look(self) -> None:
        now = self._clock()
        for network in self._networks.values():
            if not _wanted(network):
                self._reports.pop(network.id, None)
            elif network.connected and self._of(network).due() <= now.boot:
                self._report(network, now)
        self._set_timer()

    def _report(self, network: Network, now: Now) -> None:
        assert network.map is not None
        reports, node = self._of(network), self._mesh.node
        peers = [] if network.interface is None else node.spoken_to(network.id, now)
        view = View(node.nat, node.capabilities, peers, bytes_too=network.map.head.reports == "full")
        health = reports.make(view, now.boot)
        if health is not None and self._send(network.id, health):
            reports.sent(health, now.boot)


def _wanted(network: Network) -> bool:
    return network.map is not None and network.map.head.reports in _MODES
