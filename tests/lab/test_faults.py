"""Faults of the lab's internet hit what they name, and nothing else."""

from __future__ import annotations

import select
import socket
import time

import pytest

from shadowmesh.lab.conversations import transfer
from shadowmesh.lab.internet import Host, Lab
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.model.errors import ShadowMeshError

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def shared(module_lab_factory) -> Lab:
    return module_lab_factory(
        LabSpec(sites=(SiteSpec(hosts=2), SiteSpec(), SiteSpec(nat=NatType.PORT_RESTRICTED)), public=2)
    )


@pytest.fixture
def lab(shared: Lab) -> Lab:
    """The module's lab with nothing broken."""
    shared.heal()
    return shared


def udp(host: Host) -> socket.socket:
    sock = host.socket()
    sock.bind((host.address, 0))
    return sock


def arrives(source: Host, target: Host, *, count: int = 1, patience: float = 0.3, size: int = 8) -> int:
    """How many of so many datagrams come through."""
    with udp(source) as out, udp(target) as into:
        into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for _ in range(count):
            out.sendto(bytes(size), into.getsockname())  # an error here would be the sender's own: there must be none
        came = 0
        while came < count and select.select([into], [], [], patience)[0]:
            into.recv(2048)
            came += 1
        return came


def test_a_cut_is_between_two_hosts_and_both_ways(lab: Lab) -> None:
    one, two, server = lab.host("h1"), lab.host("h3"), lab.host("public1")
    lab.cut("h1", "h3")
    assert arrives(one, two) == arrives(two, one) == 0
    assert arrives(one, server) == arrives(server, two) == 1
    lab.heal()
    assert arrives(one, two) == arrives(two, one) == 1


def test_a_one_way_cut_lets_the_other_way_through(lab: Lab) -> None:
    lab.cut("h1", "h3", one_way=True)
    assert arrives(lab.host("h1"), lab.host("h3")) == 0
    assert arrives(lab.host("h3"), lab.host("h1")) == 1


def test_hosts_of_one_lan_and_public_hosts_are_cut_too(lab: Lab) -> None:
    lab.cut("h1", "h2")
    lab.cut("public1", "public2")
    assert arrives(lab.host("h1"), lab.host("h2")) == arrives(lab.host("h2"), lab.host("h1")) == 0
    assert arrives(lab.host("public1"), lab.host("public2")) == 0
    assert arrives(lab.host("h1"), lab.host("public2")) == 1


def test_loss_is_in_percent_each_way_and_silent(lab: Lab) -> None:
    lab.loss("s2", 20)
    home, server = lab.host("h3"), lab.host("public1")
    for source, target in ((home, server), (server, home)):
        assert 0.7 < arrives(source, target, count=1000) / 1000 < 0.9
    assert arrives(lab.host("h1"), server, count=200) == 200
    lab.loss("s2", 0)
    assert arrives(home, server, count=200) == 200


def test_udp_blocked_leaves_tcp(lab: Lab) -> None:
    home, server = lab.host("h3"), lab.host("public1")
    lab.block_udp("s2")
    assert arrives(home, server) == arrives(server, home) == 0
    assert transfer(home, server, server.address, seconds=0.05).intact
    lab.block_udp("s2", blocked=False)
    assert arrives(home, server) == 1


def test_a_small_mtu_is_a_black_hole(lab: Lab) -> None:
    home, server = lab.host("h3"), lab.host("public1")
    lab.mtu("s2", 1300)
    with udp(home) as out, udp(server) as into:
        out.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER = IP_PMTUDISC_PROBE: DF, and no memory
        for size in (1400, 1272):
            out.sendto(bytes(size), into.getsockname())
        assert select.select([into], [], [], 1)[0]
        assert len(into.recv(2048)) == 1272
        assert not select.select([into], [], [], 0.2)[0]
        out.sendto(b"no error was told", into.getsockname())
    lab.mtu("s2", None)
    assert arrives(home, server, size=1400) == 1


def test_a_rate_is_a_bottleneck(lab: Lab) -> None:
    home, server = lab.host("h3"), lab.host("public1")
    lab.rate("s2", 20)
    slow = transfer(home, server, server.address, seconds=0.7)
    assert slow.intact
    assert 8 < slow.mbit < 30
    lab.rate("s2", None)
    assert transfer(home, server, server.address, seconds=0.2).mbit > 200


def observed(inside: socket.socket, server: Host) -> tuple[str, int]:
    with udp(server) as out:
        inside.sendto(b"", out.getsockname())
        assert select.select([out], [], [], 1)[0]
        found: tuple[str, int] = out.recvfrom(1)[1]
        return found


@pytest.mark.parametrize(
    "nat", [NatType.FULL_CONE, NatType.PORT_RESTRICTED, NatType.SYMMETRIC_SEQUENTIAL, NatType.NONE]
)
def test_a_reboot_forgets_mappings_and_gives_out_others(lab_factory, nat: NatType) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=nat),), public=1))
    home, server = lab.host("h1"), lab.host("public1")
    with udp(home) as inside, udp(server) as out:
        inside.sendto(b"", out.getsockname())
        before = out.recvfrom(1)[1]
        lab.reboot("s1")
        out.sendto(b"to the old mapping", before)
        assert bool(select.select([inside], [], [], 0.2)[0]) is (nat is NatType.NONE)
        after = observed(inside, server)
        assert after[0] == before[0]
        assert (after[1] == before[1]) is (nat is NatType.NONE)
        lab.reboot("s1", new_address=True)
        renumbered = observed(inside, server)
        assert renumbered[0] == home.outer_address
        assert (renumbered[0] == before[0]) is (nat is NatType.NONE)


def test_a_carrier_reboots_on_its_own(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.CGNAT),), public=1))
    with udp(lab.host("h1")) as inside:
        before = observed(inside, lab.host("public1"))
        lab.reboot("s1", carrier=True)
        after = observed(inside, lab.host("public1"))
    assert after[0] == before[0]
    assert after[1] // 1000 == before[1] // 1000 + 1


def test_forgotten_mappings_close_the_way_in_and_come_back_alike(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.FULL_CONE),), public=1))
    with udp(lab.host("h1")) as inside, udp(lab.host("public1")) as out:
        inside.sendto(b"", out.getsockname())
        mapped = out.recvfrom(1)[1]
        lab.forget("s1")
        out.sendto(b"", mapped)
        assert not select.select([inside], [], [], 0.2)[0]
        inside.sendto(b"", out.getsockname())
        assert out.recvfrom(1)[1] == mapped


def test_a_mapping_expires_after_its_own_time(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.FULL_CONE, mapping_seconds=1),), public=1))
    with udp(lab.host("h1")) as inside, udp(lab.host("public1")) as out:
        inside.sendto(b"", out.getsockname())
        mapped = out.recvfrom(1)[1]
        time.sleep(2.5)  # the kernel's own clock: conntrack and nftables sweep by the second
        out.sendto(b"", mapped)
        assert not select.select([inside], [], [], 0.2)[0]


def test_a_roaming_host_keeps_its_interface_and_gets_another_address(lab: Lab) -> None:
    host, server = lab.host("h2"), lab.host("public1")
    before, index = host.address, host.run_in(lambda: socket.if_nametoindex("eth0"))
    lab.roam("h2", "s3")
    assert host.machine.site == "s3"
    assert host.address != before
    assert host.run_in(lambda: socket.if_nametoindex("eth0")) == index
    with udp(host) as inside:
        assert observed(inside, server)[0] == host.outer_address
    lab.roam("h2", "s1")
    assert host.address == before
    assert arrives(server, host) == 1


def test_faults_outlast_reboots_and_changes_of_type(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec(nat=NatType.FULL_CONE)), public=1))
    lab.cut("h2", "public1", one_way=True)
    lab.loss("s1", 100)
    lab.reboot("s2", new_address=True)
    lab.nat("s1", NatType.CGNAT)
    assert arrives(lab.host("h2"), lab.host("public1")) == 0
    assert arrives(lab.host("h1"), lab.host("public1")) == 0
    lab.heal()
    assert arrives(lab.host("h2"), lab.host("public1")) == 1
    assert arrives(lab.host("h1"), lab.host("public1")) == 1


def test_what_isnt_there_is_named_with_what_is(lab: Lab) -> None:
    for wrong in (
        lambda: lab.cut("h1", "h99"),
        lambda: lab.loss("s99", 1),
        lambda: lab.roam("h1", "s99"),
        lambda: lab.nat("s99", NatType.NONE),
    ):
        with pytest.raises(ShadowMeshError, match=r"it has .*1"):
            wrong()
    for wrong in (lambda: lab.loss("s1", 101), lambda: lab.mtu("s1", 100), lambda: lab.roam("public1", "s1")):
        with pytest.raises(ShadowMeshError):
            wrong()
    assert lab.state.faults.cuts == ()
