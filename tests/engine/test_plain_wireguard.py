"""A member that now runs a standard WireGuard with the same keys is reached where it was heard last."""

from __future__ import annotations

import pytest
from plainwg import PlainWireGuard
from simworld import UDP, Host, World

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import Datagram, DatagramKind, Path
from shadowmesh.protocol import disco
from shadowmesh.protocol.relay import frame_prefix


def taken_over(kind: str = "port_restricted") -> tuple[World, Host, PlainWireGuard]:
    """Daemon b (public) and a, which talked directly before a was taken over by WireGuard."""
    world = World(3)
    world.relay("relay1")
    a, b = world.host("a", kind), world.host("b", "none")
    world.start()
    world.run(2.5)
    world.stream(a, b, every=0.2, count=20)
    world.run(5.0)
    export = a.node.export_wireguard(world.network_id, b.client_id, a.clock())
    assert export is not None
    assert export.endpoint is not None
    assert "***" in repr(export)
    return world, b, PlainWireGuard(a, export, b)


def talking_directly() -> tuple[World, Host, PlainWireGuard]:
    """As `taken_over`, and b has found where WireGuard is."""
    world, b, wg = taken_over()
    for n in range(12):
        wg.send_packet(1000 + n)
        world.run(1.0)
    assert b.to(wg.host).reason == "direct.wireguard"
    return world, b, wg


def exchange(world: World, b: Host, wg: PlainWireGuard, number: int) -> bool:
    """One packet each way; whether both arrived."""
    before, heard = len(wg.received), number in world.flow(wg.host, b).received
    wg.send_packet(number)
    world.send(b, wg.host)
    world.run(1.0)
    return not heard and number in world.flow(wg.host, b).received and len(wg.received) > before


def test_it_is_accepted_as_initiator_from_any_address_and_answered_there() -> None:
    world, b, wg = taken_over()
    wg.send_packet(1000)
    world.run(12.0)  # until the daemon has stopped to expect disco from it
    wg.send_packet(1001)
    world.run(2.0)
    assert exchange(world, b, wg, 1002)
    assert b.to(wg.host).reason == "direct.wireguard"
    assert b.to(wg.host).path == "direct"


def test_its_move_to_another_address_is_followed() -> None:
    world, b, wg = taken_over()
    for n in range(12):
        wg.send_packet(1000 + n)
        world.run(1.0)
    assert exchange(world, b, wg, 2000)
    wg.host.site.restart(world, new_ip="198.18.77.7")
    wg.send_packet(2001)
    world.run(0.5)
    assert exchange(world, b, wg, 2002)
    assert b.to(wg.host).endpoint is not None
    assert str(b.to(wg.host).endpoint).startswith("198.18.77.7")


def test_the_daemon_initiates_towards_its_last_endpoint() -> None:
    world, b, wg = taken_over("none")
    for n in range(12):
        wg.send_packet(1000 + n)
        world.run(1.0)
    assert b.to(wg.host).reason == "direct.wireguard"
    world.run(200.0)  # the session has died
    wg.current = None
    heard = len(wg.received)
    world.send(b, wg.host)
    world.run(2.0)
    assert len(wg.received) == heard + 1


def test_a_restarted_daemon_is_heard_at_once_and_says_nothing_that_it_would_not_understand() -> None:
    world, b, wg = taken_over()
    world.packet_size = 84
    for n in range(12):
        wg.send_packet(1000 + n)
        world.run(1.0)
    assert b.to(wg.host).reason == "direct.wireguard"
    b.restart(after=2.0)
    began, wg.not_understood = world.time, 0
    for n in range(20):  # it goes on with a session that isn't there any more
        wg.send_packet(2000 + n)
        world.run(0.1)
    times = [t for t in world.flow(wg.host, b).received.values() if t > began]
    assert min(times) - began <= 1.0
    world.send(b, wg.host)
    world.run(1.0)
    assert wg.received[-1][0] > began
    assert b.to(wg.host).reason == "direct.wireguard"
    assert wg.not_understood == 0


def test_ping_measures_it_by_a_handshake() -> None:
    world, b, wg = taken_over("none")
    for n in range(12):
        wg.send_packet(1000 + n)
        world.run(1.0)
    answer = b.ping(wg.host)
    assert answer.ok
    assert answer.path == "direct"
    assert answer.reason == "direct.wireguard"
    assert answer.latency == pytest.approx(2 * (b.site.delay + wg.host.site.delay), abs=0.01)


def test_when_the_daemon_is_back_it_is_an_ordinary_peer_again() -> None:
    world, b, wg = talking_directly()
    a = wg.host
    del a.arrive  # type: ignore[attr-defined]
    a.start(timestamp_floor=a.node.timestamp)
    world.run(3.0)
    world.stream(a, b, every=0.2, count=50)
    world.run(12.0)
    assert b.to(a).reason == "direct.public"
    assert a.to(b).path == "direct"
    assert a.ping(b).ok


@pytest.mark.parametrize("kind", ["full_cone", "port_restricted"])
def test_a_peer_that_is_reached_through_a_hole_in_its_nat_has_no_endpoint_for_wireguard(kind: str) -> None:
    world = World(3)
    world.relay("relay1")
    a, b = world.host("a", "port_restricted"), world.host("b", kind)
    world.start()
    world.run(2.5)
    world.stream(a, b, every=0.2, count=20)
    world.run(5.0)
    assert a.to(b).path == "direct"
    export = a.node.export_wireguard(world.network_id, b.client_id, a.clock())
    assert export is not None
    assert export.endpoint is None


def test_a_peer_on_the_lan_has_its_address_there_as_endpoint() -> None:
    world = World(3)
    world.relay("relay1")
    home = world.site("port_restricted")
    a, b = world.host("a", home), world.host("b", home)
    world.start()
    world.run(2.5)
    world.stream(a, b, every=0.2, count=20)
    world.run(5.0)
    export = a.node.export_wireguard(world.network_id, b.client_id, a.clock())
    assert export is not None
    assert export.endpoint == b.addr


def test_disco_replayed_from_before_the_takeover_takes_no_path_away() -> None:
    world, b, wg = talking_directly()
    elsewhere = SockAddr("203.0.113.66", 6666)
    relay = Path(UDP, world.relays["relay1"].addr, None, frame_prefix(world.network_id, b.overlay, wg.host.overlay))
    box = disco.DiscoBox(wg.config.private, b.public, world.primitives)
    candidates = (disco.Candidate(elsewhere, disco.CandidateKind.HOST),)
    messages = (disco.Ping(bytes(12)), disco.Pong(bytes(12), elsewhere), disco.CallMeMaybe(candidates, True))
    for n, message in enumerate(messages):
        for path in (Path(UDP, elsewhere), relay):
            now = b.clock()
            b.node.receive(Datagram(now.boot, path, DatagramKind.DISCO, box.seal(message)), now)
            b.settle(now)
            world.run(0.5)
            assert b.to(wg.host).reason == "direct.wireguard", message
        assert exchange(world, b, wg, 2000 + n), message


def test_nothing_goes_directly_to_it_once_the_network_forbids_that() -> None:
    world, b, wg = taken_over()
    for n in range(12):
        wg.send_packet(1000 + n)
        world.run(1.0)
    assert exchange(world, b, wg, 2000)
    world.controller.p2p = False
    world.controller.push_map()
    world.run(1.0)
    heard = len(wg.received)
    for n in range(5):
        world.send(b, wg.host)
        wg.send_packet(3000 + n)
        world.run(1.0)
    assert len(wg.received) == heard
    assert (b.to(wg.host).path, b.to(wg.host).reason) == ("relay", "relay.p2p_disabled")
    world.controller.p2p = True
    world.controller.push_map()
    for n in range(12):
        wg.send_packet(4000 + n)
        world.run(1.0)
    assert exchange(world, b, wg, 5000)
