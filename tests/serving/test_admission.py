"""Who may stay when there is no room for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shadowmesh.serving.admission import Accepted, Admission
from shadowmesh.serving.rarelog import RareLog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Iterator[Admission]:
    made = Admission(10_000, RareLog("test", clock), clock)
    made.most_unproven, made.most_of_source = 12, 9
    yield made
    made.close()


class Crowd:
    """Sockets that were never connected, which is enough to be counted."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.port = 1

    def come(self, source: str) -> Accepted:
        connection = Accepted()
        connection.admission, connection.source, connection.peer = None, source, (source, self.port)
        self.port += 1
        assert self.admission.enter(connection)
        return connection

    def still(self, *connections: Accepted) -> int:
        return sum(connection.peer in self.admission._unproven for connection in connections)


def test_the_longest_inactive_makes_room(admission: Admission, clock: Clock) -> None:
    crowd = Crowd(admission)
    strangers = [crowd.come(f"stranger {n % 6}") for n in range(12)]
    clock.now += 3
    site = [crowd.come("a site") for _ in range(9)]
    assert crowd.still(*site) == 9 and crowd.still(*strangers) == 3
    assert admission.unproven == 12


def test_where_all_are_young_each_source_has_its_share(admission: Admission) -> None:
    crowd = Crowd(admission)
    honest = [crowd.come("ann"), crowd.come("ben")]
    for _ in range(500):
        crowd.come("a stranger")
    assert crowd.still(*honest) == 2
    assert admission.unproven <= 12


def test_one_source_never_has_all(admission: Admission, clock: Clock) -> None:
    crowd = Crowd(admission)
    for _ in range(50):
        clock.now += 3
        crowd.come("a stranger")
    assert admission.unproven == 9


def test_who_is_known_or_active_stays(admission: Admission, clock: Clock) -> None:
    crowd = Crowd(admission)
    link, request = crowd.come("a"), crowd.come("a")
    admission.proven(link.peer)
    for _ in range(100):
        clock.now += 1
        admission.active(request.peer)
        crowd.come("stranger")
    assert crowd.still(request) == 1 and link.admission is admission
    assert crowd.still(link) == 0, "it isn't among those that may have to go"
    admission.proven(link.peer), admission.active(("nobody", 1)), admission.proven(None)  # nothing happens


def test_what_is_closed_is_counted_no_longer(admission: Admission) -> None:
    crowd = Crowd(admission)
    held = [crowd.come("a") for _ in range(5)]
    admission.proven(held[0].peer)
    for connection in held:
        connection.close()
        connection.close()
    assert (admission.held, admission.unproven, admission._by_source) == (0, 0, {})


def test_when_all_that_may_be_held_are_known_newcomers_are_refused(admission: Admission) -> None:
    crowd = Crowd(admission)
    admission.most = 3
    for _ in range(3):
        admission.proven(crowd.come("a").peer)
    late = Accepted()
    late.admission, late.source, late.peer = None, "b", ("b", 1)
    assert not admission.enter(late)
    assert admission.held == 3
