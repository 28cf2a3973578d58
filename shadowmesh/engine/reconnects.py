"""Handshakes with the peers that were talked with before a restart, or before a network was down.

Sessions end with the pump that has their keys, and with their network. A peer doesn't know that and goes on with its own
for many seconds; a new handshake from here ends that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import inf

from shadowmesh.engine.events import RecentPeer
from shadowmesh.engine.outbox import Outbox
from shadowmesh.model.clock import Now
from shadowmesh.model.keys import NetworkID

INTERVAL = 1 / 50  # seconds between two handshakes


class Reconnects:
    """In the order given, paced."""

    def __init__(self, outbox: Outbox, connect: Callable[[RecentPeer, Now], None]) -> None:
        self.queued_at = inf
        self._outbox = outbox
        self._connect = connect
        self._waiting: deque[RecentPeer] = deque()
        self._next_at = inf

    def start(self, peers: Iterable[RecentPeer], now: Now) -> None:
        """Their network has its map."""
        self._waiting.extend(peers)
        if self._waiting:
            self._next_at = min(self._next_at, now.boot)
            self._outbox.schedule(self)

    def drop(self, network: NetworkID) -> None:
        """Nobody of this network is called any more."""
        self._waiting = deque(peer for peer in self._waiting if peer.network_id != network)
        if not self._waiting:
            self._next_at = inf
            self._outbox.timers.cancel(self)

    def deadline(self) -> float:
        return self._next_at

    def on_timer(self, now: Now) -> None:
        self._connect(self._waiting.popleft(), now)
        self._next_at = now.boot + INTERVAL if self._waiting else inf
