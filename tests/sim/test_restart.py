"""A restarted daemon is heard at once: by peers that go on with sessions that it no longer has, and by those it speaks to."""

from __future__ import annotations

import itertools

import pytest
from fake_crypto import Fake
from simworld import UDP, Host, World

from shadowmesh.dataplane.aead import FakeAead
from shadowmesh.engine import RecentPeer, WarmStart
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.ids import ClientID
from shadowmesh.model.pump import Datagram, DatagramKind, Path, Send, Unclaimed
from shadowmesh.protocol import disco

INITIATION = b"\1\0\0\0"  # WireGuard's message 1
PINGS = 84  # bytes of an inner packet, as `ping` sends
SITUATIONS = {
    "direct": ("none", "port_restricted"),
    "punched": ("port_restricted", "port_restricted"),
    "relayed": ("symmetric", "symmetric"),
    "by stream": ("udp_blocked", "port_restricted"),
    "to a stream": ("port_restricted", "udp_blocked"),
}


def talking(kinds: tuple[str, str], seed: int, *, controller: bool = True) -> tuple[World, Host, Host]:
    """`b` will restart; both have talked for a while."""
    world = World(seed, primitives=Fake(seed), aead=FakeAead)
    world.packet_size = PINGS
    for number in range(3):
        world.relay(f"relay{number + 1}")
    a, b = world.host("a", kinds[0]), world.host("b", kinds[1])
    world.start()
    world.run(8.0)
    for src, dst in ((a, b), (b, a)):
        world.stream(src, dst, every=0.25, count=40)
    world.run(11.0)
    assert world.flow(a, b).all_arrived
    if not controller:
        world.controller.kill()
    return world, a, b


def first_heard(world: World, src: Host, dst: Host, since: float) -> float:
    """Seconds until the first packet arrived that came after `since`."""
    times = [t for t in world.flow(src, dst).received.values() if t > since]
    assert times, world.story(src, dst)
    return min(times) - since


@pytest.mark.parametrize("controller", [True, False], ids=["controller", "no controller"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_heard_within_a_second_when_spoken_to(situation: str, controller: bool) -> None:
    """20 times each: the other side sends all the time, from before the kill."""
    for seed in range(20):
        world, a, b = talking(SITUATIONS[situation], seed, controller=controller)
        world.stream(a, b, every=0.1, count=150)
        world.run(1.0)
        b.restart(after=2.0)
        began = world.time
        world.run(6.0)
        assert first_heard(world, a, b, began) <= 1.0, world.story(a, b)
        late = [n for n, t in world.flow(a, b).received.items() if t > began + 1.0]
        assert len(late) >= 45, "and it stays so"


@pytest.mark.parametrize("controller", [True, False], ids=["controller", "no controller"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_heard_within_a_second_when_speaking(situation: str, controller: bool) -> None:
    for seed in range(20):
        world, a, b = talking(SITUATIONS[situation], seed, controller=controller)
        b.restart(after=2.0)
        began = world.time
        world.stream(b, a, every=0.1, count=50)
        world.run(6.0)
        assert first_heard(world, b, a, began) <= 1.0, world.story(a, b)


@pytest.mark.parametrize(
    ("situation", "within"), [("relayed", 1.0), ("by stream", 1.0), ("direct", 4.5), ("punched", 4.5)]
)
def test_heard_soon_though_nothing_was_kept(situation: str, within: float) -> None:
    """The disk was empty: whoever goes on with a session of before is told that there is none, as soon as it is known to
    be a member: by relay the frame says so, directly the next heartbeat."""
    for seed in range(20):
        world, a, b = talking(SITUATIONS[situation], seed)
        world.stream(a, b, every=0.1, count=150)
        world.run(1.0)
        b.restart(after=2.0, warm=False)
        began = world.time
        world.run(6.0)
        assert first_heard(world, a, b, began) <= within, world.story(a, b)


@pytest.mark.parametrize("down", [1.0, 97.0])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_network_that_comes_up_again_is_heard_from_the_first_packet_on(situation: str, down: float) -> None:
    """Its peers go on with sessions that went with it, so that a single packet of theirs would be lost."""
    for seed in range(5):
        world, a, b = talking(SITUATIONS[situation], seed)
        b.leave()
        world.run(down)
        b.join()
        world.run(3.0)
        began = world.time
        world.stream(a, b, every=1.0, count=1)
        world.run(1.0)
        assert first_heard(world, a, b, began) <= 0.5, world.story(a, b)
        assert b.to(a).reason != "none.idle"


def test_whom_it_talked_with_before_is_not_called_once_a_network_is_down_again() -> None:
    world, _, b = talking(SITUATIONS["direct"], 1)
    b.leave()
    b.join()
    b.leave()  # the world fails if anything waits, or leaves the host, from here on
    world.run(30.0)


@pytest.mark.parametrize("situation", ["direct", "punched"])
def test_an_idle_path_that_the_peer_keeps_up_does_not_flap_after_a_start_without_memory(situation: str) -> None:
    world, a, b = talking(SITUATIONS[situation], 1)
    world.run(15.0)  # so that no data goes any more that would open a session
    b.restart(after=1.0, warm=False)
    world.run(30.0)
    assert b.to(a).path == "direct"
    told = len(world.log)
    world.run(200.0)
    assert not [line for line in world.log[told:] if line[1] == "b" and "→ a" in line[2]], world.story(a, b)
    world.run(200.0)
    assert b.to(a).path != "direct", "kept no longer than the peer keeps it"


def test_what_is_kept_holds_no_secrets_and_only_recent_peers_the_busiest_first() -> None:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    world.relay("relay1")
    a, b, c, d = (world.host(name, "none") for name in "abcd")
    world.start()
    world.run(2.5)
    world.stream(a, d, every=0.2, count=20)
    world.run(170.0)
    world.stream(a, b, every=0.2, count=20)
    world.stream(a, c, every=0.1, count=40)
    world.run(30.0)
    kept = a.node.warm_start(a.clock())
    assert [peer.client_id for peer in kept.peers] == [c.client_id, b.client_id]
    assert kept.peers[0].endpoints == (c.addr,)
    assert kept.peers[0].home == world.relays["relay1"].relay_id
    assert set(RecentPeer.__slots__) == {"network_id", "client_id", "at", "endpoints", "home", "standby", "plain"}
    world.run(150.0)
    assert kept.peers[0].is_recent(a.clock())
    world.run(30.0)
    assert not kept.peers[0].is_recent(a.clock())
    assert not a.node.warm_start(a.clock()).peers


def test_what_was_kept_is_kept_over_a_second_restart_for_as_long_as_it_is_recent() -> None:
    world, _a, b = talking(SITUATIONS["direct"], 1)
    before = b.node.warm_start(b.clock()).peers
    for _ in range(3):
        b.restart(after=1.0)
        world.run(20.0)
    assert b.node.warm_start(b.clock()).peers == before
    world.run(130.0)
    assert not b.node.warm_start(b.clock()).peers


def test_handshakes_after_a_start_are_paced() -> None:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    world.relay("relay1")
    a = world.host("a", "none")
    others = [world.host(f"h{n:03}", "none") for n in range(150)]
    world.controller._map = None
    recent = tuple(RecentPeer(world.network_id, h.client_id, a.clock().wall, (h.addr,)) for h in others)
    sent: list[float] = []
    transmit = world.transmit

    def watch(host: Host, src: SockAddr, dst: SockAddr, data: bytes) -> None:
        if host is a and data[:4] == INITIATION and dst.port != 9545:
            sent.append(world.time)
        transmit(host, src, dst, data)

    world.transmit = watch  # type: ignore[method-assign]
    a.start(warm_start=WarmStart(recent))
    began = world.time
    world.run(0.9)  # nobody answers, and nothing is repeated yet
    assert 40 <= len(sent) <= 50
    assert min(sent) == began


def unclaimed(world: World, host: Host, path: Path, index: int, size: int = 128) -> list[Send]:
    """What a Node does about a packet of an unknown session."""
    now = host.clock()
    host.node.receive(Unclaimed(now.boot, path, index, size), now)
    return [c for c in host.node.pump_commands() if isinstance(c, Send)]


def test_an_unknown_session_is_answered_to_members_alone_and_by_no_more_than_came() -> None:
    world, a, b = talking(SITUATIONS["direct"], 1)
    known = Path(UDP, a.addr)
    assert not unclaimed(world, b, Path(UDP, SockAddr("203.0.113.9", 4000)), 7), "a stranger gets nothing"
    assert not unclaimed(world, b, known, 7, disco.NO_SESSION_SIZE - 1), "nothing larger than what came"
    (answer,) = unclaimed(world, b, known, 7, disco.NO_SESSION_SIZE)
    assert answer.path == known
    assert len(answer.data) == disco.NO_SESSION_SIZE
    assert not unclaimed(world, b, known, 8), "at most one a second"
    world.run(1.01)
    assert unclaimed(world, b, known, 8)


def test_by_relay_the_frame_has_to_name_a_member_and_a_relay_to_bring_it() -> None:
    world, a, b = talking(SITUATIONS["relayed"], 1)
    relays = b.node.engines[world.network_id].relays
    relay, prefix = world.relays["relay1"].addr, relays.prefix(a.overlay)
    assert not unclaimed(world, b, Path(UDP, SockAddr("203.0.113.9", 9545), None, prefix), 7)
    assert not unclaimed(world, b, Path(UDP, relay, None, prefix[:40] + b"\x0a\x4d\x63\x63"), 7)
    assert not unclaimed(world, b, Path(UDP, relay, None, prefix[:4] + bytes(32) + prefix[36:]), 7)
    (answer,) = unclaimed(world, b, Path(UDP, relay, None, prefix), 7)
    assert answer.path.prefix == prefix


def told(host: Host, other: Host, index: int) -> bytes:
    """`other` says to `host` that it has no session of this index."""
    peer = other.node.engines[host.world.network_id].peers[host.client_id]
    return peer.box.seal(disco.NoSession(index))


def test_ten_thousand_replays_start_one_handshake_each_five_seconds_and_drop_nothing() -> None:
    world, a, b = talking(SITUATIONS["direct"], 1)
    handshake = a.node.engines[world.network_id].peers[b.client_id].handshake
    assert handshake is not None
    assert handshake.current is not None
    session = handshake.current
    replayed = told(a, b, session.remote_index)
    b.stop()  # so that no handshake succeeds: the session stays, and with it the message's meaning
    began, initiations = world.time, []
    for _ in range(10_000):
        now = a.clock()
        a.node.receive(Datagram(now.boot, Path(UDP, b.addr), DatagramKind.DISCO, replayed), now)
        for command in a.node.pump_commands():
            assert isinstance(command, Send), "nothing is dropped"
            if command.data[:4] == INITIATION:
                initiations.append(world.time)
        world.time += 0.002
    assert handshake.current is session
    times = sorted(set(initiations))
    assert len(times) == 4
    assert all(y - x >= 5.0 for x, y in itertools.pairwise(times))
    assert times[0] == began


def test_once_another_session_stands_the_message_means_nothing() -> None:
    world, a, b = talking(SITUATIONS["direct"], 1)
    engine = a.node.engines[world.network_id]
    handshake = engine.peers[b.client_id].handshake
    assert handshake is not None
    assert handshake.current is not None
    first = handshake.current
    replayed = told(a, b, first.remote_index)
    world.stream(a, b, every=0.2, count=100)

    def deliver() -> None:
        now = a.clock()
        a.node.receive(Datagram(now.boot, Path(UDP, b.addr), DatagramKind.DISCO, replayed), now)

    deliver()
    a.settle(a.clock())
    world.run(1.0)
    assert handshake.current is not first
    done = handshake.done_at
    for _ in range(10_000):
        deliver()
    a.settle(a.clock())
    world.run(20.0)
    assert handshake.done_at == done
    assert not world.flow(a, b).lost


def test_a_message_of_another_index_or_from_a_stranger_starts_nothing() -> None:
    world, a, b = talking(SITUATIONS["direct"], 1)
    handshake = a.node.engines[world.network_id].peers[b.client_id].handshake
    assert handshake is not None
    assert handshake.current is not None
    now = a.clock()
    index = handshake.current.remote_index
    genuine = told(a, b, index)
    for data in (told(a, b, index ^ 1), b"\0" * 81, genuine[:-1] + bytes((genuine[-1] ^ 1,))):
        a.node.receive(Datagram(now.boot, Path(UDP, b.addr), DatagramKind.DISCO, data), now)
    assert not handshake.connecting


def test_a_peer_that_left_the_map_meanwhile_is_not_called() -> None:
    world, a, b = talking(SITUATIONS["direct"], 1)
    kept = b.node.warm_start(b.clock())
    gone = WarmStart(
        (*kept.peers, RecentPeer(world.network_id, ClientID("cli_gone"), b.clock().wall, (SockAddr("192.0.2.1", 1),)))
    )
    b.stop()
    b.start(warm_start=gone)
    world.run(2.0)
    assert a.to(b).path == "direct"


def test_a_member_that_claims_anothers_address_keeps_it_from_being_told_of_nothing() -> None:
    world = World(1, primitives=Fake(1), aead=FakeAead)
    world.relay("relay1")
    a, b, m = (world.host(name, "none") for name in "abm")
    world.start()
    world.run(2.5)
    now = a.clock()
    claims = [
        Presence(client_id=b.client_id, online=True, endpoints=(b.addr,)),
        Presence(client_id=m.client_id, online=True, endpoints=(m.addr, b.addr)),
    ]
    a.node.apply_presence(world.network_id, claims, now)
    told = []
    for _ in range(2):  # two packets of a session that a doesn't have
        a.node.receive(Unclaimed(now.boot, Path(UDP, b.addr), 77, 116), now)
        told += [c.data for c in a.node.pump_commands() if isinstance(c, Send)]
    for host in (b, m):
        box = disco.DiscoBox(host.private, a.public, world.primitives)
        assert any(_opens(box, data) for data in told), host.name


def _opens(box: disco.DiscoBox, data: bytes) -> bool:
    try:
        box.open(data)
    except disco.AuthFailure:
        return False
    return True
