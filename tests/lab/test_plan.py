"""Plans, addresses, the matrix and the demo's judgement: no root needed."""

from __future__ import annotations

import io
from itertools import product

import pytest
from rich.console import Console

from shadowmesh.lab import verbs
from shadowmesh.lab.capture import parse
from shadowmesh.lab.demo import story, table
from shadowmesh.lab.matrix import Reach, reach
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, LabState, SiteSpec, plan
from shadowmesh.lab.progress import Pair, Progress
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import NatStatus, NetworkStatus, PathKind, PeerStatus, Status

N = NatType


def test_hosts_are_counted_through_all_sites_and_addresses_are_unique() -> None:
    sites = (SiteSpec(hosts=2), SiteSpec(nat=N.CGNAT), SiteSpec(nat=N.CGNAT, hosts=3))
    state = plan(LabSpec(sites=sites, relays=2, controllers=2, public=2, ipv6=True), "x", "/tmp")
    assert [m.name for m in state.machines if m.site] == ["h1", "h2", "h3", "h4", "h5", "h6"]
    assert [s.carrier for s in state.sites] == [None, "c2", "c3"]
    own = [state.address(m) for m in state.machines]
    own6 = [state.address6(m) for m in state.machines]
    assert len(set(own)) == len(own)
    assert len(set(own6)) == len(own6)
    assert len(set(state.namespaces())) == len(state.namespaces())


def test_state_survives_its_file() -> None:
    state = plan(LabSpec(sites=(SiteSpec(nat=N.CGNAT),), public=1), "x", "/tmp")
    assert from_json(to_json(state), LabState) == state


@pytest.mark.parametrize("wrong", ["", "a-b", "A", "x" * 25, "../etc"])
def test_an_id_that_could_meet_anothers_names_is_refused(wrong: str) -> None:
    with pytest.raises(ShadowMeshError) as refused:
        plan(LabSpec(), wrong, "/tmp")
    assert refused.value.kind is Kind.USAGE


def test_a_wrong_type_is_told_the_right_ones() -> None:
    assert verbs.parse_nat("Port-Restricted") is N.PORT_RESTRICTED
    with pytest.raises(ShadowMeshError, match="full_cone"):
        verbs.parse_nat("cone")
    with pytest.raises(ShadowMeshError):
        plan(LabSpec(sites=(SiteSpec(nat=N.NONE, carrier="c1"),)), "x", "/tmp")


def test_every_type_is_reported_by_a_name_of_the_status() -> None:
    for nat in NatType:
        assert NatStatus(type=nat.reported).type == from_json(to_json(NatStatus(type=nat.reported)), NatStatus).type


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (N.NONE, N.SYMMETRIC, Reach.DIRECT),
        (N.FULL_CONE, N.SYMMETRIC, Reach.DIRECT),
        (N.ADDRESS_RESTRICTED, N.SYMMETRIC_SEQUENTIAL, Reach.DIRECT),
        (N.PORT_RESTRICTED, N.PORT_RESTRICTED, Reach.DIRECT),
        (N.CGNAT, N.HAIRPIN, Reach.DIRECT),
        (N.IGD, N.SYMMETRIC, Reach.SPRAY),
        (N.PORT_RESTRICTED, N.SYMMETRIC, Reach.SPRAY),
        (N.SYMMETRIC, N.SYMMETRIC_SEQUENTIAL, Reach.RELAY),
        (N.UDP_BLOCKED, N.NONE, Reach.RELAY),
        (N.HTTPS_ONLY, N.FULL_CONE, Reach.RELAY),
    ],
)
def test_the_matrix(a: NatType, b: NatType, expected: Reach) -> None:
    assert reach(a, b) is reach(b, a) is expected


def test_where_both_are_decides_before_the_types_do() -> None:
    for a, b in product(NatType, repeat=2):
        assert reach(a, b, same_lan=True) is Reach.DIRECT
    assert reach(N.CGNAT, N.CGNAT, same_carrier=True) is Reach.RELAY


def peer(name: str, path: PathKind, reason: str = "") -> PeerStatus:
    return PeerStatus(name=name, client_id="cli_x", ip="10.0.0.1", path=path, reason=reason)


def says(*peers: PeerStatus) -> Status:
    network = NetworkStatus(
        name="demo", network_id="", ip="", interface="", state="up", controller="connected", peers=peers
    )
    return Status(version="", pump="python", networks=(network,))


def test_a_pair_is_direct_when_both_ends_say_so() -> None:
    progress = Progress({"h1": N.NONE, "h2": N.SYMMETRIC})
    pair = progress.pairs["h1", "h2"]
    pair.talked = 0.1
    progress.see("h1", says(peer("h2", "relay")), 0.2)
    progress.see("h1", says(peer("h2", "direct")), 0.5)
    assert pair.path == "none"  # the other end hasn't said anything
    progress.see("h2", says(peer("h1", "relay", "relay.upgrading")), 0.6)
    assert (pair.path, pair.direct, progress.settled()) == ("relay", None, False)
    assert pair.view is not None
    assert pair.view.reason == "relay.upgrading"
    progress.see("h2", says(peer("h1", "direct")), 0.9)
    assert (pair.path, pair.direct, progress.settled()) == ("direct", 0.9, True)
    progress.see("h2", says(peer("h1", "direct")), 1.9)
    assert pair.direct == 0.9
    assert progress.problems() == []
    assert story(pair).startswith("relay → direct after 0.9 s")


def test_falling_back_to_the_relay_takes_the_direct_away() -> None:
    progress = Progress({"h1": N.NONE, "h2": N.NONE})
    pair = progress.pairs["h1", "h2"]
    pair.talked = 0.1
    for path in ("direct", "relay"):
        progress.see("h1", says(peer("h2", path)), 1.0)
        progress.see("h2", says(peer("h1", path)), 1.0)
    assert pair.direct is None
    assert not progress.settled()


def good(nat_a: NatType = N.NONE, nat_b: NatType = N.NONE) -> Pair:
    pair = Pair("h1", "h2", nat_a, nat_b, reach(nat_a, nat_b), talked=0.1)
    pair.see("h1", peer("h2", "direct"), 1.0)
    pair.see("h2", peer("h1", "direct"), 1.0)
    assert pair.problem() is None
    return pair


def test_what_isnt_as_promised_is_said() -> None:
    silent, late, broken, damaged, relayed = (good() for _ in range(5))
    silent.talked = None
    late.direct = 15.1
    broken.broken = 2
    damaged.intact = False
    relayed.see("h1", peer("h2", "relay"), 3.0)
    for pair, word in (
        (silent, "never talked"),
        (late, "only after 15.1"),
        (broken, "broke"),
        (damaged, "damaged"),
        (relayed, "on relay"),
    ):
        assert word in (pair.problem() or ""), word


def test_a_pair_that_needs_the_relay_is_fine_on_it_and_on_better() -> None:
    pair = good(N.SYMMETRIC, N.PORT_RESTRICTED)
    pair.see("h1", peer("h2", "relay", "relay.symmetric_port_restricted"), 2.0)
    assert pair.settled()
    assert pair.problem() is None
    pair.talked = None
    assert not pair.settled()


def test_the_table_shows_the_way_the_reason_and_the_rate() -> None:
    pair = good()
    pair.relay_seen = True
    pair.mbit = 812.3
    pair.see("h1", peer("h2", "direct", "direct.punched"), 1.0)
    pair.see("h2", peer("h1", "direct", "direct.punched"), 1.0)
    out = io.StringIO()
    Console(file=out, width=140).print(table([pair.report()]))
    for expected in ("h1 ↔ h2", "relay → direct", "1.0 s", "direct.punched", "812"):
        assert expected in out.getvalue()


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x60" + bytes(30), b"\xff" * 60])
def test_what_is_no_ip_packet_is_none(data: bytes) -> None:
    assert parse(data, "eth0", outgoing=False) is None


def test_ports_are_read_after_the_header_that_is_there() -> None:
    header = bytes([0x46, 0]) + bytes(7) + bytes([17]) + bytes(2) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + bytes(4)
    packet = parse(header + bytes([0x11, 0x5C, 0x1A, 0x0A]) + b"data", "eth0", outgoing=True)
    assert packet is not None
    assert (packet.source_port, packet.target_port, str(packet.target)) == (4444, 6666, "10.0.0.2")
