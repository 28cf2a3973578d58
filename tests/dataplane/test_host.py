"""Addresses and routes of overlay interfaces on a real kernel, in a namespace of the test's own."""

import asyncio
import os
import select
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from pump_namespaces import entered

from shadowmesh.dataplane.host import ROUTE_PROTOCOL, Change, Changed, HostNetwork, HostWatcher, Interface
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.model.errors import ShadowMeshError

pytestmark = pytest.mark.root

SUBNET = ip_network("10.7.0.0/24")
WANTED = Interface("dpt0", 1376, (ip_address("10.7.0.1"), ip_address("fd07::1")), (SUBNET, ip_network("fd07::/64")))


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


def test_apply_is_idempotent_and_undo_takes_everything_back(host: HostNetwork, tun: str) -> None:
    before = ip("route"), ip("-6", "route", "show", "proto", str(ROUTE_PROTOCOL))
    changed = host.apply(WANTED)
    assert {"up", "address 10.7.0.1", "route 10.7.0.0/24", "route fd07::/64"} <= set(changed)
    assert host.apply(WANTED) == []
    assert host.is_applied(WANTED)
    assert "10.7.0.0/24 dev dpt0 proto 83 scope link src 10.7.0.1" in ip("route")
    host.undo(tun)
    assert (ip("route"), ip("-6", "route", "show", "proto", str(ROUTE_PROTOCOL))) == before
    assert "10.7.0.1" not in ip("addr")
    host.undo("dpt-none")  # gone already: nothing to do


def test_what_is_no_longer_wanted_goes(host: HostNetwork, tun: str) -> None:
    host.apply(WANTED)
    host.apply(Interface("dpt0", 1280, (ip_address("10.7.0.9"),), (ip_network("10.8.0.0/16"),)))
    assert "10.7.0.0" not in ip("route")
    assert "mtu 1280" in ip("link", "show", "dpt0")
    assert "10.7.0.1" not in ip("addr")


def test_what_others_remove_is_noticed_and_put_back(host: HostNetwork, tun: str) -> None:
    host.apply(WANTED)
    watcher = HostWatcher()
    index = int(ip("-o", "link", "show", "dpt0").split(":")[0])
    ip("route", "del", "10.7.0.0/24")
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.ROUTE, index, ours=True, lost=True) in watcher.read()
    assert not host.is_applied(WANTED)
    ip("addr", "flush", "dev", "dpt0")
    assert select.select([watcher], [], [], 2)[0]
    assert Change(Changed.ADDRESS, index, lost=True) in watcher.read()
    host.apply(WANTED)
    assert host.is_applied(WANTED)
    watcher.read()
    host.apply(WANTED)
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
    host.apply(WANTED)  # of a daemon that lives
    ip("route", "add", "10.19.0.0/24", "dev", "lan0", "proto", str(ROUTE_PROTOCOL))
    ip("route", "add", "10.9.0.0/24", "dev", "lan0")
    assert host.clean() == ["route 10.19.0.0/24"]
    assert host.clean() == []
    assert host.is_applied(WANTED)
    assert "10.9.0.0/24" in ip("route")


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
    assert set(host.candidates()) == {ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")}
    assert host.candidates(ignore=["lan0"]) == []


def test_a_missing_interface_is_said(host: HostNetwork) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        host.apply(WANTED)
    assert caught.value.code == "interface_gone"


def test_works_while_an_event_loop_runs(space: str, tun: str) -> None:
    async def daemon() -> list[str]:
        host = HostNetwork()
        try:
            return host.apply(WANTED)
        finally:
            host.close()

    assert asyncio.run(daemon())
