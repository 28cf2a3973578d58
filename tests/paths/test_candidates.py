"""Candidates: what is told, what is paired, how it is judged."""

from __future__ import annotations

import ipaddress

import pytest

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.pump import Slot
from shadowmesh.model.reasons import Reason
from shadowmesh.paths.candidates import (
    MAX_CANDIDATES,
    BoundSocket,
    Candidate,
    CandidateKind,
    HostView,
    PathKey,
    Rank,
    gather,
    judge,
    looks_symmetric,
    obstacle,
    pair,
    reachable,
)
from shadowmesh.protocol import disco

V4, V6 = BoundSocket(Slot(1), 4000), BoundSocket(Slot(2), 4000, ipv6=True)
HOME = ipaddress.ip_interface("192.168.1.5/24")
GLOBAL = ipaddress.ip_interface("2001:db8::5/64")
PUBLIC = SockAddr("198.51.100.1", 4444)


def view(*interfaces: ipaddress.IPv4Interface | ipaddress.IPv6Interface, **more: object) -> HostView:
    return HostView(HostAddresses(interfaces), **more)  # type: ignore[arg-type]


def test_the_numbers_of_kinds_are_those_of_the_wire() -> None:
    assert {k.name: k.value for k in CandidateKind} == {k.name: k.value for k in disco.CandidateKind}


def test_hosts_and_reflexive_addresses_are_told_once_each() -> None:
    seen = gather(view(HOME, GLOBAL, reflexive=(PUBLIC, PUBLIC)), [V4, V6])
    assert set(seen) == {
        Candidate(SockAddr("192.168.1.5", 4000), CandidateKind.HOST),
        Candidate(SockAddr("2001:db8::5", 4000), CandidateKind.IPV6),
        Candidate(PUBLIC, CandidateKind.REFLEXIVE),
    }


def test_loopback_and_link_local_addresses_are_never_told() -> None:
    interfaces = [ipaddress.ip_interface(t) for t in ("127.0.0.1/8", "169.254.3.4/16", "fe80::1/64")]
    assert not gather(view(*interfaces), [V4, V6])


def test_a_host_with_many_addresses_tells_some() -> None:
    many = [ipaddress.ip_interface(f"10.0.{i}.1/24") for i in range(50)]
    assert len(gather(view(*many, reflexive=(PUBLIC,)), [V4])) == MAX_CANDIDATES


def test_pairs_keep_to_the_family_and_leave_out_oneself() -> None:
    remote = [
        Candidate(SockAddr("192.168.1.5", 4000), CandidateKind.HOST),  # numbered like us
        Candidate(PUBLIC, CandidateKind.REFLEXIVE),
        Candidate(SockAddr("2001:db8::9", 9), CandidateKind.IPV6),
    ]
    pairs = pair(view(HOME), [V4, V6], remote)
    assert pairs == [
        (PathKey(Slot(1), PUBLIC), CandidateKind.REFLEXIVE),
        (PathKey(Slot(2), SockAddr("2001:db8::9", 9)), CandidateKind.IPV6),
    ]


def test_judgement_of_paths() -> None:
    home = view(HOME, reflexive=(PUBLIC,))
    assert judge(home, SockAddr("192.168.1.9", 1), CandidateKind.HOST) == (Rank.LAN, Reason.DIRECT_LAN)
    assert judge(home, PUBLIC, CandidateKind.MAPPED) == (Rank.OPEN, Reason.DIRECT_MAPPED_PORT)
    assert judge(home, SockAddr("203.0.113.5", 1), CandidateKind.HOST) == (Rank.OPEN, Reason.DIRECT_PUBLIC)
    assert judge(home, SockAddr("203.0.113.5", 1), CandidateKind.REFLEXIVE) == (Rank.PUNCHED, Reason.DIRECT_PUNCHED)
    assert judge(home, SockAddr("203.0.113.5", 1), None) == (Rank.PUNCHED, Reason.DIRECT_PUNCHED)
    assert judge(home, SockAddr("2001:db8::9", 1), None) == (Rank.OPEN, Reason.DIRECT_IPV6)
    server = view(ipaddress.ip_interface("198.51.100.1/32"), reflexive=(PUBLIC,))
    assert judge(server, SockAddr("203.0.113.5", 1), None) == (Rank.OPEN, Reason.DIRECT_PUBLIC)


def test_a_symmetric_or_blocked_peer_is_seen_by_its_candidates() -> None:
    host = Candidate(SockAddr("192.168.7.7", 1), CandidateKind.HOST)
    first = Candidate(SockAddr("203.0.113.5", 1), CandidateKind.REFLEXIVE)
    second = Candidate(SockAddr("203.0.113.5", 2), CandidateKind.REFLEXIVE)
    assert looks_symmetric((host, first, second))
    assert not looks_symmetric((host, first))
    home = view(HOME, reflexive=(PUBLIC,))
    assert obstacle(home, (host,), False, True) == (Reason.RELAY_UDP_BLOCKED, True)
    assert obstacle(home, (host,), False, False) == (Reason.RELAY_NO_ANSWER, False), (
        "it has been told of no address yet"
    )


def test_two_behind_one_public_address_are_told_apart_from_those_that_just_do_not_answer() -> None:
    theirs = Candidate(SockAddr(PUBLIC.host, 21777), CandidateKind.REFLEXIVE)
    assert obstacle(view(HOME, reflexive=(PUBLIC,)), (theirs,), False) == (Reason.RELAY_NO_HAIRPIN, False)
    elsewhere = Candidate(SockAddr("203.0.113.5", 1), CandidateKind.REFLEXIVE)
    assert obstacle(view(HOME, reflexive=(PUBLIC,)), (elsewhere,), False) == (Reason.RELAY_NO_ANSWER, False)


@pytest.mark.parametrize(
    ("host", "kind", "open_to_anyone"),
    [
        ("192.168.1.9", CandidateKind.HOST, True),  # on our LAN
        ("192.168.1.9", CandidateKind.REFLEXIVE, False),  # a router on our LAN, and the peer behind it
        ("192.168.7.9", CandidateKind.HOST, False),
        ("203.0.113.7", CandidateKind.HOST, True),
        ("203.0.113.7", CandidateKind.MAPPED, True),
        ("203.0.113.7", CandidateKind.REFLEXIVE, False),
        ("203.0.113.7", CandidateKind.GUESS, False),
        ("203.0.113.7", CandidateKind.TURN, False),  # lets in those that its client named to it
        ("203.0.113.7", CandidateKind.NESTED, False),
        ("2001:db8::7", CandidateKind.IPV6, False),  # we have no IPv6
    ],
)
def test_an_address_is_reachable_by_itself_or_a_hole_in_a_nat(
    host: str, kind: CandidateKind, open_to_anyone: bool
) -> None:
    view = HostView(HostAddresses((ipaddress.IPv4Interface("192.168.1.5/24"),)))
    addr = SockAddr(host, 4000)
    assert reachable(view, [Candidate(addr, kind)]) == ([addr] if open_to_anyone else [])


def test_ipv6_is_reachable_from_where_there_is_ipv6() -> None:
    view = HostView(HostAddresses((ipaddress.IPv6Interface("2001:db8:5::5/64"),)))
    addr = SockAddr("2001:db8::7", 4000)
    assert reachable(view, [Candidate(addr, CandidateKind.IPV6)]) == [addr]
