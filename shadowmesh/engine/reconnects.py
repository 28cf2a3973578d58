"""Handshakes with the peers that were talked with before a restart.

Sessions end with the pump that has their keys. A peer doesn't know that and goes on with its own for many seconds; a new
handshake from here ends that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from shadowmesh.engine.events import RecentPeer
from shadowmesh.engine.outbox import Outbox
from shadowmesh.model.clock import Now

INTERVAL = 1 / 50  # seconds between two handshakes after the start
PATIENCE = 30.0  # seconds after the start for which a network's map is awaited


class Reconnects:
    """In the order given, paced. `connect` returns False while the peer's network has no map."""

    def __init__(self, outbox: Outbox, connect: Callable[[RecentPeer, Now], bool]) -> None:
        self.queued_at = inf
        self._outbox = outbox
        self._connect = connect
        self._waiting: deque[RecentPeer] = deque()
        self._next_at = inf
        self._ends_at = -inf

    def start(self, peers: Sequence[RecentPeer], now: Now) -> None:
        self._waiting.extend(peers)
        self._ends_at = now.boot + PATIENCE
        self.map_came(now)

    def map_came(self, now: Now) -> None:
        """A network may be ready now."""
        if self._waiting:
            self._next_at = min(self._next_at, now.boot)
            self._outbox.schedule(self)

    def deadline(self) -> float:
        return self._next_at

    def on_timer(self, now: Now) -> None:
        self._next_at = inf
        if now.boot > self._ends_at:
            self._waiting.clear()
        for _ in range(len(self._waiting)):
            peer = self._waiting.popleft()
            if self._connect(peer, now):
                break
            self._waiting.append(peer)
        else:
            return  # none can be reached yet; a map will come
        if self._waiting:
            self._next_at = now.boot + INTERVAL
