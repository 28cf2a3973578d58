"""Tells the controllers of large networks whom this machine talks to: of these it then hears the presence.

Gathered for a moment, and at most once a second for each network, since the message names all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from shadowmesh.daemon.network import Network
from shadowmesh.model.devicelink import PRESENCE_OF_ALL, Watch
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID

_GATHER = 0.05  # seconds
_AGAIN = 1.0


@dataclass(slots=True)
class _Watched:
    peers: set[ClientID] = field(default_factory=set)  # all that were active
    told: tuple[ClientID, ...] | None = None  # what the controller knows on this connection
    told_at: float = -_AGAIN  # by the loop's clock
    timer: asyncio.TimerHandle | None = None


class Watching:
    """One per daemon. `send` returns False while the network's controller isn't connected."""

    def __init__(self, send: Callable[[NetworkID, Watch], bool]) -> None:
        self._send = send
        self._networks: dict[NetworkID, _Watched] = {}

    def active(self, network: Network, client_id: ClientID) -> None:
        """A member is spoken to."""
        self._of(network).peers.add(client_id)
        self._soon(network)

    def connected(self, network: Network) -> None:
        """On a new connection the controller knows of nobody."""
        self._of(network).told = None
        self._soon(network)

    def map_changed(self, network: Network) -> None:
        """The network may have become a large one."""
        if self._of(network).told is None:
            self._soon(network)

    def forget(self, network: Network) -> None:
        watched = self._networks.pop(network.id, None)
        if watched is not None and watched.timer is not None:
            watched.timer.cancel()

    def stop(self) -> None:
        for watched in self._networks.values():
            if watched.timer is not None:
                watched.timer.cancel()
        self._networks.clear()

    def _of(self, network: Network) -> _Watched:
        return self._networks.setdefault(network.id, _Watched())

    def _soon(self, network: Network) -> None:
        watched = self._of(network)
        if watched.timer is None and network.map is not None and len(network.map.ids) > PRESENCE_OF_ALL:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + _GATHER, watched.told_at + _AGAIN)
            watched.timer = loop.call_at(at, self._tell, network)

    def _tell(self, network: Network) -> None:
        watched = self._of(network)
        watched.timer = None
        if network.map is None:
            return
        watched.peers &= network.map.entries.keys()
        peers = tuple(sorted(watched.peers))
        if peers != watched.told and self._send(network.id, Watch(network_id=network.id, peers=peers)):
            watched.told, watched.told_at = peers, asyncio.get_running_loop().time()
