"""The controller is killed: the mesh goes on, a daemon that restarts comes back from its disk, and all find the controller again.

The tests are one story, in this order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from meshkit import Feed, TcpStream, ping, tcp_stream, until_direct

from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.status import PingTry

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")


class Story:
    def __init__(self, world: World, addresses: dict[str, str], feed: Feed, stream: TcpStream) -> None:
        self.world = world
        self.addresses = addresses
        self.feed = feed
        self.stream = stream
        self.killed = self.rebooted = self.settled = 0.0


@pytest.fixture(scope="module")
def story(module_lab_factory) -> Iterator[Story]:
    """A mesh of three, h1 and h2 direct, h3 symmetric and so relayed to both, a stream from h1 to h2; no controller."""
    nats = (NatType.PORT_RESTRICTED, NatType.PORT_RESTRICTED, NatType.SYMMETRIC)
    lab = module_lab_factory(LabSpec(sites=tuple(SiteSpec(nat=nat) for nat in nats), relays=1, controllers=1))
    world = World(lab)
    addresses = world.mesh()
    with Feed(world, HOSTS) as feed, tcp_stream(world, addresses, "h1", "h2") as stream:
        until_direct(world, "h1", "h2")
        feed.until(lambda: all(n.controller == "connected" for n in map(feed.network, HOSTS) if n), 10, "all connected")
        made = Story(world, addresses, feed, stream)
        world.stop("controller1", kill=True)
        made.killed = time.monotonic()
        yield made


def restart(world: World, host: str) -> float:
    """Kills a daemon and starts it again; returns when its process started."""
    world.stop(host, kill=True)
    began = time.monotonic()
    world._start(host, "daemon", "run", "--state-dir", str(world.lab.host(host).state_directory))
    return began


def first_answer(world: World, host: str, peer: str, timeout: float) -> PingTry:
    """Pings, as soon as the daemon can be asked, until the peer answers; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            for attempt in world.client(host).ping(peer, count=1, timeout=0.5, until_direct=False):
                if attempt.ok:
                    return attempt
        except ShadowMeshError:  # it doesn't listen yet, or doesn't know its networks yet
            time.sleep(0.01)
    raise AssertionError(f"{peer} didn't answer {host} within {timeout} s")


def test_pairs_go_on_talking_and_new_ones_begin(story: Story, told) -> None:
    """h1 and h3 never spoke before: their first handshake happens without a controller, over the relay."""
    gone = story.feed.until(
        lambda: all(n.controller == "offline" for n in map(story.feed.network, HOSTS) if n), 10, "all see it gone"
    )
    told("all know that the controller is gone after, s", round(gone - story.killed, 2))
    (attempt,) = ping(story.world, "h1", "h3")
    assert attempt.ok
    assert attempt.path == "relay"
    seen = story.feed.peer("h1", "h2")
    assert seen is not None
    assert seen.online is None  # nobody knows
    assert seen.path == "direct"
    story.feed.until_flows("h1", "h2")


@pytest.mark.parametrize("peer", ["h1", "h2"])
def test_a_restarted_daemon_comes_back_from_disk_within_3_s(story: Story, peer: str, told) -> None:
    """h1 spoke with it a moment ago, h2 never did."""
    began = restart(story.world, "h3")
    answer = first_answer(story.world, "h3", peer, 20)
    took = time.monotonic() - began
    told(f"daemon start to the first answer of {peer}, s", round(took, 2))
    assert answer.path == "relay"
    assert took <= 3.0
    assert story.world.status("h3").networks[0].controller == "offline"


@pytest.mark.parametrize("peer", ["h1", "h2"])
def test_a_peer_reaches_the_restarted_daemon_within_3_s(story: Story, peer: str, told) -> None:
    assert first_answer(story.world, peer, "h3", 5).path == "relay"
    (client_id,) = (p.client_id for p in story.world.status("h3").networks[0].peers if p.name == peer)
    kept = story.world.lab.host("h3").state_directory / "recent.json"
    deadline = time.monotonic() + 3.0  # talked with for that long, it is known after a kill
    while client_id not in kept.read_text():
        assert time.monotonic() < deadline, f"{peer} isn't kept"
        time.sleep(0.01)
    began = restart(story.world, "h3")
    first_answer(story.world, peer, "h3", 20)
    took = time.monotonic() - began
    told(f"daemon start to the first answer that {peer} gets, s", round(took, 2))
    assert took <= 3.0


def test_a_nat_that_gets_another_address_meanwhile_holds_the_stream_within_10_s(story: Story, told) -> None:
    lab = story.world.lab
    story.rebooted = time.monotonic()
    lab.reboot("s2", new_address=True)
    story.feed.until_at("h1", "h2", lab.host("h2").outer_address, 60)
    story.feed.until_flows("h1", "h2")
    story.settled = time.monotonic()
    told("direct at the new address, s", round(story.settled - story.rebooted, 2))


def test_all_find_the_controller_when_it_is_back(story: Story, told) -> None:
    world, feed = story.world, story.feed
    world.start_controller()
    ready = time.monotonic()
    back = feed.until(
        lambda: all(n is not None and n.controller == "connected" for n in map(feed.network, HOSTS)), 60, "all are back"
    )
    told("all links stand again after, s", round(back - ready, 2))
    feed.until(
        lambda: all((p := feed.peer(a, b)) is not None and p.online for a in HOSTS for b in HOSTS if a != b),
        10,
        "presence is known again",
    )
    assert back - ready <= 30.0


def test_the_stream_noticed_nothing_but_the_change_of_address(story: Story, told) -> None:
    seen = story.stream.end()
    told("longest silence of TCP at the change of address, s", seen.longest(story.rebooted, story.settled))
    told("longest silence of TCP else, s", max(seen.longest(0, story.rebooted), seen.longest(story.settled)))
    assert seen.longest(0, story.rebooted) <= 0.5
    assert seen.longest(story.rebooted, story.settled) <= 10.0
    assert seen.longest(story.settled) <= 0.5
