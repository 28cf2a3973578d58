"""A real miniupnpd opens a port for a real daemon: a pair that only a relay, or luck, could connect is direct.

h1 behind a router with miniupnpd, h2 behind a symmetric NAT, a stranger in the internet
"""

from __future__ import annotations

import select
import shutil
import time
from collections.abc import Iterator

import meshkit
import pytest

from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        not shutil.which("miniupnpd"), reason="LAB TESTS NOT RUN: they need miniupnpd (miniupnpd-nftables)"
    ),
]


@pytest.fixture(scope="module")
def world(module_lab_factory) -> Iterator[World]:
    sites = (SiteSpec(nat=NatType.IGD), SiteSpec(nat=NatType.SYMMETRIC))
    made = World(module_lab_factory(LabSpec(sites=sites, relays=1, controllers=1, public=1)))
    made.settings["SHADOWMESH_P2P_PORT_MAPPING"] = "true"
    made.mesh()
    yield made


def opened(world: World) -> str | None:
    """Where h1 may be reached by its router's grace."""
    return world.status("h1").nat.opened


def until_opened(world: World) -> str:
    return world.until(lambda: opened(world), "a port on the router", watching="h1")


def test_symmetric_is_no_obstacle_where_the_other_router_opens_a_port(world: World) -> None:
    address = until_opened(world)
    assert address.startswith(f"{world.lab.host('h1').outer_address}:")
    meshkit.until_direct(world, "h2", "h1")
    with meshkit.Feed(world, ["h2"]) as feed:  # the address is known from before, as one that its NAT showed
        feed.until(lambda: (p := feed.peer("h2", "h1")) is not None and p.reason == "direct.mapped_port", 15, "mapped")
    peer = meshkit.why(world, "h2", "h1").peer
    assert (peer.path, peer.reason, peer.endpoint) == ("direct", "direct.mapped_port", address)
    assert meshkit.why(world, "h1", "h2").peer.path == "direct"


def test_a_daemon_that_was_killed_finds_its_port_again_and_one_that_ends_gives_it_back(world: World) -> None:
    address = until_opened(world)
    world.stop("h1", kill=True)
    world.start_daemon("h1")
    assert until_opened(world) == address
    world.stop("h1")
    host, port = world.lab.host("h1"), int(address.rpartition(":")[2])
    with host.socket() as inside, world.lab.host("public1").socket() as stranger:
        inside.bind(("0.0.0.0", port))
        stranger.sendto(b"is it open still?", (host.outer_address, port))
        heard, end = [], time.monotonic() + 0.5
        while (left := end - time.monotonic()) > 0 and select.select([inside], [], [], left)[0]:
            heard.append(inside.recv(2000))  # the relay and the peer go on for a while
        assert b"is it open still?" not in heard, "also what was opened before the crash is closed"
    world.start_daemon("h1")
    assert until_opened(world) == address
