"""Every pair of NAT types: talks at once through the relay, goes direct where plain punching can."""

from __future__ import annotations

import pytest
from simnat import CONES, KINDS, PORT_RESTRICTED, punchable
from simworld import Host, World

PAIRS = [(a, b) for i, a in enumerate(KINDS) for b in KINDS[i:]]


def pair(a: str, b: str, *, seed: int = 1, loss: float = 0.0) -> tuple[World, Host, Host]:
    world = World(seed, loss=loss)
    world.relay("relay1")
    hosts = world.host("a", a), world.host("b", b)
    world.start()
    world.run(2.5)
    return world, *hosts


@pytest.mark.parametrize(("kind_a", "kind_b"), PAIRS)
def test_each_pair_of_nats_talks_at_once_and_ends_where_the_matrix_says(kind_a: str, kind_b: str) -> None:
    world, a, b = pair(kind_a, kind_b)
    world.stream(a, b, every=0.05, count=300)
    world.stream(b, a, every=0.05, count=300)
    if punchable(kind_a, kind_b):
        world.run_until(lambda: a.to(b).path == b.to(a).path == "direct", 3.0)
    world.run(20.0)
    for src, dst in ((a, b), (b, a)):
        flow = world.flow(src, dst)
        assert not flow.lost, world.story(a, b)
        assert not flow.doubled, world.story(a, b)
        assert flow.delay(0) < 0.5, "the first packet waits for no more than a handshake over the relay"
        wanted = "direct" if punchable(kind_a, kind_b) else "relay"
        assert src.to(dst).path == wanted, world.story(a, b)


def reasons(kind_a: str, kind_b: str) -> tuple[str, str]:
    world, a, b = pair(kind_a, kind_b)
    world.stream(a, b, every=0.5, count=40)
    world.run(18.0)
    return a.to(b).reason, b.to(a).reason


def test_both_sides_say_why_they_are_relayed() -> None:
    assert reasons("symmetric", "symmetric") == ("relay.both_symmetric",) * 2
    assert reasons("symmetric", "port_restricted") == ("relay.symmetric_port_restricted",) * 2
    assert reasons("full_cone", "udp_blocked") == ("relay.udp_blocked",) * 2


def test_a_direct_path_is_named_by_what_made_it_possible() -> None:
    assert reasons("port_restricted", "port_restricted") == ("direct.punched",) * 2
    assert reasons("none", "port_restricted") == ("direct.public",) * 2


def test_two_hosts_of_one_site_talk_on_their_lan() -> None:
    world = World(1)
    world.relay("relay1")
    home = world.site("port_restricted")
    a, b = world.host("a", home), world.host("b", home)
    world.start()
    world.run(2.0)
    world.stream(a, b, every=0.2, count=50)
    world.run(10.0)
    assert a.to(b).reason == b.to(a).reason == "direct.lan"
    assert not world.flow(a, b).lost


@pytest.mark.parametrize("kind", KINDS)
def test_netcheck_names_the_nat(kind: str) -> None:
    world, a, _ = pair(kind, "none")
    world.run(6.0)
    if kind == "none":
        wanted = "none"
    elif kind in PORT_RESTRICTED:
        wanted = "port_restricted"
    elif kind in CONES:
        wanted = "restricted"  # full cone can't be told from it without a server that was never sent to
    else:
        wanted = kind
    assert a.node.nat.type == wanted


def test_first_packet_is_answered_within_two_round_trips_and_50_ms_over_the_relay() -> None:
    world, a, b = pair("port_restricted", "port_restricted")
    relay = world.relays["relay1"]
    round_trip = 2 * (a.site.delay + relay.delay + 0.003 + b.site.delay)
    answer = a.ping(b)
    assert answer.ok
    assert answer.path == "relay"
    world.send(b, a)
    world.run(1.0)
    assert world.flow(b, a).delay(0) <= round_trip
    assert answer.latency is not None
    assert answer.latency <= 2 * round_trip + 0.05


def test_20_percent_loss_keeps_a_direct_path() -> None:
    for seed in range(5):
        world, a, b = pair("port_restricted", "port_restricted", seed=seed)
        world.stream(a, b, every=0.5, count=1000)
        world.stream(b, a, every=0.5, count=1000)
        world.run(10.0)
        assert a.to(b).path == b.to(a).path == "direct"
        for site in (a.site, b.site):
            site.loss = 0.1055  # two crossings: 20 % each way
        mark = len(world.log)
        world.run(300.0)
        left = [entry for entry in world.log[mark:] if "relay" in entry[2]]
        assert not left, world.story(a, b)
        assert not world.flow(a, b).doubled


def test_relay_only_network_says_so() -> None:
    world = World(1)
    world.relay("relay1")
    a, b = world.host("a", "none"), world.host("b", "full_cone")
    world.controller.p2p = False
    world.start()
    world.run(2.0)
    world.stream(a, b, every=0.5, count=20)
    world.run(12.0)
    assert a.to(b).reason == b.to(a).reason == "relay.p2p_disabled"
    assert not world.flow(a, b).lost


def test_without_relay_fallback_data_waits_for_the_direct_path() -> None:
    world = World(1)
    relay = world.relay("relay1")
    a, b = world.host("a", "port_restricted"), world.host("b", "port_restricted")
    world.controller.relay_fallback = False
    world.start()
    world.run(2.0)
    world.stream(a, b, every=0.2, count=20)
    world.run(6.0)
    assert a.to(b).path == b.to(a).path == "direct"
    assert not world.flow(a, b).lost
    sizes = {s.rx_bytes for s in relay.core.sessions}
    assert max(sizes) < 4000, "only disco goes through the relay"
