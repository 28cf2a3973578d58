"""Faults, each with the bound that is promised for it, in virtual time."""

from __future__ import annotations

import itertools

import pytest
from simworld import Host, World


def direct_pair(
    kind_a: str = "port_restricted", kind_b: str = "port_restricted", *, relays: int = 1, timeout: float = 120.0
) -> tuple[World, Host, Host]:
    """Two hosts that talk directly, with a stream both ways going on for two minutes."""
    world = World(7)
    for i in range(relays):
        world.relay(f"relay{i + 1}")
    a = world.host("a", world.site(kind_a, timeout=timeout))
    b = world.host("b", world.site(kind_b, timeout=timeout))
    world.start()
    world.run(2.5)
    talk(world, a, b)
    world.run_until(lambda: a.to(b).path == b.to(a).path == "direct", 3.0)
    world.run(5.0)
    return world, a, b


def talk(world: World, a: Host, b: Host, *, every: float = 0.05, seconds: float = 120.0) -> None:
    world.stream(a, b, every=every, count=int(seconds / every))
    world.stream(b, a, every=every, count=int(seconds / every))


def silence(world: World, a: Host, b: Host, since: float) -> float:
    """The longest time after `since` in which one of the two heard nothing from the other."""
    worst = 0.0
    for src, dst in ((a, b), (b, a)):
        times = [since, *sorted(t for t in world.flow(src, dst).received.values() if t >= since)]
        worst = max([worst, world.time - times[-1], *(y - x for x, y in itertools.pairwise(times))])
    return worst


def no_doubles(world: World) -> None:
    assert not any(flow.doubled for flow in world.flows.values())


def test_relay_to_direct_upgrade_loses_and_doubles_nothing() -> None:
    world = World(3)
    world.relay("relay1")
    a, b = world.host("a", "port_restricted"), world.host("b", "port_restricted")
    world.start()
    world.run(2.5)
    talk(world, a, b, every=0.002, seconds=6.0)
    world.run(10.0)
    assert a.to(b).path == b.to(a).path == "direct"
    for flow in world.flows.values():
        assert flow.sent == 3000
        assert not flow.lost
        assert not flow.doubled


@pytest.mark.parametrize("way", ["both", "one"])
def test_black_hole_is_left_for_the_relay_within_7_s_and_direct_again_90_s_after_it_heals(way: str) -> None:
    world, a, b = direct_pair()
    began = world.time
    world.cuts.add((a.site.name, b.site.name))
    if way == "both":
        world.cuts.add((b.site.name, a.site.name))
    world.run(20.0)
    assert silence(world, a, b, began) <= 7.0, world.story(a, b)
    assert a.to(b).path == b.to(a).path == "relay"
    assert a.to(b).reason in ("relay.path_lost", "relay.no_answer")
    world.cuts.clear()
    world.run_until(lambda: a.to(b).path == b.to(a).path == "direct", 90.0)
    no_doubles(world)


def test_nat_mapping_expired_while_idle_next_packet_1_s_direct_3_s() -> None:
    world = World(5)
    world.relay("relay1")
    # NATs that forget sooner than the keepalive of a dormant path comes
    a = world.host("a", world.site("port_restricted", timeout=15.0))
    b = world.host("b", world.site("port_restricted", timeout=15.0))
    world.start()
    world.run(2.5)
    talk(world, a, b, every=0.2, seconds=10.0)
    world.run(80.0)
    began = world.time
    flow = world.flow(a, b)
    first = flow.sent
    world.stream(a, b, every=0.1, count=50)
    world.run_until(lambda: first in flow.received, 1.0)
    world.run_until(lambda: a.to(b).path == b.to(a).path == "direct", 3.0 - (world.time - began))
    world.run(5.0)
    assert not flow.lost
    no_doubles(world)


def test_dormant_path_is_direct_at_the_first_packet_when_the_nat_remembers() -> None:
    world, a, b = direct_pair()
    world.run(125.0)
    assert a.to(b).path == "direct"
    world.run(60.0)
    assert a.to(b).idle
    world.stream(a, b, every=0.1, count=20)
    world.run(3.0)
    assert a.to(b).path == b.to(a).path == "direct"
    assert not a.to(b).idle
    assert not world.flow(a, b).lost
    no_doubles(world)


def test_a_path_silent_for_5_minutes_is_forgotten() -> None:
    world, a, b = direct_pair()
    world.run(120.0 + 330.0)
    for one, other in ((a, b), (b, a)):
        assert (one.to(other).path, one.to(other).idle, one.to(other).reason) == ("relay", True, "relay.idle")
    before = world.datagrams
    world.run(20.0)
    assert world.datagrams - before < 10, "silent peers cost next to nothing"
    world.stream(a, b, every=0.1, count=20)
    world.run_until(lambda: a.to(b).path == b.to(a).path == "direct", 3.0)


@pytest.mark.parametrize("new_address", [False, True])
@pytest.mark.parametrize("other", ["port_restricted", "full_cone"])
def test_nat_restart_heals_within_10_s(new_address: bool, other: str) -> None:
    world, a, b = direct_pair(kind_b=other)
    began = world.time
    a.site.restart(world, new_ip="198.18.9.9" if new_address else None)
    world.run(60.0)
    assert silence(world, a, b, began) <= 10.0, world.story(a, b)
    assert a.to(b).path == b.to(a).path == "direct", world.story(a, b)
    no_doubles(world)


def test_nat_restart_of_a_relayed_host_heals_within_10_s() -> None:
    world = World(2)
    world.relay("relay1")
    world.relay("relay2")
    a, b = world.host("a", "symmetric"), world.host("b", "symmetric")
    world.start()
    world.run(2.5)
    world.stream(b, a, every=0.2, count=400)  # a only listens: nothing of its own opens the new mapping
    world.run(20.0)
    began = world.time
    a.site.restart(world)
    world.run(30.0)
    times = sorted(t for t in world.flow(b, a).received.values() if t > began - 1)
    assert max(y - x for x, y in itertools.pairwise(times)) <= 10.0


def test_host_moves_to_another_network_within_2_s() -> None:
    world, a, b = direct_pair()
    elsewhere = world.site("full_cone")
    began = world.time
    a.move(elsewhere)
    world.run(30.0)
    assert silence(world, a, b, began) <= 2.0, world.story(a, b)
    assert a.to(b).path == b.to(a).path == "direct"
    no_doubles(world)


def test_sleep_of_an_hour_works_3_s_after_waking() -> None:
    world, a, b = direct_pair()
    a.stop()  # asleep: neither timers nor packets
    world.run(3600.0)
    a.running = True
    began = world.time
    a.timer_at = began
    a.timer(began)
    woke = [what for t, who, what in world.log if t == began and who == "a" and what.startswith("woke")]
    assert len(woke) == 1, "its links to controllers are to be tried at once"
    assert abs(float(woke[0].split()[2]) - 3600) < 10
    first = world.flow(a, b).sent
    talk(world, a, b, every=0.1, seconds=10.0)
    world.run_until(lambda: first in world.flow(a, b).received, 3.0)
    world.run(8.0)
    assert silence(world, a, b, began + 3.0) <= 1.0


@pytest.mark.parametrize("jump", [86400.0, -86400.0, -1_700_000_000.0])
def test_wall_clock_jumps_touch_no_session_and_new_handshakes_succeed(jump: float) -> None:
    world, a, b = direct_pair()
    began = world.time
    a.wall_shift = jump
    world.run(300.0 - 90.0)
    talk(world, a, b, every=0.1, seconds=140.0)
    world.run(140.0)
    assert silence(world, a, b, world.time - 139.0) < 1.0
    since = [t for t, who, what in world.log if who == "a" and "handshake done" in what and t > began]
    assert since, "sessions were renewed after the jump"
    # A restart with the clock still wrong: the timestamp kept on disk makes the next handshake count.
    floor = a.node.timestamp
    a.stop()
    a.start(timestamp_floor=floor)
    world.run(2.0)
    first = world.flow(a, b).sent
    world.send(a, b)
    world.run(2.0)
    assert first in world.flow(a, b).received


def test_rekey_under_traffic_loses_nothing() -> None:
    world, a, b = direct_pair()
    talk(world, a, b, every=0.02, seconds=400.0)
    world.run(410.0)
    for flow in world.flows.values():
        assert not flow.lost
        assert not flow.doubled
    done = [t for t, who, what in world.log if who == "a" and "handshake done" in what]
    assert len(done) >= 4
    assert max(y - x for x, y in itertools.pairwise(done)) < 135.0


def test_rotation_drops_no_session_and_the_next_handshake_uses_the_new_key() -> None:
    world, a, b = direct_pair()
    talk(world, a, b, every=0.05, seconds=250.0)
    world.controller.rotate()
    world.run(255.0)
    for flow in world.flows.values():
        assert not flow.lost
        assert not flow.doubled
    last = [what for _, who, what in world.log if who == "a" and "handshake done" in what][-1]
    assert last.endswith("epoch 1")
    assert a.node.epoch(world.network_id, a.clock()) == 1


def test_one_side_missed_the_rotation_and_they_still_meet() -> None:
    world, a, b = direct_pair()
    world.controller.withheld.add(b.client_id)
    world.controller.rotate()
    talk(world, a, b, every=0.1, seconds=300.0)
    world.run(305.0)
    assert silence(world, a, b, world.time - 300.0) <= 6.0


def test_no_common_network_key_says_so_and_asks_for_the_grant() -> None:
    world, a, b = direct_pair()
    world.controller.withheld.add(b.client_id)
    world.controller.rotate()
    world.run(10.0)
    world.controller.end_epoch(0)
    talk(world, a, b, every=0.5, seconds=400.0)
    world.run(380.0)
    assert {a.to(b).reason, b.to(a).reason} & {"none.stale_key"}
    assert a.grants_wanted + b.grants_wanted > 0


def test_removed_member_is_cut_off_at_once() -> None:
    world, a, b = direct_pair()
    c = world.host("c", "none")
    world.controller._map = None
    c.start()
    world.controller.push_map()
    world.run(2.0)
    talk(world, c, b, every=0.1, seconds=60.0)
    talk(world, a, b, every=0.1, seconds=60.0)
    world.run(10.0)
    assert world.flow(c, b).received
    world.controller.remove(c)
    world.run(2.0)
    heard = len(world.flow(c, b).received)
    began = world.time
    world.run(20.0)
    assert len(world.flow(c, b).received) == heard
    assert silence(world, a, b, began) < 1.0
    assert all(peer.member.name != "c" for peer in b.node.engines[world.network_id].peers.values())


def test_relay_restart_is_over_within_3_s() -> None:
    world = World(4)
    relay = world.relay("relay1")
    a, b = world.host("a", "symmetric"), world.host("b", "symmetric")
    world.start()
    world.run(2.5)
    world.stream(a, b, every=0.05, count=800)
    world.run(15.0)
    began = world.time
    relay.restart()
    world.run(10.0)
    times = sorted(t for t in world.flow(a, b).received.values() if t > began - 1)
    assert max(y - x for x, y in itertools.pairwise(times)) <= 3.0
    no_doubles(world)


@pytest.mark.parametrize("silently", [False, True])
def test_a_broken_stream_is_replaced(silently: bool) -> None:
    world = World(4)
    relay = world.relay("relay1")
    a, b = world.host("a", "udp_blocked"), world.host("b", "symmetric")
    world.start()
    world.run(6.0)
    talk(world, a, b, seconds=60.0)
    world.run(10.0)
    began = world.time
    if silently:
        relay.streams.clear()  # as a firewall does that forgot the connection
    else:
        relay.restart()
    world.run(20.0)
    assert silence(world, a, b, began) <= (8.0 if silently else 3.0), world.story(a, b)
    no_doubles(world)


@pytest.mark.parametrize("kind", ["symmetric", "udp_blocked"])
def test_relay_killed_another_one_serves_within_3_s(kind: str) -> None:
    world = World(4)
    world.relay("relay1")
    world.relay("relay2")
    a, b = world.host("a", kind), world.host("b", "symmetric")
    world.start()
    world.run(8.0)
    talk(world, a, b, seconds=60.0)
    world.run(15.0)
    began = world.time
    home = b.node.engines[world.network_id].relays.home
    next(r for r in world.relays.values() if r.relay_id == home).kill()
    world.run(20.0)
    assert silence(world, a, b, began) <= 3.0, world.story(a, b)
    no_doubles(world)


def test_controller_away_nobody_is_stopped() -> None:
    world, a, b = direct_pair()
    for host in (a, b):
        now = host.clock()
        host.node.controller_link(world.network_id, False, now)
        host.settle(now)
    assert a.to(b).online is None
    began = world.time
    a.site.restart(world)
    world.run(60.0)
    assert silence(world, a, b, began) <= 10.0
    assert a.to(b).path == "direct"


def test_a_newcomer_is_answered_as_soon_as_the_other_side_knows_it() -> None:
    """It has the new map first; whoever it calls learns of it later, when its own handshake waits for its next try."""
    world = World(11)
    world.relay("relay1")
    a, b = world.host("a", "port_restricted"), world.host("b", "port_restricted")
    world.start()
    world.run(2.5)
    b.stop()
    world.controller.removed.add(a.client_id)
    world.controller.push_map()
    b.start()
    world.controller.removed.discard(a.client_id)
    world.run(1.0)
    world.stream(a, b, every=0.5, count=100)
    world.run(14.0)
    assert not world.flow(a, b).received
    world.controller.push_map()
    known = world.time
    world.run_until(lambda: bool(world.flow(a, b).received), 5.0)
    assert world.time - known < 0.5 + 1.0  # the map's way, and the handshake by relay
