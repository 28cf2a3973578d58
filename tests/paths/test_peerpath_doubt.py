"""What a path does in doubt, and what it says of NATs that can't be punched before it has tried."""

from __future__ import annotations

import random
from ipaddress import IPv4Interface

import pytest

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.pump import Slot
from shadowmesh.model.reasons import Reason
from shadowmesh.paths.candidates import BoundSocket, Candidate, CandidateKind, HostView, PathKey
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import RETRY, RETRY_JITTER, RETRY_LOST, TRUST, WORRY, PathRoute, Policy, SendPing

SOCKETS = (BoundSocket(Slot(0), 41000),)
HOME = (IPv4Interface("192.168.1.9/24"),)
LAN = Candidate(SockAddr("192.168.7.9", 40000), CandidateKind.HOST)
PUBLIC = Candidate(SockAddr("198.51.100.1", 40000), CandidateKind.REFLEXIVE)
OTHER_PORT = Candidate(SockAddr("198.51.100.1", 40001), CandidateKind.REFLEXIVE)
CONE, SYMMETRIC, CLOSED = (LAN, PUBLIC), (LAN, PUBLIC, OTHER_PORT), (LAN,)
VIA = PathKey(Slot(0), PUBLIC.addr)


def path(*, symmetric: bool = False, filters_ports: bool = False) -> PeerPath:
    """A path with traffic since second 0, and a relay."""
    made = PeerPath(
        random.Random(1), HostView(HostAddresses(HOME), symmetric=symmetric, filters_ports=filters_ports), SOCKETS
    )
    made.set_relay(True, 0.0)
    made.traffic(0.0)
    return made


def run(subject: PeerPath, start: float, end: float, *, answers: bool) -> dict[PathRoute, float]:
    """Lets time pass under traffic; the other side answers direct pings or is silent. Returns new routes by their time."""
    routes: dict[PathRoute, float] = {}
    now = start
    while now < end:
        subject.traffic(now)
        subject.tick(now)
        for action in subject.take():
            if isinstance(action, SendPing) and answers and action.path == VIA:
                subject.pong_received(VIA, action.tx_id, now)
            elif isinstance(action, PathRoute):
                routes.setdefault(action, now)
        now += 0.05
    return routes


def test_a_path_in_doubt_is_doubled_by_the_relay_long_before_it_is_given_up() -> None:
    subject = path()
    subject.call_received(CONE, False, 0.0)
    run(subject, 0.1, 20.0, answers=True)
    assert subject.route == PathRoute(VIA, None)
    routes = run(subject, 20.0, 30.0, answers=False)
    assert routes[PathRoute(VIA, "relay")] - 20.0 <= 3.0 + WORRY + 0.5
    assert routes[PathRoute("relay", VIA)] - 20.0 <= TRUST + 0.1


@pytest.mark.parametrize("phase", [0.1, 1.0, 1.4, 1.6, 2.9])
def test_beats_that_join_others_never_prolong_the_trust(phase: float) -> None:
    subject = path()
    subject.call_received(CONE, False, 0.0)
    run(subject, 0.1, 10.0, answers=True)
    last = next(p.pong_at for p in subject.probes.values() if p.path == VIA)
    now = last + phase
    run(subject, last, now, answers=False)
    subject.beat_along(now)
    routes = run(subject, now, last + 9.0, answers=False)
    assert routes[PathRoute("relay", VIA)] - last <= TRUST + 0.1


def test_a_pong_ends_the_doubt() -> None:
    subject = path()
    subject.call_received(CONE, False, 0.0)
    run(subject, 0.1, 20.0, answers=True)
    now = 20.0
    while subject.route == PathRoute(VIA, None):
        run(subject, now, now + 0.05, answers=False)
        now += 0.05
    assert subject.route == PathRoute(VIA, "relay")
    run(subject, now, now + 0.5, answers=True)
    assert subject.route == PathRoute(VIA, None)


def test_a_lost_path_is_tried_again_sooner_than_one_that_never_was() -> None:
    subject = path()
    subject.call_received(CONE, False, 0.0)
    run(subject, 0.1, 20.0, answers=True)
    run(subject, 20.0, 40.0, answers=False)
    assert not subject.checking
    assert subject.next_try - 40.0 <= RETRY_LOST * (1 + RETRY_JITTER / RETRY)
    never = path()
    never.call_received(CONE, False, 0.0)
    run(never, 0.1, 13.0, answers=False)
    assert never.next_try - 13.0 > RETRY - RETRY_JITTER - 2


@pytest.mark.parametrize(
    ("symmetric", "filters_ports", "remote", "remote_filters", "reason"),
    [
        (True, False, SYMMETRIC, False, Reason.RELAY_BOTH_SYMMETRIC),
        (True, False, CONE, True, Reason.RELAY_SYMMETRIC_PORT_RESTRICTED),
        (False, True, SYMMETRIC, False, Reason.RELAY_SYMMETRIC_PORT_RESTRICTED),
        (False, False, CLOSED, False, Reason.RELAY_UDP_BLOCKED),
        (True, False, CONE, False, Reason.RELAY_UPGRADING),
        (False, False, SYMMETRIC, False, Reason.RELAY_UPGRADING),
        (False, True, CONE, True, Reason.RELAY_UPGRADING),
    ],
)
def test_nats_that_cant_be_punched_are_named_at_once(
    symmetric: bool, filters_ports: bool, remote: tuple[Candidate, ...], remote_filters: bool, reason: Reason
) -> None:
    subject = path(symmetric=symmetric, filters_ports=filters_ports)
    assert subject.reason is Reason.RELAY_UPGRADING
    subject.call_received(remote, False, 0.01, filters_ports=remote_filters, udp_blocked=remote is CLOSED)
    assert subject.checking  # it tries all the same
    assert subject.reason is reason


@pytest.mark.parametrize(
    "open_way",
    [
        Candidate(SockAddr("2001:db8::1", 40000), CandidateKind.IPV6),
        Candidate(SockAddr("198.51.100.1", 5000), CandidateKind.MAPPED),
        Candidate(SockAddr("203.0.113.5", 40000), CandidateKind.HOST),
        Candidate(SockAddr("192.168.1.77", 40000), CandidateKind.HOST),
    ],
    ids=["ipv6", "mapped", "public", "own LAN"],
)
def test_nothing_is_final_while_there_is_an_open_way(open_way: Candidate) -> None:
    subject = path(symmetric=True)
    subject.call_received((*SYMMETRIC, open_way), False, 0.01)
    assert subject.reason is Reason.RELAY_UPGRADING
    run(subject, 0.1, 13.0, answers=False)
    assert subject.reason is Reason.RELAY_BOTH_SYMMETRIC


def test_who_finds_its_udp_blocked_stops_trying_and_says_so() -> None:
    subject = path()
    public = Candidate(SockAddr("203.0.113.5", 40000), CandidateKind.HOST)
    subject.call_received((public,), False, 0.01)
    assert subject.reason is Reason.RELAY_UPGRADING
    subject.set_policy(Policy(udp=False), 1.0)
    assert not subject.checking
    assert subject.reason is Reason.RELAY_UDP_BLOCKED
    subject.set_policy(Policy(udp=True), 2.0)
    assert subject.checking
    assert subject.reason is Reason.RELAY_UPGRADING


def test_neighbours_meet_on_their_lan_though_no_udp_gets_out_of_it() -> None:
    subject = path()
    neighbour = Candidate(SockAddr("192.168.1.77", 40000), CandidateKind.HOST)
    subject.set_policy(Policy(udp=False), 0.0)
    subject.call_received((neighbour,), False, 0.1)
    pings = [a for a in subject.take() if isinstance(a, SendPing) and a.path is not None]
    (ping,) = pings
    assert ping.path is not None
    subject.pong_received(ping.path, ping.tx_id, 0.11)
    assert subject.reason is Reason.DIRECT_LAN
