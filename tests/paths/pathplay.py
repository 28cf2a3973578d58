"""A playbook for one PeerPath: what is told to it, what it wants done, in virtual time."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.pump import Slot
from shadowmesh.paths.candidates import BoundSocket, HostView, PathKey
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import ALLOW_ALL, PathMoved, PathRoute, Policy, SendCallMeMaybe, SendPing

SLOT = Slot(1)
VIEW = HostView(HostAddresses((ipaddress.IPv4Interface("192.168.1.5/24"),)), (SockAddr("203.0.113.1", 4000),))


class Play:
    """Drives a path; keeps what it did, sorted by sort."""

    def __init__(self, policy: Policy = ALLOW_ALL) -> None:
        self.now = 1000.0
        self.path = PeerPath(random.Random(1), VIEW, [BoundSocket(SLOT, 4000)], policy)
        self.path.set_relay(True, self.now)
        self.pings: list[tuple[float, SendPing]] = []
        self.calls: list[tuple[float, bool]] = []
        self.routes: list[tuple[float, PathRoute]] = []
        self.moves: list[tuple[float, PathMoved]] = []
        self.answer: Callable[[SendPing], bool] = lambda ping: False
        self.round_trip = 0.05
        self.collect()

    def collect(self) -> None:
        for action in self.path.take():
            if isinstance(action, SendPing):
                self.pings.append((self.now, action))
            elif isinstance(action, SendCallMeMaybe):
                self.calls.append((self.now, action.ask))
            elif isinstance(action, PathRoute):
                self.routes.append((self.now, action))
            else:
                self.moves.append((self.now, action))

    def run(self, seconds: float, *, traffic: bool = False) -> None:
        """Time passes: deadlines are kept, pings that `answer` likes are answered after a round trip."""
        end = self.now + seconds
        answers: list[tuple[float, SendPing]] = []
        seen = len(self.pings)
        data = self.now
        while True:
            answers += [(at + self.round_trip, p) for at, p in self.pings[seen:] if self.answer(p)]
            seen = len(self.pings)
            due = min([self.path.deadline, *(at for at, _ in answers), data if traffic else end, end])
            if due >= end:
                self.now = end
                return
            self.now = max(self.now, due)
            if traffic and self.now >= data:
                self.path.traffic(self.now)
                data += 3.0
            for at, ping in [a for a in answers if a[0] <= self.now]:
                answers.remove((at, ping))
                self.path.pong_received(ping.path, ping.tx_id, self.now)
            self.path.tick(self.now)
            self.collect()

    def pinged(self, path: PathKey | None) -> list[float]:
        return [at for at, p in self.pings if p.path == path]
