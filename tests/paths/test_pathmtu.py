"""Which size gets through a way, found by probes alone."""

from __future__ import annotations

from math import inf

import pytest
from pathplay import SLOT, Play

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import INNER_MTU
from shadowmesh.paths.candidates import Candidate, CandidateKind, PathKey
from shadowmesh.paths.pathmtu import SIZES, PathMtu

RTT = 0.05


class Way:
    """A path that carries inner packets up to `mtu`, in virtual time."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self.now = 1000.0
        self.state = PathMtu()
        self.sent: list[tuple[float, int]] = []
        self.lose: int = 0  # so many of the next probes are lost anyway

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        answers: list[tuple[float, int]] = []
        while True:
            due = min([self.state.deadline, *(at for at, _ in answers)])
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for at, size in [a for a in answers if a[0] <= self.now]:
                answers.remove((at, size))
                self.state.answered(size, self.now)
            for size in self.state.tick(self.now, RTT):
                self.sent.append((self.now, size))
                if self.lose:
                    self.lose -= 1
                elif size <= self.mtu:
                    answers.append((self.now + RTT, size))


def test_a_path_that_carries_all_costs_one_probe() -> None:
    way = Way(INNER_MTU)
    way.state.start(way.now)
    way.run(1000.0)
    assert way.sent == [(1000.0, INNER_MTU)]
    assert way.state.limit is None and way.state.deadline == inf


@pytest.mark.parametrize("mtu", [1375, *SIZES, 1330, 1201])
def test_the_largest_size_is_known_within_two_seconds(mtu: int) -> None:
    way = Way(mtu)
    way.state.start(way.now)
    way.run(2.0)
    assert way.state.limit == max(s for s in SIZES if s <= mtu)


def test_a_lost_probe_doesnt_make_a_path_narrow() -> None:
    way = Way(INNER_MTU)
    way.lose = 2
    way.state.start(way.now)
    way.run(5.0)
    assert way.state.limit is None and {size for _, size in way.sent} == {INNER_MTU}


def test_a_path_that_narrows_under_long_packets_is_found_out_within_two_seconds() -> None:
    way = Way(INNER_MTU)
    way.state.start(way.now)
    way.run(10.0)
    way.mtu = 1270
    way.state.confirm(way.now)
    way.run(2.0)
    assert way.state.limit == 1260
    way.mtu = 1199
    way.state.confirm(way.now)
    way.run(2.0)
    assert way.state.limit == 1156


def test_a_path_that_widens_is_used_again() -> None:
    way = Way(1200)
    way.state.start(way.now)
    way.run(2.0)
    way.mtu = 1345
    way.run(15.0)
    assert way.state.limit == 1340
    way.mtu = INNER_MTU
    way.run(70.0)
    assert way.state.limit is None


def test_confirming_what_is_used_doesnt_put_off_trying_for_more() -> None:
    way = Way(1200)
    way.state.start(way.now)
    way.run(2.0)
    way.mtu = INNER_MTU
    for _ in range(5):
        way.run(3.0)
        way.state.confirm(way.now)
    assert way.state.limit is None


def test_looking_for_more_never_takes_what_there_is() -> None:
    way = Way(1300)
    way.state.start(way.now)
    way.run(2.0)
    for _ in range(2000):
        way.run(1.0)
        assert way.state.limit == 1280


def test_nothing_is_concluded_where_nothing_answers() -> None:
    way = Way(0)
    way.state.start(way.now)
    way.run(60.0)
    assert way.state.limit is None and way.state.found is None
    assert len(way.sent) <= 3 + 2 * len(SIZES)


def test_of_two_paths_alike_the_wider_one_is_used() -> None:
    play = Play()
    narrow, wide = (SockAddr(f"203.0.113.{n}", 4500) for n in (7, 8))
    play.answer = lambda ping: ping.path is not None and ping.mtu <= (1200 if ping.path.remote == narrow else INNER_MTU)
    play.path.call_received([Candidate(a, CandidateKind.HOST) for a in (narrow, wide)], True, play.now)
    play.path.session_up(play.now)
    play.run(10.0, traffic=True)
    assert play.path.route.primary == PathKey(SLOT, wide) and play.path.mtu is None
    play.run(100.0, traffic=True)
    assert play.path.route.primary == PathKey(SLOT, wide)


def test_a_narrow_path_is_better_than_none() -> None:
    play = Play()
    only = SockAddr("203.0.113.7", 4500)
    play.answer = lambda ping: ping.path is not None and ping.mtu <= 1200
    play.path.call_received([Candidate(only, CandidateKind.HOST)], True, play.now)
    play.path.session_up(play.now)
    play.run(10.0, traffic=True)
    assert play.path.route.primary == PathKey(SLOT, only) and play.path.mtu == 1200
