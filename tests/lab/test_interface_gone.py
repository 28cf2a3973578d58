"""The interface of a running network is deleted, renamed, or its name taken by another program: packets flow again within 2 s."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from shadowmesh.lab.internet import Host
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = pytest.mark.lab

BOUND = 2.0


@pytest.fixture(scope="module")
def world(module_lab_factory) -> World:
    lab = module_lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec()), relays=1, controllers=1))
    world = World(lab)
    world.mesh()
    return world


@pytest.fixture
def pair(world: World) -> Iterator[tuple[Host, str]]:
    """h1, and the address of h2, which it speaks to."""
    (network,) = world.client("h1").status().networks
    (peer,) = network.peers
    host = world.lab.host("h1")
    assert back_in(host, peer.ip) < 20.0
    yield host, peer.ip
    assert back_in(host, peer.ip) < BOUND


def back_in(host: Host, address: str) -> float:
    """Seconds until an echo comes back through the tunnel."""
    start = time.monotonic()
    while time.monotonic() < start + 30.0:
        if host.exec(["ping", "-c", "1", "-W", "0.3", address], check=False).returncode == 0:
            break
    return time.monotonic() - start


def interface(world: World) -> str:
    (network,) = world.client("h1").status().networks
    assert network.state == "up"
    return network.interface


def test_deleted(world: World, pair: tuple[Host, str]) -> None:
    host, peer = pair
    host.exec(["ip", "link", "del", interface(world)])
    assert back_in(host, peer) < BOUND


def test_renamed(world: World, pair: tuple[Host, str]) -> None:
    host, peer = pair
    name = interface(world)
    host.exec(["ip", "link", "set", name, "down"])
    host.exec(["ip", "link", "set", name, "name", "office7"])
    took = back_in(host, peer)
    assert took < BOUND
    end = time.monotonic() + BOUND - took
    while interface(world) != "office7" and time.monotonic() < end:
        host.exec(["ip", "link", "show", "office7"])  # it is the same one still
    assert interface(world) == "office7"


def test_its_name_taken_by_another_program(world: World, pair: tuple[Host, str]) -> None:
    host, peer = pair
    name = interface(world)
    host.exec(["ip", "link", "del", name])
    host.exec(["ip", "tuntap", "add", name, "mode", "tun"], check=False)  # unless the daemon was quicker
    assert back_in(host, peer) < BOUND
    if interface(world) != name:
        host.exec(["ip", "link", "del", name])


def test_its_rules_and_routes_flushed(world: World, pair: tuple[Host, str]) -> None:
    host, peer = pair
    for family in ("-4", "-6"):
        for what in (("route", "flush", "table", "all", "proto", "83"), ("rule", "del", "priority", "5199")):
            host.exec(["ip", family, *what], check=False)
    assert back_in(host, peer) < BOUND
    assert "5199:" in host.exec(["ip", "rule"]).stdout
