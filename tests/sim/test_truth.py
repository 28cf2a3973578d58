"""What is told of paths and NATs is true: reasons name what is so, types stay as long as nothing contradicts them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from fake_crypto import Fake
from simworld import Host, World

from shadowmesh.dataplane.aead import FakeAead
from shadowmesh.engine.report import why as report_why
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.reasons import EXPLANATIONS, PAGES, Reason


def pair(kind_a: str, kind_b: str, *, seed: int = 1, relays: int = 1) -> tuple[World, Host, Host]:
    world = World(seed, primitives=Fake(seed), aead=FakeAead)
    for number in range(relays):
        world.relay(f"relay{number + 1}")
    a, b = world.host("a", kind_a), world.host("b", kind_b)
    world.start()
    world.run(8.0)
    return world, a, b


def talk(world: World, a: Host, b: Host, seconds: float, every: float = 0.5) -> None:
    for src, dst in ((a, b), (b, a)):
        world.stream(src, dst, every=every, count=int(seconds / every))


def states(a: Host, b: Host) -> list[tuple[str, str]]:
    return [(one.to(other).path, one.to(other).reason) for one, other in ((a, b), (b, a))]


# idle


@pytest.mark.parametrize("kinds", [("symmetric", "symmetric"), ("none", "port_restricted"), ("udp_blocked", "none")])
def test_who_was_spoken_to_is_never_idle_in_the_sense_of_never(kinds: tuple[str, str]) -> None:
    world, a, b = pair(*kinds)
    assert states(a, b) == [("none", "none.idle")] * 2
    talk(world, a, b, 10.0)
    for _ in range(100):
        world.run(10.0)
        for one, other in ((a, b), (b, a)):
            state = one.to(other)
            assert state.reason != "none.idle", f"at {world.time}: {state}"
            assert state.path in ("relay", "direct")
            assert state.idle or world.time < 1030.0


@pytest.mark.parametrize("kinds", [("none", "port_restricted"), ("symmetric", "symmetric")])
def test_idle_peers_stay_reachable_in_what_is_said_when_the_host_gets_another_address(kinds: tuple[str, str]) -> None:
    world, a, b = pair(*kinds)
    talk(world, a, b, 10.0)
    world.run(400.0)
    assert states(a, b) == [("relay", "relay.idle")] * 2
    a.readdress(ip_address("10.77.9.9"))
    for _ in range(10):
        world.run(1.0)  # it logs in at its relays anew, which takes less
        assert states(a, b) == [("relay", "relay.idle")] * 2, world.story(a, b)
    world.send(a, b)
    world.run(1.0)
    assert world.flow(a, b).all_arrived


def test_idle_peers_are_unreachable_for_no_longer_than_the_relay_is_away() -> None:
    world, a, b = pair("symmetric", "symmetric")
    talk(world, a, b, 10.0)
    world.run(400.0)
    world.relays["relay1"].kill()
    world.run(60.0)
    assert states(a, b) == [("none", "none.no_relay")] * 2
    world.relays["relay1"].revive()
    world.run(60.0)
    assert states(a, b) == [("relay", "relay.idle")] * 2, world.story(a, b)
    assert "→ b: relay relay.idle relay1" in [what for _, who, what in world.log if who == "a"][-1], "and told"


def test_a_peer_that_did_not_answer_is_said_to_have_done_so() -> None:
    world, a, b = pair("none", "none")
    b.stop()
    world.send(a, b)
    world.run(60.0)
    assert a.to(b).reason in ("none.connecting", "none.peer_offline")
    world.run(60.0)
    assert a.to(b).reason in ("none.no_answer", "none.peer_offline")


def controller_says_offline(world: World, host: Host) -> None:
    gone = Presence(client_id=host.client_id, online=False)
    world.controller.presence[host.client_id] = gone
    world.controller._spread(gone)


@pytest.mark.parametrize("speaks", [True, False], ids=["spoken to", "left alone"])
@pytest.mark.parametrize("relays", [1, 2])
@pytest.mark.parametrize("kinds", [("none", "port_restricted"), ("symmetric", "symmetric")])
def test_a_peer_that_died_is_offline_seconds_after_the_controller_says_so(
    kinds: tuple[str, str], relays: int, speaks: bool
) -> None:
    """As after kill -9: it took leave of nobody, and its relay still has it."""
    world, a, b = pair(*kinds, relays=relays)
    talk(world, a, b, 10.0)
    world.run(11.0)
    if speaks:
        world.stream(a, b, every=1.0, count=400)
    b.stop()
    controller_says_offline(world, b)
    world.run(8.0)
    for _ in range(200):
        state = a.to(b)
        assert (state.path, state.reason) == ("none", "none.peer_offline"), world.story(a, b)
        world.run(1.0)
    assert "→ b: none none.peer_offline -" in [what for _, who, what in world.log if who == "a"], "it is told, too"
    b.start()
    world.stream(b, a, every=0.5, count=10)
    world.run(8.0)
    assert a.to(b).path != "none", world.story(a, b)


@pytest.mark.parametrize("kinds", [("none", "port_restricted"), ("symmetric", "symmetric")])
def test_a_peer_that_died_without_a_controllers_word_is_not_said_to_be_reached_for_long(kinds: tuple[str, str]) -> None:
    world, a, b = pair(*kinds)
    talk(world, a, b, 10.0)
    world.run(11.0)
    world.controller.kill()
    world.stream(a, b, every=1.0, count=400)
    b.stop()
    world.run(35.0)
    for _ in range(300):
        assert a.to(b).path == "none", world.story(a, b)
        world.run(1.0)


@pytest.mark.parametrize("kinds", [("none", "port_restricted"), ("symmetric", "symmetric")])
def test_a_peer_whose_controller_alone_is_away_is_reached_as_before(kinds: tuple[str, str]) -> None:
    """It answers what it is asked."""
    world, a, b = pair(*kinds)
    talk(world, a, b, 10.0)
    world.run(25.0)
    before = states(a, b)
    controller_says_offline(world, b)
    for _ in range(60):
        world.run(1.0)
        assert states(a, b) == before, world.story(a, b)
    world.stream(a, b, every=1.0, count=200)
    world.run(200.0)
    assert len(world.flow(a, b).lost) == 0
    assert states(a, b) == before, world.story(a, b)


@pytest.mark.parametrize("kinds", [("none", "port_restricted"), ("symmetric", "symmetric")])
def test_no_living_peer_counts_as_silent_for_what_gets_lost_on_the_way(kinds: tuple[str, str]) -> None:
    """Neither single questions, nor probes of sizes that don't get through."""
    world = World(1, primitives=Fake(1), aead=FakeAead, loss=0.2)
    world.relay("relay1")
    a, b = world.host("a", kinds[0]), world.host("b", kinds[1])
    a.site.mtu = 1300
    world.start()
    world.run(8.0)
    for _ in range(3):
        world.stream(a, b, every=0.5, count=40)
        world.run(10.0)
        for _ in range(200):
            world.run(1.0)
            assert "none" not in [path for path, _ in states(a, b)], world.story(a, b)


# latency


@pytest.mark.parametrize("kinds", [("symmetric", "symmetric"), ("udp_blocked", "port_restricted")])
def test_relayed_peers_have_a_latency(kinds: tuple[str, str]) -> None:
    world, a, b = pair(*kinds)
    talk(world, a, b, 60.0)
    world.run(3.0)
    relay = world.relays["relay1"]
    round_trip = 2 * (a.site.delay + relay.delay + relay.delay + b.site.delay)
    for one, other in ((a, b), (b, a)):
        state = one.to(other)
        assert state.path == "relay"
        assert state.latency_ms == pytest.approx(1000 * round_trip, rel=0.4)
    before = world.datagrams
    world.run(50.0)
    assert world.datagrams - before < 2 * 100 * 1.5 + 150, "it is measured now and then, not with each packet"


# UDP


def test_a_host_whose_udp_dies_altogether_is_said_to_be_blocked_on_both_sides() -> None:
    world, a, b = pair("port_restricted", "port_restricted")
    talk(world, a, b, 400.0)
    world.run(10.0)
    assert states(a, b)[0][0] == "direct"
    a.site.udp_out = False
    world.run(60.0)
    assert states(a, b) == [("relay", "relay.udp_blocked")] * 2, world.story(a, b)
    assert a.node.nat.type == "udp_blocked"
    assert b.node.nat.type == "port_restricted"
    a.site.udp_out = True
    world.run(150.0)
    assert [path for path, _ in states(a, b)] == ["direct"] * 2, world.story(a, b)


def test_a_relay_without_udp_is_not_blocked_udp() -> None:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    world.relay("relay1").udp = False
    a, b = world.host("a", "symmetric"), world.host("b", "symmetric")
    world.start()
    world.run(8.0)
    talk(world, a, b, 60.0)
    world.run(30.0)
    assert states(a, b) == [("relay", "relay.both_symmetric")] * 2


def test_where_no_server_is_reached_by_anything_udp_is_not_blamed() -> None:
    world, a, _ = pair("port_restricted", "none")
    world.controller.kill()
    world.relays["relay1"].kill()
    world.run(300.0)
    assert a.node.nat.type == "port_restricted", "nothing contradicts it"
    a.stop()
    a.start()
    world.run(60.0)
    assert a.node.nat.type == "unknown"


# NAT types


@pytest.mark.parametrize("seed", range(10))
def test_a_router_that_accepts_packets_to_itself_makes_no_symmetric_nat(seed: int) -> None:
    """The relay sends to a port whose mapping has gone; from then on it, and it alone, sees this host at another one."""
    world, a, b = pair("accepting", "port_restricted", seed=seed)
    assert a.node.nat.type == "port_restricted"
    relay = world.relays["relay1"].addr
    talk(world, a, b, 400.0)
    for _ in range(20):
        nat = a.site.nats[0]
        for mapping in list(nat._out.values()):
            mapping.seen.pop(relay, None)  # the router forgets that flow …
            world.deliver(relay, mapping.public, b"\0" * 20, 0.0, 0.0)  # … as the relay sends, and accepts it itself
        world.run(15.0)
        assert a.node.nat.type == "port_restricted", world.tail()
        assert a.to(b).reason in ("direct.punched", "relay.upgrading", "relay.path_lost", "relay.no_answer")


@pytest.mark.parametrize("relays", [1, 2])
def test_a_relay_that_dies_changes_no_nats_type_and_no_reason(relays: int) -> None:
    world, a, b = pair("symmetric", "symmetric", relays=2)
    talk(world, a, b, 500.0)
    world.run(20.0)
    assert states(a, b) == [("relay", "relay.both_symmetric")] * 2
    home = a.node.engines[world.network_id].relays.home
    next(r for r in world.relays.values() if r.relay_id == home).kill()
    for _ in range(40):
        world.run(10.0)
        assert (a.node.nat.type, b.node.nat.type) == ("symmetric", "symmetric")
        assert {reason for _, reason in states(a, b)} == {"relay.both_symmetric"}, world.story(a, b)


def test_a_symmetric_nat_is_still_found_and_an_endpoint_independent_one_with_two_ports_is_not() -> None:
    for kind, wanted in (
        ("symmetric", "symmetric"),
        ("port_restricted", "port_restricted"),
        ("cgnat", "port_restricted"),
    ):
        for seed in range(5):
            world, a, _ = pair(kind, "none", seed=seed)
            world.run(200.0)
            assert a.node.nat.type == wanted


# relays


def test_a_forbidden_fallback_is_named() -> None:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    world.relay("relay1")
    a, b = world.host("a", "symmetric"), world.host("b", "symmetric")
    world.controller.relay_fallback = False
    world.start()
    world.run(8.0)
    talk(world, a, b, 30.0)
    world.run(20.0)
    state = a.to(b)
    assert (state.path, state.reason) == ("none", "none.no_relay")
    assert "forbids" in state.explanation
    world.relays["relay1"].kill()
    other = World(1, primitives=Fake(1), aead=FakeAead)
    a, b = other.host("a", "symmetric"), other.host("b", "symmetric")
    other.start()
    other.run(8.0)
    talk(other, a, b, 30.0)
    other.run(20.0)
    assert a.to(b).reason == "none.no_relay"
    assert "forbids" not in a.to(b).explanation


def test_two_homes_behind_one_carrier_that_turns_nothing_back_are_told_so() -> None:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    world.relay("relay1")
    carrier = world.site("port_restricted")
    a, b = world.host("a", carrier), world.host("b", carrier)
    carrier.isolated = True  # two homes: nothing between them but the carrier's router
    world.start()
    world.run(8.0)
    talk(world, a, b, 60.0)
    world.run(30.0)
    assert states(a, b) == [("relay", "relay.no_hairpin")] * 2, world.story(a, b)
    engine = a.node.engines[world.network_id]
    assert "carrier" in report_why(engine, engine.peers[b.client_id], a.clock(), a.node.counters).peer.explanation


def test_the_second_of_two_ways_after_a_pause_is_counted_as_a_duplicate_and_as_nothing_else() -> None:
    world, a, b = pair("port_restricted", "port_restricted")
    talk(world, a, b, 5.0)
    world.run(30.0)
    assert states(a, b) == [("direct", "direct.punched")] * 2, world.story(a, b)
    world.stream(a, b, every=1.0, count=1)
    world.run(3.0)
    engine = b.node.engines[world.network_id]
    assert report_why(engine, engine.peers[a.client_id], b.clock(), b.node.counters).drops == {"duplicate": 1}


def test_each_reason_has_its_sentence_and_its_page() -> None:
    assert set(EXPLANATIONS) == set(PAGES) == set(Reason)
    assert all(len(page.strip()) > 80 for page in PAGES.values())


# new ports while idle


@pytest.mark.parametrize(
    "kinds", [("port_restricted", "port_restricted"), ("none", "port_restricted"), ("symmetric", "symmetric")]
)
@pytest.mark.parametrize("idle", [60.0, 200.0])
def test_an_idle_receiver_with_new_ports_is_reached_as_soon_as_its_relay_knows(
    kinds: tuple[str, str], idle: float
) -> None:
    """Its own next sign of life tells the relay, within 22 s; until then nobody can reach it."""
    for seed in range(6):
        world, a, b = pair(*kinds, seed=seed)
        talk(world, a, b, 10.0)
        world.run(12.0 + idle)
        b.site.restart(world)
        restarted = world.time
        world.stream(a, b, every=0.1, count=400)
        relay = world.relays["relay1"].core
        before = {s.number for s in relay.sessions if s.ip == b.overlay}
        world.run_until(lambda: any(s.ip == b.overlay and s.number not in before for s in relay.sessions), 23.0)  # noqa: B023
        known = world.time
        world.run(3.0)
        heard = [t for t in world.flow(a, b).received.values() if t > restarted]
        assert heard, world.story(a, b)
        assert min(heard) - known <= 1.0, world.story(a, b)
