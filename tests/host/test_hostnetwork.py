"""Addresses and routes of overlay interfaces on a real kernel, in a namespace of the test's own."""

import asyncio
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from pump_namespaces import entered

from shadowmesh.dataplane.outer import FirewallMark
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig
from shadowmesh.host.rtnetlink import Change, Changed, HostWatcher
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.hostaddresses import HostAddresses

pytestmark = pytest.mark.root

SUBNET = ip_network("10.7.0.0/24")
WANTED = InterfaceConfig(
    "dpt0", 1376, (ip_address("10.7.0.1"), ip_address("fd07::1")), (SUBNET, ip_network("fd07::/64"))
)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def space() -> Iterator[str]:
    """This thread is in a fresh namespace with a LAN interface `lan0` (192.0.2.1/24, 2001:db8::1/64)."""
    name = f"dp-host-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with entered(name):
            ip("link", "set", "lo", "up")
            ip("link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
            ip("link", "set", "lan1", "up")
            ip("link", "set", "lan0", "up")
            ip("addr", "add", "192.0.2.1/24", "dev", "lan0")
            ip("addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad")
            yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def host(space: str) -> Iterator[HostNetwork]:
    network = HostNetwork()
    yield network
    network.close()


@pytest.fixture
def tun(space: str) -> Iterator[str]:
    fd, name = open_tun("dpt0")
    yield name
    os.close(fd)


def state() -> list[str]:
    """All that the host routes by, as the kernel tells it."""
    families = ("-4", "-6")
    return [ip(f, *what) for f in families for what in (("rule",), ("route", "show", "table", "all", "proto", "83"))]


def way(*arguments: str) -> str:
    """The interface by which the host sends."""
    words = ip("route", "get", *arguments).split()
    return words[words.index("dev") + 1]


def src_valid_mark() -> str:
    return ip("netns", "exec", f"dp-host-{os.getpid()}", "cat", "/proc/sys/net/ipv4/conf/all/src_valid_mark").strip()


MARK = str(FirewallMark().value)


def test_apply_is_idempotent_and_undo_takes_everything_back(host: HostNetwork, tun: str) -> None:
    before = state()
    applied = host.apply(WANTED)
    assert {"up", "address 10.7.0.1", "route 10.7.0.0/24", "route fd07::/64"} <= set(applied.changed)
    assert not applied.failed
    assert host.apply(WANTED).changed == ()
    assert "dev dpt0 table 53000" in ip("route", "show", "table", "all", "10.7.0.0/24")
    assert way("10.7.0.5") == way("fd07::5") == "dpt0"
    assert src_valid_mark() == "1"
    host.undo(tun)
    assert state() == before
    assert "10.7.0.1" not in ip("addr")
    assert src_valid_mark() == "0"
    host.undo("dpt-none")  # gone already: nothing to do


def test_marked_packets_and_addresses_in_use_go_around_an_overlay_that_covers_them(host: HostNetwork, tun: str) -> None:
    ip("route", "add", "default", "via", "192.0.2.254")
    ip("-6", "route", "add", "default", "via", "2001:db8::ff")
    around = {ip_address("198.51.100.7"), ip_address("203.0.113.7"), ip_address("2001:db8:5::7")}
    subnets = (ip_network("198.51.100.0/24"), ip_network("2001:db8:5::/64"))
    wanted = InterfaceConfig(
        "dpt0", 1376, (ip_address("198.51.100.1"), ip_address("2001:db8:5::1")), subnets, frozenset(around)
    )
    host.apply(wanted)
    assert host.apply(wanted).changed == ()
    assert way("198.51.100.8") == way("2001:db8:5::8") == "dpt0"
    assert way("198.51.100.7") == way("2001:db8:5::7") == "lan0"  # programs that mark nothing: ssh to a relay
    assert way("198.51.100.8", "mark", MARK) == way("2001:db8:5::8", "mark", MARK) == "lan0"
    assert "203.0.113.7" not in ip("route", "show", "table", "all")  # the overlay doesn't cover it
    host.apply(InterfaceConfig("dpt0", 1376, wanted.addresses, subnets))
    assert way("198.51.100.7") == "dpt0"


def test_what_the_host_routes_more_narrowly_stays_the_hosts(host: HostNetwork, tun: str) -> None:
    ip("route", "add", "default", "via", "192.0.2.254")
    ip("route", "add", "10.0.0.0/8", "via", "192.0.2.254")
    host.apply(WANTED)
    assert way("10.7.0.5") == "dpt0"  # narrower than another's route
    ip("route", "add", "10.7.0.128/25", "via", "192.0.2.254")
    assert way("10.7.0.5") == "dpt0"
    assert way("10.7.0.200") == "lan0"


def test_two_overlays_and_another_vpn_live_side_by_side(host: HostNetwork, tun: str) -> None:
    second, name = open_tun("dpt1")
    other, _ = open_tun("wg0")
    try:
        ip("link", "set", "wg0", "up")
        host.apply(WANTED)
        host.apply(InterfaceConfig(name, 1376, (ip_address("10.8.0.1"),), (ip_network("10.8.0.0/24"),)))
        # what wg-quick does for a tunnel that takes all: the kernel puts rules without a priority before all others
        ip("route", "add", "default", "dev", "wg0", "table", "51820")
        ip("rule", "add", "not", "fwmark", "51820", "table", "51820")
        ip("rule", "add", "table", "main", "suppress_prefixlength", "0")
        assert way("10.7.0.5") == "wg0"
        host.apply(WANTED)
        host.apply(InterfaceConfig(name, 1376, (ip_address("10.8.0.1"),), (ip_network("10.8.0.0/24"),)))
        assert (way("10.7.0.5"), way("10.8.0.5"), way("203.0.113.1")) == ("dpt0", "dpt1", "wg0")
        host.undo("dpt0")
        assert (way("10.7.0.5"), way("10.8.0.5")) == ("wg0", "dpt1")
    finally:
        os.close(second)
        os.close(other)


def test_marks_of_others_are_compared_with_ours(host: HostNetwork) -> None:
    ip("rule", "add", "fwmark", "0x80000/0xff0000", "table", "main", "priority", "5210")  # Tailscale's
    ip("rule", "add", "not", "fwmark", "51820", "table", "51820")  # wg-quick's
    assert host.conflicts() == []
    ip("rule", "add", "fwmark", "0x53000000/0xff000000", "table", "main", "priority", "900")
    (conflict,) = host.conflicts()
    assert "rule 900" in conflict and "SHADOWMESH_FWMARK" in conflict


def test_what_fails_for_one_ip_version_leaves_the_other_alone(host: HostNetwork, tun: str, space: str) -> None:
    ip("netns", "exec", space, "sysctl", "-qw", "net.ipv6.conf.dpt0.disable_ipv6=1")
    applied = host.apply(WANTED)
    assert way("10.7.0.5") == "dpt0"
    assert list(applied.failed) == [6] and "dpt0" in applied.failed[6]
    ip("netns", "exec", space, "sysctl", "-qw", "net.ipv6.conf.dpt0.disable_ipv6=0")
    assert not host.apply(WANTED).failed
    assert way("fd07::5") == "dpt0"


def test_what_is_no_longer_wanted_goes(host: HostNetwork, tun: str) -> None:
    host.apply(WANTED)
    host.apply(InterfaceConfig("dpt0", 1280, (ip_address("10.7.0.9"),), (ip_network("10.8.0.0/16"),)))
    assert "10.7.0.0" not in ip("route", "show", "table", "all") and "10.7.0.0" not in ip("rule")
    assert "mtu 1280" in ip("link", "show", "dpt0")
    assert "10.7.0.1" not in ip("addr")


def test_what_others_remove_is_noticed_and_put_back(host: HostNetwork, tun: str) -> None:
    host.apply(WANTED)
    watcher = HostWatcher()
    index = int(ip("-o", "link", "show", "dpt0").split(":")[0])
    ip("route", "del", "10.7.0.0/24", "table", str(5_300_000 + index))
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.ROUTE, index, ours=True, lost=True) in watcher.read()
    assert host.apply(WANTED).changed == ("route 10.7.0.0/24",)
    watcher.read()
    ip("-6", "rule", "del", "priority", "5199")
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.RULE, ours=True, lost=True) in watcher.read()
    assert host.apply(WANTED).changed == ("rule 5199",)
    watcher.read()
    ip("addr", "flush", "dev", "dpt0")
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.ADDRESS, index, lost=True) in watcher.read()
    host.apply(WANTED)
    watcher.read()
    assert host.apply(WANTED).changed == ()
    assert watcher.read() == []  # so that a daemon that answers changes by apply comes to rest
    watcher.close()


def test_networks_coming_and_going_are_told(host: HostNetwork) -> None:
    watcher = HostWatcher()
    index = int(ip("-o", "link", "show", "lan0").split(":")[0])
    ip("addr", "add", "198.51.100.1/24", "dev", "lan0")
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.ADDRESS, index) in watcher.read()
    ip("link", "set", "lan0", "down")
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.LINK, index) in watcher.read()
    watcher.close()


def test_leftovers_of_a_crash_are_found_by_their_protocol(host: HostNetwork, tun: str) -> None:
    before = state()
    fd, _ = open_tun("dpt9")
    around = frozenset({ip_address("10.9.0.7")})
    HostNetwork().apply(InterfaceConfig("dpt9", 1376, (ip_address("10.9.0.1"),), (ip_network("10.9.0.0/24"),), around))
    os.close(fd)  # its daemon was killed: the device goes, rules and the routes around it stay
    assert "10.9.0.0" in ip("rule") and "throw 10.9.0.7" in ip("route", "show", "table", "all")
    host.apply(WANTED)  # of a daemon that lives
    ip("route", "add", "10.19.0.0/24", "dev", "lan0")
    assert set(host.clean()) == {"rule 5198", "rule 5199", "route around 10.9.0.7/32"}
    assert host.clean() == []
    assert host.apply(WANTED).changed == ()
    assert "10.19.0.0/24" in ip("route")
    ip("route", "del", "10.19.0.0/24")
    host.undo(tun)
    assert state() == before
    assert src_valid_mark() == "0"


def test_overlaps_are_found_in_addresses_and_routes(host: HostNetwork, tun: str) -> None:
    ip("route", "add", "10.20.0.0/16", "via", "192.0.2.254")
    ip("route", "add", "default", "via", "192.0.2.254")
    host.apply(WANTED)
    assert host.find_overlaps(ip_network("192.0.2.128/25")) == [("lan0", ip_network("192.0.2.0/24"))]
    assert host.find_overlaps(ip_network("10.20.5.0/24")) == [("lan0", ip_network("10.20.0.0/16"))]
    assert host.find_overlaps(ip_network("10.30.0.0/24")) == []
    assert ("dpt0", SUBNET) in host.find_overlaps(SUBNET)
    assert host.find_overlaps(SUBNET, ignore=["dpt0"]) == []


def test_candidates_are_the_addresses_that_others_can_reach(host: HostNetwork, tun: str) -> None:
    host.apply(WANTED)
    ip("link", "add", "off0", "type", "veth", "peer", "name", "off1")
    ip("addr", "add", "203.0.113.5/24", "dev", "off0")
    assert set(host.underlay().real) == {ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")}
    assert host.underlay(ignore=["lan0"]) == HostAddresses()


def test_tunnels_and_containers_bridges_are_told_from_links_to_the_world(host: HostNetwork, tun: str) -> None:
    host.apply(WANTED)
    ip("route", "add", "default", "via", "192.0.2.254")
    other, _ = open_tun("wg0")
    try:
        ip("addr", "add", "10.99.0.2/24", "dev", "wg0")
        ip("link", "set", "wg0", "up")
        ip("route", "add", "172.31.0.0/16", "dev", "wg0", "table", "52")  # as Tailscale keeps its own
        for bridge, port, subnet in (("docker0", "c", "172.17.0.1/16"), ("br0", "u", "198.51.100.1/24")):
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "add", port, "type", "veth", "peer", "name", f"{port}1")
            ip("link", "set", port, "master", bridge)
            ip("link", "set", port, "up")
            ip("link", "set", f"{port}1", "up")
            ip("link", "set", bridge, "up")
            ip("addr", "add", subnet, "dev", bridge)
        ip("route", "add", "203.0.113.7", "via", "198.51.100.2")  # a relay is reached over br0
        (relay,) = host.next_hops([ip_address("203.0.113.7")]).values()
        assert relay is not None
        found = host.underlay(in_use={relay.interface})
        assert set(found.real) == {ip_interface(t) for t in ("192.0.2.1/24", "2001:db8::1/64", "198.51.100.1/24")}
        assert found.tunnels == (ip_interface("10.99.0.2/24"),)
        assert found.containers == (ip_interface("172.17.0.1/16"),)
        assert set(found.nested) == {ip_network("10.99.0.0/24"), ip_network("172.31.0.0/16")}
        ip("route", "replace", "default", "dev", "wg0")  # what takes everything is no way around anything
        assert set(host.underlay().nested) == {ip_network("10.99.0.0/24"), ip_network("172.31.0.0/16")}
    finally:
        os.close(other)


def test_a_missing_interface_is_said(host: HostNetwork) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        host.apply(WANTED)
    assert caught.value.code == "interface_gone"


def test_works_while_an_event_loop_runs(space: str, tun: str) -> None:
    async def daemon() -> list[str]:
        host = HostNetwork()
        try:
            return list(host.apply(WANTED).changed)
        finally:
            host.close()

    assert asyncio.run(daemon())


def test_a_netlink_that_says_nothing_is_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited would be the daemon's event loop."""
    monkeypatch.setattr("shadowmesh.host.hostnetwork._LONGEST", 0.05)
    network, go_on = HostNetwork(), threading.Event()
    network.thread.submit(go_on.wait)
    try:
        with pytest.raises(ShadowMeshError) as caught:
            network.find_overlaps(SUBNET, set())
    finally:
        go_on.set()
    assert caught.value.code == "host_busy"
    network.close()
    assert network._netlink is None, "what was given up isn't carried out later"


class Netlink:
    """One whose end the kernel doesn't come back from."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def close(self) -> None:
        self.go_on.wait()


def test_a_netlink_that_says_nothing_is_waited_for_once_and_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmesh.host.hostnetwork._LONGEST", 0.05)
    network, netlink = HostNetwork(), Netlink()
    network._netlink = netlink
    network.thread.submit(netlink.close)
    try:
        for longest in (0.05, 3600.0):
            monkeypatch.setattr("shadowmesh.host.hostnetwork._LONGEST", longest)
            with pytest.raises(ShadowMeshError, match="netlink"):
                network.find_overlaps(SUBNET, set())
        network.close()
    finally:
        netlink.go_on.set()


def test_the_process_ends_with_a_call_that_hangs() -> None:
    program = (
        "import threading; from shadowmesh.host.onethread import OneThread\n"
        "begun = threading.Event()\n"
        "def hang(): begun.set(); threading.Event().wait()\n"
        "OneThread('x').submit(hang); begun.wait()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
