"""Two sides of one path: one's heartbeats prove it for both, and a hole in either direction is seen by both in time."""

import random
from math import inf

import pytest

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import Slot
from shadowmesh.paths.candidates import BoundSocket, Candidate, CandidateKind, HostView, PathKey
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import HEARTBEAT, MEASURE, TRUST, WORRY, PathRoute, SendPing

SLOT = Slot(1)
ADDR = {"a": SockAddr("192.0.2.1", 1000), "b": SockAddr("198.51.100.1", 2000)}
WAY = {"a": PathKey(SLOT, ADDR["b"]), "b": PathKey(SLOT, ADDR["a"])}
OTHER = {"a": "b", "b": "a"}
STEP = 0.02


class Pair:
    """Two PeerPaths under traffic; a datagram takes one step, unless its sender is in `muted`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.muted: set[str] = set()
        self.paths: dict[str, PeerPath] = {}
        self.pings = {"a": 0, "b": 0}
        self.routes: dict[str, dict[PathRoute, float]] = {"a": {}, "b": {}}
        for name in ("a", "b"):
            path = self.paths[name] = PeerPath(random.Random(name), HostView(), (BoundSocket(SLOT, 1000),))
            path.set_relay(True, 0.0)
            path.traffic(0.0)
            path.call_received([Candidate(ADDR[OTHER[name]], CandidateKind.REFLEXIVE)], False, 0.0)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for name, path in self.paths.items():
                path.traffic(self.now)
                path.tick(self.now)
                for action in path.take():
                    if isinstance(action, PathRoute):
                        self.routes[name].setdefault(action, self.now)
                    elif isinstance(action, SendPing) and action.path == WAY[name]:
                        self.pings[name] += 1
                        self._ping(name, action)

    def _ping(self, name: str, ping: SendPing) -> None:
        other = OTHER[name]
        if name in self.muted:
            return
        self.paths[other].ping_received(WAY[other], self.now, ping.heard)
        own_id = self.paths[other].pong_id(WAY[other], self.now)
        if other not in self.muted:
            self.paths[name].pong_received(WAY[name], ping.tx_id, self.now, own_id)


def settled() -> Pair:
    pair = Pair()
    pair.run(20.0)
    assert pair.paths["a"].route == PathRoute(WAY["a"], None)
    assert pair.paths["b"].route == PathRoute(WAY["b"], None)
    return pair


def test_one_ping_each_heartbeat_serves_both_sides_and_both_still_measure() -> None:
    pair = settled()
    pair.pings = {"a": 0, "b": 0}
    pair.run(10 * MEASURE)
    assert sum(pair.pings.values()) <= 1.25 * (10 * MEASURE / HEARTBEAT)
    assert min(pair.pings.values()) >= 9, "each side measures the round trip once in a while"


@pytest.mark.parametrize("muted", ["a", "b", "ab"])
@pytest.mark.parametrize("phase", [0.1, 0.8, 1.7, 2.6, 3.3])
def test_a_hole_in_either_direction_is_seen_by_both_sides_in_time(muted: str, phase: float) -> None:
    pair = settled()
    pair.run(phase)
    pair.routes = {"a": {}, "b": {}}
    began = pair.now
    pair.muted = set(muted)
    pair.run(10.0)
    for name in ("a", "b"):
        routes = pair.routes[name]
        assert routes.get(PathRoute(WAY[name], "relay"), inf) - began <= HEARTBEAT + 0.5 + WORRY + 0.5
        assert routes.get(PathRoute("relay", WAY[name]), inf) - began <= TRUST + 0.5


def test_a_confirmation_counts_once_and_only_for_the_path_in_use() -> None:
    pair = settled()
    b = pair.paths["b"]
    own_id = b.pong_id(WAY["b"], pair.now)
    assert b.pong_id(PathKey(SLOT, SockAddr("203.0.113.9", 9)), pair.now) == bytes(12)
    pair.muted = {"a", "b"}
    b.ping_received(WAY["b"], pair.now, own_id)
    silent_since = pair.now
    while pair.now < silent_since + 8.0:
        pair.run(STEP)
        b.ping_received(WAY["b"], pair.now, own_id)  # a replay of it proves nothing more
    assert pair.routes["b"][PathRoute("relay", WAY["b"])] - silent_since <= TRUST + 0.5
