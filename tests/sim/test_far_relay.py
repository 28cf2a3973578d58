"""A peer whose home relay is none of our own two: its session is kept while there is data, left after, and found again."""

from __future__ import annotations

import itertools

import pytest
from fake_crypto import Fake
from simworld import Host, World

from shadowmesh.dataplane.aead import FakeAead
from shadowmesh.engine import ReportPresence


def pair_on_a_far_relay(kind: str) -> tuple[World, Host, Host]:
    """Both are nearest to the first two of three relays, and are told that the other is on the third."""
    world = World(3, primitives=Fake(3), aead=FakeAead)
    for number in range(3):
        world.relay(f"relay{number + 1}").delay = 0.002 + 0.02 * number
    a, b = world.host("a", kind), world.host("b", kind)
    world.start()
    world.run(8.0)
    for host in (a, b):
        world.controller.report(host, ReportPresence(world.network_id, world.relays["relay3"].relay_id, None, ()))
    world.run(2.0)
    return world, a, b


def at_relay3(world: World, host: Host) -> bool:
    return any(s.ip == host.overlay for s in world.relays["relay3"].core.sessions)


def silence(world: World, a: Host, b: Host, since: float) -> float:
    times = [since, *sorted(t for t in world.flow(a, b).received.values() if t > since)]
    return max(y - x for x, y in itertools.pairwise(times))


@pytest.mark.parametrize("idle", [100.0, 200.0, 260.0, 400.0, 1000.0])
def test_an_idle_pair_on_a_far_relay_talks_again_at_once(idle: float) -> None:
    world, a, b = pair_on_a_far_relay("symmetric")
    world.stream(a, b, every=0.5, count=30)
    world.run(16.0)
    assert a.to(b).relay == "relay3"
    world.run(idle)
    first = world.flow(a, b).sent
    world.stream(a, b, every=0.5, count=30)
    world.run(17.0)
    assert not [n for n in world.flow(a, b).lost if n >= first], world.story(a, b)
    assert world.flow(a, b).delay(first) < 1.0


def test_traffic_keeps_the_session_on_a_far_relay() -> None:
    world, a, b = pair_on_a_far_relay("symmetric")
    world.stream(a, b, every=0.5, count=1200)
    world.run(600.0)
    assert a.to(b).relay == "relay3"
    assert not world.flow(a, b).lost


def test_a_direct_pair_keeps_the_far_relay_to_fall_back_on() -> None:
    world, a, b = pair_on_a_far_relay("port_restricted")
    for src, dst in ((a, b), (b, a)):
        world.stream(src, dst, every=0.2, count=4000)
    world.run(600.0)
    assert a.to(b).path == "direct"
    began = world.time
    world.cuts |= {(a.site.name, b.site.name), (b.site.name, a.site.name)}
    world.run(30.0)
    assert silence(world, a, b, began) <= 7.0, world.story(a, b)
    assert a.to(b).path == "relay"


def test_a_far_relay_that_nobody_needs_is_left() -> None:
    world, a, b = pair_on_a_far_relay("symmetric")
    world.stream(a, b, every=0.5, count=10)
    world.run(700.0)
    assert not at_relay3(world, a)
    assert not at_relay3(world, b)
