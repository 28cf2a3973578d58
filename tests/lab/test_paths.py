"""Paths of a running mesh under traffic: relay first, direct soon, and no fault on the way breaks a stream.

One world for all: h1 to h4 alone behind port-restricted routers, h5 and h6 behind one full cone. Tests that need a pair
that never spoke name it in their docstring, and no other test may use it before.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from meshkit import Feed, tcp_stream, udp_stream, until_direct

from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import NETWORK, World

pytestmark = pytest.mark.lab


class Mesh:
    """The world, its hosts' overlay addresses, and a feed of what all daemons say."""

    def __init__(self, world: World, addresses: dict[str, str], feed: Feed) -> None:
        self.world = world
        self.lab = world.lab
        self.addresses = addresses
        self.feed = feed


@pytest.fixture(scope="module")
def shared(module_lab_factory) -> Iterator[Mesh]:
    homes = tuple(SiteSpec(nat=NatType.PORT_RESTRICTED) for _ in range(4))
    lab = module_lab_factory(LabSpec(sites=(*homes, SiteSpec(nat=NatType.FULL_CONE, hosts=2)), relays=1, controllers=1))
    world = World(lab)
    addresses = world.mesh()
    with Feed(world, list(addresses)) as feed:
        yield Mesh(world, addresses, feed)


@pytest.fixture
def mesh(shared: Mesh) -> Iterator[Mesh]:
    """The module's mesh with nothing broken."""
    yield shared
    shared.lab.heal()


def test_first_ping_is_answered_and_the_path_is_direct_within_3_s(mesh: Mesh, told) -> None:
    """h1 and h2 never spoke before. The first answer comes over the relay, unless both are through their NATs in the meantime."""
    first = mesh.world.run("h1", "ping", "h2", "-c", "1", "--json", codes=(0, 10, 20))
    answer = json.loads(first.stdout.splitlines()[0])
    assert answer["ok"] and (answer["path"], first.returncode) in (("relay", 10), ("direct", 0)), first.stdout
    took = until_direct(mesh.world, "h1", "h2", 10)
    told("direct after the first answer, s", round(took, 3))
    assert took <= 3.0
    assert mesh.world.run("h1", "ping", "h2", "-c", "1", "--json").returncode == 0


def first_answer(mesh: Mesh, a: str, b: str) -> float:
    """Seconds until the first datagram of `a` ever to `b` is answered."""
    with mesh.lab.host(b).socket() as there, mesh.lab.host(a).socket() as here:
        there.bind((mesh.addresses[b], 7300))
        there.settimeout(10)
        here.settimeout(10)

        def echo() -> None:
            data, source = there.recvfrom(64)
            there.sendto(data, source)

        answering = threading.Thread(target=echo, daemon=True)
        answering.start()
        began = time.monotonic()
        here.sendto(b"?", (mesh.addresses[b], 7300))
        here.recv(64)
        took = time.monotonic() - began
        answering.join(5)
        return took


def test_first_packet_is_answered_over_the_relay(mesh: Mesh, told) -> None:
    """h1–h3, h2–h4, h1–h5, h2–h6 never spoke before. The lab's round trips are below a millisecond."""
    times = [first_answer(mesh, a, b) for a, b in (("h1", "h3"), ("h2", "h4"), ("h1", "h5"), ("h2", "h6"))]
    told("first packet answered, ms", [round(t * 1000, 1) for t in times])
    assert min(times) <= 0.054
    assert max(times) <= 0.5


def test_the_upgrade_to_direct_loses_no_datagram_and_doubles_none(mesh: Mesh, told) -> None:
    """h3 and h4 never spoke before: the upgrade happens within the stream."""
    seen = udp_stream(mesh.world, mesh.addresses, "h3", "h4", rate=500, seconds=4)
    told("udp over the upgrade", seen)
    mesh.feed.until_path("h3", "h4", "direct", 3)
    assert seen["distinct"] == seen["sent"]
    assert seen["doubled"] == 0
    told("longest gap over the upgrade, s", seen["longest_gap_s"])


def black_hole(mesh: Mesh, told, a: str, b: str, port: int, *, one_way: bool) -> None:
    until_direct(mesh.world, a, b)
    with tcp_stream(mesh.world, mesh.addresses, a, b, port=port) as stream:
        mesh.feed.until_path(a, b, "direct", 5)
        mesh.lab.cut(a, b, one_way=one_way)
        cut = time.monotonic()
        relayed = mesh.feed.until_path(a, b, "relay", 10)
        mesh.feed.until_flows(a, b)
        healed = time.monotonic()
        mesh.lab.heal()
        direct = mesh.feed.until_path(a, b, "direct", 90)
        mesh.feed.until_flows(a, b)
        seen = stream.end()
    told("on the relay after the cut, s", round(relayed - cut, 2))
    told("longest silence of TCP, s", seen.longest(cut))
    told("direct after healing, s", round(direct - healed, 2))
    assert relayed - cut <= 7.0
    assert seen.longest(cut) <= 10.0


def test_a_black_hole_on_the_direct_path_leads_to_the_relay_within_7_s(mesh: Mesh, told) -> None:
    black_hole(mesh, told, "h1", "h2", 7101, one_way=False)


def test_a_black_hole_one_way_leads_to_the_relay_within_7_s(mesh: Mesh, told) -> None:
    black_hole(mesh, told, "h3", "h4", 7102, one_way=True)


def test_a_router_that_restarts_with_a_new_address_holds_streams_within_10_s(mesh: Mesh, told) -> None:
    until_direct(mesh.world, "h1", "h2")
    with tcp_stream(mesh.world, mesh.addresses, "h1", "h2", port=7103) as stream:
        mesh.feed.until_path("h1", "h2", "direct", 5)
        before = time.monotonic()
        mesh.lab.reboot("s2", new_address=True)
        done = time.monotonic()
        direct = mesh.feed.until_at("h1", "h2", mesh.lab.host("h2").outer_address, 60)
        mesh.feed.until_flows("h1", "h2")
        seen = stream.end()
    told("longest silence of TCP, s", seen.longest(before))
    told("direct at the new address, s", round(direct - done, 2))
    assert seen.longest(before) <= 10.0


def test_a_host_that_moves_to_another_network_holds_streams_within_2_s(mesh: Mesh, told) -> None:
    until_direct(mesh.world, "h5", "h1")
    with tcp_stream(mesh.world, mesh.addresses, "h5", "h1", port=7104) as stream:
        mesh.feed.until_path("h5", "h1", "direct", 5)
        mesh.lab.roam("h5", "s3")
        there = time.monotonic()
        direct = mesh.feed.until_at("h1", "h5", mesh.lab.host("h5").outer_address, 60)
        mesh.feed.until_flows("h5", "h1")
        seen = stream.end()
    flows = max((at + s for at, s in seen.stalls if at + s >= there), default=there)
    told("traffic goes on after the new address, s", round(flows - there, 2))
    told("direct from the new network, s", round(direct - there, 2))
    assert flows - there <= 2.0


def is_removed(mesh: Mesh, host: str) -> bool:
    network = mesh.feed.network(host)
    return network is not None and network.state == "removed"


def test_a_rotated_key_and_a_removed_client_break_no_stream_of_others(mesh: Mesh, told) -> None:
    """Nobody else uses h6 after this."""
    for pair in (("h1", "h2"), ("h6", "h1"), ("h6", "h3")):
        until_direct(mesh.world, *pair)
    others = ("h1", "h2", "h3", "h4", "h5")
    with (
        tcp_stream(mesh.world, mesh.addresses, "h1", "h2", port=7105) as one,
        tcp_stream(mesh.world, mesh.addresses, "h3", "h1", port=7106) as other,
    ):
        began = time.monotonic()
        before = mesh.world.status("h1").networks[0].epoch
        mesh.world.manage("network", "rotate-key", NETWORK)
        mesh.feed.until(
            lambda: all((n := mesh.feed.network(h)) is not None and n.epoch > before for h in others),
            5,
            "all hold the new key",
        )
        mesh.world.manage("client", "remove", NETWORK, "h6", "--yes")
        removed = time.monotonic()
        dropped = mesh.feed.until(lambda: not any(mesh.feed.peer(h, "h6") for h in others), 10, "all drop h6")
        out = mesh.feed.until(lambda: is_removed(mesh, "h6"), 10, "h6 knows that it is out")
        assert mesh.world.run("h6", "ping", "h1", "-c", "1", codes=(4,)).stdout == ""
        mesh.feed.until_flows("h1", "h2")
        mesh.feed.until_flows("h3", "h1")
        seen = [one.end(), other.end()]
    told("its peers drop the removed client, s", round(dropped - removed, 2))
    told("it knows, s", round(out - removed, 2))
    told("longest silences of TCP, s", [s.longest(began) for s in seen])
    assert max(dropped, out) - removed <= 2.0
    assert max(s.longest(began) for s in seen) <= 0.5
