"""What is closed stays closed: not one datagram more, for an hour (the simulated internet fails on the first)."""

from __future__ import annotations

import ipaddress

import pytest
from closed import ownerless
from fake_crypto import Fake
from simworld import Host, World

from shadowmesh.dataplane.aead import FakeAead

HOUR = 3600.0


def pair(kind_a: str = "none", kind_b: str = "none", *, seed: int = 3) -> tuple[World, Host, Host]:
    world = World(seed, primitives=Fake(seed), aead=FakeAead)
    world.relay("relay1")
    world.relay("relay2")
    a, b = world.host("a", kind_a), world.host("b", kind_b)
    world.start()
    return world, a, b


def relays_know(world: World, address: ipaddress.IPv4Address) -> list[str]:
    return [r.name for r in world.relays.values() if any(s.ip == address for s in r.core.sessions)]


@pytest.mark.parametrize("kind", ["none", "port_restricted", "udp_blocked"])
@pytest.mark.parametrize("after", [0.0, 0.03, 0.3, 1.3, 2.5, 6.0, 130.0])
def test_a_network_taken_down_is_silent_for_an_hour(kind: str, after: float) -> None:
    """At any moment: before the first login, within one, with a session, with a stream, with a review due."""
    world, a, _ = pair(kind)
    world.run(after)
    a.leave()
    world.run(HOUR)
    assert not relays_know(world, a.overlay)
    assert not a.streams
    assert a.node.next_deadline() is None


@pytest.mark.parametrize("after", [0.0, 0.02, 0.2, 1.0, 8.0, 121.0])
def test_a_network_taken_down_under_traffic_is_silent_for_an_hour(after: float) -> None:
    """With handshakes, checks and rekeys under way, and the other side going on for a while."""
    world, a, b = pair("port_restricted", "port_restricted")
    world.run(2.5)
    world.stream(b, a, every=0.3, count=1000)
    world.stream(a, b, every=0.3, count=int(after / 0.3) + 1)
    world.run(after)
    a.leave()
    world.run(HOUR)
    assert not a.node.indices_in_use


def test_a_ping_under_way_ends_with_the_network() -> None:
    world, a, b = pair()
    world.run(2.5)
    b.stop()
    now = a.clock()
    a.node.ping(world.network_id, b.client_id, 7, now, 2.0)
    a.leave()
    assert not a.pings[7].ok
    world.run(HOUR)


def test_a_relay_that_answers_late_wakes_nobody() -> None:
    world, a, _ = pair()
    world.run(2.5)
    relay = world.relays["relay1"]
    relay.restart()  # whatever a says next is answered by "no session"
    a.leave()
    world.run(HOUR)
    assert not relays_know(world, a.overlay)


def test_a_network_comes_up_again_as_if_nothing_had_been() -> None:
    world, a, b = pair("port_restricted", "port_restricted")
    world.run(2.5)
    world.stream(a, b, every=0.2, count=20)
    world.run(10.0)
    a.leave()
    world.run(200.0)
    a.join()
    world.run(2.5)
    first = world.flow(a, b).sent
    world.stream(a, b, every=0.2, count=50)
    world.run_until(lambda: a.to(b).path == "direct", 5.0)
    assert first in world.flow(a, b).received
    assert world.flow(a, b).delay(first) < 1.0


@pytest.mark.parametrize("after", [0.0, 0.1, 5.0, 121.0])
def test_a_removed_member_gets_nothing_for_an_hour(after: float) -> None:
    world, a, b = pair()
    c = world.host("c", "none")
    world.controller._map = None
    c.start()
    world.controller.push_map()
    world.run(2.5)
    world.stream(a, b, every=0.2, count=5000)
    world.stream(a, c, every=0.2, count=5000)  # goes on: there is nobody to take it
    world.stream(c, a, every=0.2, count=5000)
    world.run(after)
    world.controller.remove(c)
    world.run(1.0)
    assert any(closed.dest == c.overlay for closed in a.closed)
    world.run(HOUR)
    assert len(world.flow(a, b).received) > 4500


def test_another_address_ends_what_belonged_to_the_old_one() -> None:
    world, a, b = pair("symmetric", "symmetric")
    world.run(4.0)
    world.stream(b, a, every=0.5, count=10)
    world.run(6.0)
    old = a.overlay
    a.readdress(ipaddress.IPv4Address("10.77.5.5"))
    world.run(3.0)
    for _ in range(4):
        assert not relays_know(world, old)
        assert relays_know(world, a.overlay)
        world.run(HOUR / 4)
    # Both ways under the new address, by relay.
    for src, dst in ((a, b), (b, a)):
        world.send(src, dst)
        world.run(1.0)
        assert world.flow(src, dst).all_arrived, world.story(a, b)


def test_no_deadline_outlives_its_owner() -> None:
    world, a, b = pair("port_restricted", "udp_blocked")
    world.run(8.0)
    world.stream(a, b, every=0.5, count=400)
    for _ in range(20):
        world.run(10.0)
        assert not ownerless(a.node)
        assert not ownerless(b.node)


def test_a_refused_token_is_not_tried_for_ever_at_the_same_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its relays hear their controller and want a newer one; this host's controller is away, so none comes."""
    world, a, b = pair()
    world.run(5.0)
    b.leave()
    cores = [relay.core for relay in world.relays.values()]
    for core in cores:
        monkeypatch.setattr(core, "_stale", lambda token, now: True)
    now = a.clock()
    a.node.network_changed(now)
    a.settle(now)
    world.run(600.0)
    before = sum(core.counters.hellos for core in cores)
    world.run(3600.0)
    assert sum(core.counters.hellos for core in cores) - before <= 2 * 3600 / 25
    monkeypatch.undo()
    world.run(200.0)
    assert relays_know(world, a.overlay)
