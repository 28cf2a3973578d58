"""Every NAT type of the lab does to real packets what its name says."""

from __future__ import annotations

import select
import shutil
import socket
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from shadowmesh.lab.internet import Host, Lab
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.probe import Filtering, Mapping, Verdict, probe
from shadowmesh.protocol.natpmp import (
    SERVER_PORT,
    NatPmpAddress,
    NatPmpMapping,
    address_request,
    mapping_request,
    parse_nat_pmp,
    restarted,
)
from shadowmesh.protocol.pcp import (
    PcpAnnounce,
    PcpMapping,
    PcpRefused,
    PcpVersionRefused,
    announce_request,
    map_request,
    parse_pcp,
    state_lost,
)

pytestmark = pytest.mark.lab

TYPES = list(NatType)
EIM, APDM = Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT
EIF, ADF, APDF = Filtering.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT
ALL = (443, 8443, 9545)


def verdict(
    mapping: Mapping,
    filtering: Filtering,
    *,
    translated: bool = True,
    keeps_port: bool = True,
    sequential: bool = False,
    hairpin: bool = False,
    tcp: tuple[int, ...] = ALL,
) -> Verdict:
    return Verdict(mapping, filtering, translated, keeps_port, sequential, hairpin, tcp)


BLOCKED = {"translated": False, "keeps_port": False}
EXPECTED = {
    NatType.NONE: verdict(EIM, EIF, translated=False, hairpin=True),
    NatType.FULL_CONE: verdict(EIM, EIF),
    NatType.ADDRESS_RESTRICTED: verdict(EIM, ADF),
    NatType.PORT_RESTRICTED: verdict(EIM, APDF),
    NatType.SYMMETRIC: verdict(APDM, APDF, keeps_port=False),
    NatType.SYMMETRIC_SEQUENTIAL: verdict(APDM, APDF, keeps_port=False, sequential=True),
    NatType.HAIRPIN: verdict(EIM, APDF, hairpin=True),
    NatType.CGNAT: verdict(EIM, APDF, keeps_port=False),
    NatType.UDP_BLOCKED: verdict(Mapping.BLOCKED, Filtering.BLOCKED, tcp=(443, 8443), **BLOCKED),
    NatType.HTTPS_ONLY: verdict(Mapping.BLOCKED, Filtering.BLOCKED, tcp=(443,), **BLOCKED),
    NatType.IGD: verdict(EIM, APDF),
}

Probe = Callable[[Lab, str], Verdict]


def look(lab: Lab, host: str) -> Verdict:
    return probe(lab.host(host), lab.host("public1"), lab.host("public2"), lab.host("public3"))


def without_igd(types: list[NatType]) -> list[NatType]:
    """miniupnpd isn't everywhere; what can't be made is skipped by name, not silently."""
    return types if shutil.which("miniupnpd") else [t for t in types if t is not NatType.IGD]


@pytest.fixture(scope="module")
def world(module_lab_factory) -> Lab:
    """One site of each type, in a public internet with three servers."""
    return module_lab_factory(LabSpec(sites=tuple(SiteSpec(nat=t) for t in without_igd(TYPES)), public=3))


def host_behind(lab: Lab, nat: NatType) -> Host:
    if nat is NatType.IGD and not shutil.which("miniupnpd"):
        pytest.skip("NOT RUN: an igd site needs miniupnpd (apt-get install miniupnpd-nftables)")
    site = next(s for s in lab.state.sites if s.nat is nat)
    return lab.host(lab.state.hosts_of(site.name)[0].name)


def test_every_type_has_an_expectation() -> None:
    assert set(EXPECTED) == set(NatType)


@pytest.mark.parametrize("nat", TYPES)
def test_mapping_and_filtering(world: Lab, nat: NatType) -> None:
    assert look(world, host_behind(world, nat).name) == EXPECTED[nat]


def test_a_site_changes_its_type_while_it_runs(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(),), public=3))
    for nat in (*without_igd(TYPES), NatType.CGNAT, NatType.PORT_RESTRICTED, NatType.CGNAT, NatType.NONE):
        lab.nat("s1", nat)
        assert look(lab, "h1") == EXPECTED[nat], nat


def asked(sock: socket.socket, router: str, request: bytes) -> bytes:
    """One exchange with the router, repeated as RFC 6886, section 3.1 says."""
    for patience in (0.25, 0.5, 1.0, 2.0):
        sock.sendto(request, (router, SERVER_PORT))
        if select.select([sock], [], [], patience)[0]:
            return sock.recv(1100)
    pytest.fail("the router doesn't answer")


@pytest.mark.parametrize("protocol", ["nat-pmp", "pcp"])
def test_an_igd_opens_a_port_on_request(world: Lab, protocol: str) -> None:
    host, nonce = host_behind(world, NatType.IGD), b"twelve bytes"
    me, router = IPv4Address(host.address), str(world.state.lan(world.state.site(host.machine.site))[1])

    def mapping(port: int, lifetime: int) -> NatPmpMapping | PcpMapping:
        if protocol == "pcp":
            answer = parse_pcp(asked(asking, router, map_request(me, nonce, port, lifetime=lifetime)))
        else:
            answer = parse_nat_pmp(asked(asking, router, mapping_request(port, lifetime=lifetime)))
        assert isinstance(answer, NatPmpMapping | PcpMapping)
        assert answer.internal_port == port
        return answer

    with host.socket() as asking, host.socket() as inside, world.host("public1").socket() as stranger:
        asking.bind((host.address, 0))
        inside.bind((host.address, 0))
        made = mapping(inside.getsockname()[1], 60)
        assert made.lifetime > 0
        if isinstance(made, PcpMapping):
            assert (made.nonce, str(made.external_address)) == (nonce, host.outer_address)
            announced = parse_pcp(asked(asking, router, announce_request(me)))
            assert isinstance(announced, PcpAnnounce) and not state_lost(made.epoch, announced.epoch, 0.0)
        else:
            address = parse_nat_pmp(asked(asking, router, address_request()))
            assert isinstance(address, NatPmpAddress) and str(address.address) == host.outer_address
            assert not restarted(made.epoch, address.epoch, 0.0)
        stranger.sendto(b"never asked for", (host.outer_address, made.external_port))
        assert select.select([inside], [], [], 1)[0], "the mapped port lets nobody in"
        assert inside.recv(64) == b"never asked for"
        assert mapping(inside.getsockname()[1], 0).lifetime == 0, "and it is taken away"
        with world.host("public2").socket() as another:  # the router goes on with a conversation that it knows
            another.sendto(b"too late", (host.outer_address, made.external_port))
            assert not select.select([inside], [], [], 0.5)[0]


def test_an_igd_that_speaks_pcp_says_so_to_who_asks_by_nat_pmp_of_another_version(world: Lab) -> None:
    host = host_behind(world, NatType.IGD)
    router = str(world.state.lan(world.state.site(host.machine.site))[1])
    with host.socket() as asking:
        asking.bind((host.address, 0))
        request = announce_request(IPv4Address(host.address))
        answer = parse_pcp(asked(asking, router, bytes([9]) + request[1:]))
    assert isinstance(answer, PcpRefused | PcpVersionRefused)


def test_hosts_of_one_hairpinning_router_meet_at_its_public_address(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.HAIRPIN, hosts=2),), public=1))
    first, second, server = lab.host("h1"), lab.host("h2"), lab.host("public1")
    with first.socket() as one, second.socket() as two, server.socket() as out:
        out.bind((server.address, 0))
        one.sendto(b"", out.getsockname())
        public_one = out.recvfrom(1)[1]
        two.sendto(b"", out.getsockname())
        public_two = out.recvfrom(1)[1]
        two.sendto(b"around", public_one)
        assert select.select([one], [], [], 1)[0]
        assert one.recvfrom(16) == (b"around", public_two)


def test_one_carrier_serves_several_homes_and_doesnt_hairpin(lab_factory) -> None:
    home = SiteSpec(nat=NatType.CGNAT, carrier="c1")
    lab = lab_factory(LabSpec(sites=(home, home), public=3))
    assert lab.host("h1").outer_address == lab.host("h2").outer_address
    assert look(lab, "h1") == look(lab, "h2") == EXPECTED[NatType.CGNAT]


def test_two_hosts_with_one_port_turn_a_home_router_symmetric_for_the_second(lab_factory) -> None:
    """The fact behind random ports: a plain masquerade keeps ports, and maps by endpoint once two inside want one."""
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.PORT_RESTRICTED, hosts=2),), public=2))
    seen: dict[str, list[int]] = {}
    servers = [lab.host("public1"), lab.host("public2")]
    for name in ("h1", "h2"):
        host = lab.host(name)
        with host.socket() as inside:
            inside.bind((host.address, 4500))
            for server in servers:
                with server.socket() as out:
                    out.bind((server.address, 7000))
                    inside.sendto(b"", out.getsockname())
                    assert select.select([out], [], [], 1)[0]
                    seen.setdefault(name, []).append(out.recvfrom(1)[1][1])
    assert seen["h1"] == [4500, 4500]
    assert 4500 not in seen["h2"]


def test_ipv6_passes_a_home_router_outward_and_not_inward(lab_factory) -> None:
    sites = (SiteSpec(nat=NatType.NONE), SiteSpec(nat=NatType.SYMMETRIC), SiteSpec(nat=NatType.CGNAT))
    lab = lab_factory(LabSpec(sites=sites, public=1, ipv6=True))
    server = lab.host("public1")
    for name, open_inward in (("h1", True), ("h2", False), ("h3", False)):
        host = lab.host(name)
        with host.socket(family=socket.AF_INET6) as inside, server.socket(family=socket.AF_INET6) as out:
            inside.bind((host.address6, 4500))
            out.bind((server.address6, 0))
            out.sendto(b"unasked", (host.address6, 4500))
            assert bool(select.select([inside], [], [], 0.2)[0]) is open_inward, name
            inside.sendto(b"hello", out.getsockname()[:2])
            assert select.select([out], [], [], 1)[0], name
            assert out.recvfrom(16)[1][:2] == (host.address6, 4500), "no translation in IPv6"


def test_an_igd_without_miniupnpd_says_what_to_install(lab_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "miniupnpd" else f"/usr/sbin/{name}")
    with pytest.raises(Exception, match="apt-get install miniupnpd-nftables"):
        lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.IGD),)))
