"""The Node's manners: foreign bytes, replays, floods, several networks, what it tells."""

from __future__ import annotations

import ipaddress
import random

import pytest
from fake_crypto import Fake
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from simworld import NET, UDP, Host, World

from shadowmesh.dataplane.aead import FakeAead
from shadowmesh.engine import Identity, NetworkIdentity, Node, NodeConfig
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import Member, NetworkMap
from shadowmesh.model.pump import Datagram, DatagramKind, Install, NetIndex, Path, RemovePeer, Send, SetPath
from shadowmesh.paths.values import MAX_PINGS, MAX_PONG_IDS
from shadowmesh.protocol import disco, noise, stun
from shadowmesh.protocol.relay import frame_prefix
from shadowmesh.protocol.signing import Signer

ELSEWHERE = SockAddr("203.0.113.66", 6666)


def pair(seed: int = 1, kinds: tuple[str, str] = ("none", "none")) -> tuple[World, Host, Host]:
    world = World(seed, primitives=Fake(seed), aead=FakeAead)
    world.relay("relay1")
    a, b = world.host("a", kinds[0]), world.host("b", kinds[1])
    world.start()
    world.run(2.5)
    return world, a, b


PAIR = pair()


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(list(DatagramKind)),
    head=st.sampled_from(
        [b"", b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0", b"SM\1\1", b"SM\1\3", b"\1\1\0\0\x21\x12\xa4\x42"]
    ),
    size=st.sampled_from([0, 1, 16, 60, 64, 88, 92, 144, 148, 300]),
    rest=st.binary(max_size=200),
    relayed=st.booleans(),
)
def test_foreign_bytes_never_raise_and_start_nothing(
    kind: DatagramKind, head: bytes, size: int, rest: bytes, relayed: bool
) -> None:
    world, a, _ = PAIR
    data = (head + rest + bytes(size))[: size or None]
    prefix = frame_prefix(world.network_id, a.overlay, ipaddress.IPv4Address("10.77.9.9")) if relayed else b""
    now = world.now()
    a.node.receive(Datagram(now.boot, Path(UDP, ELSEWHERE, None, prefix), kind, data), now)
    assert not [c for c in a.node.pump_commands() if isinstance(c, (Install, SetPath))]


def handshake_commands(host: Host, data: bytes, path: Path | None = None) -> list[object]:
    """What a host's Node commands when a handshake message comes."""
    now = host.clock()
    host.node.receive(Datagram(now.boot, path or Path(UDP, ELSEWHERE), DatagramKind.HANDSHAKE, data), now)
    return list(host.node.pump_commands())


def initiation(src: Host, dst: Host, wall: float, index: int = 7) -> bytes:
    static = noise.StaticKeys(src.private, src.world.primitives)
    message = noise.Initiation.create(static, dst.public, index, noise.tai64n(wall)).message
    from shadowmesh.protocol.cookies import CookieJar

    return CookieJar(dst.public).add_macs(message, src.clock())


def test_a_replayed_or_older_initiation_is_refused() -> None:
    world, a, b = pair()
    wall = world.now().wall
    first = initiation(a, b, wall)
    assert any(isinstance(c, Install) for c in handshake_commands(b, first))
    world.time += 1.0
    assert not handshake_commands(b, first)
    assert not any(isinstance(c, Install) for c in handshake_commands(b, initiation(a, b, wall - 5)))
    world.time += 1.0
    assert any(isinstance(c, Install) for c in handshake_commands(b, initiation(a, b, wall + 5)))


def test_a_replay_is_refused_though_both_sides_began_at_once() -> None:
    world, a, b = pair()
    if b.public < a.public:
        a, b = b, a  # of two that cross, b's goes on
    first = initiation(a, b, world.now().wall)
    peer = next(iter(b.node.engines[world.network_id].peers.values()))
    peer.wants(b.clock())
    list(b.node.pump_commands())
    assert [c for c in handshake_commands(b, first) if isinstance(c, Send)]  # b's own by the way that a is heard on
    anywhere = Path(UDP, SockAddr("203.0.113.77", 7777))
    assert not handshake_commands(b, first, anywhere)
    world.time += 3.0  # b's own is no longer young: it would give way to a new one
    assert not handshake_commands(b, first, anywhere)


def test_an_initiation_replayed_after_a_restart_leads_nothing_elsewhere() -> None:
    """Which were heard is not on disk, so it is answered; that shows of nobody that he is where it comes from."""
    world, a, b = pair()
    recorded = initiation(a, b, world.now().wall - 3600.0)
    b.restart(warm=False)
    world.run(2.5)
    assert any(isinstance(c, Install) for c in handshake_commands(b, recorded, Path(UDP, ELSEWHERE)))
    world.run(1.0)
    assert b.to(a).endpoint is None and not b.node.engines[world.network_id].peers[a.client_id].plain
    world.stream(b, a, every=0.2, count=5)
    world.run(2.0)
    assert not world.flow(b, a).lost and b.to(a).endpoint == str(a.addr)


def test_a_stranger_gets_no_session() -> None:
    world, a, b = pair()
    stranger = Host(world, "x", a.site, 99)
    assert not handshake_commands(b, initiation(stranger, b, world.now().wall))
    engine = b.node.engines[world.network_id]
    assert engine.strangers == 1


def test_a_relayed_message_under_anothers_address_is_refused() -> None:
    world, a, b = pair()
    c = ipaddress.IPv4Address("10.77.0.77")
    relay = world.relays["relay1"].addr
    foreign = Path(UDP, relay, None, frame_prefix(world.network_id, b.overlay, c))
    assert not handshake_commands(b, initiation(a, b, world.now().wall), foreign)
    other_net = Path(UDP, relay, None, frame_prefix(NetworkID(bytes(32)), b.overlay, a.overlay))
    assert not handshake_commands(b, initiation(a, b, world.now().wall), other_net)
    good = Path(UDP, relay, None, frame_prefix(world.network_id, b.overlay, a.overlay))
    assert handshake_commands(b, initiation(a, b, world.now().wall), good)


def test_under_a_flood_only_a_proven_source_is_answered() -> None:
    world, a, b = pair()
    wall = world.now().wall
    flood = initiation(a, b, wall - 1000)
    for _ in range(400):
        handshake_commands(b, flood)
    commands = handshake_commands(b, initiation(a, b, wall))
    assert [len(c.data) for c in commands if isinstance(c, Send)] == [noise.COOKIE_REPLY_SIZE]
    # An honest peer gets in by the cookie at its next try.
    world.send(a, b)
    for _ in range(40):
        for _ in range(50):
            handshake_commands(b, flood)
        world.run(0.1)
    assert world.flow(a, b).received


def test_a_ping_replayed_ten_thousand_times_leaves_little_behind() -> None:
    world, a, b = pair()
    world.stream(a, b, every=0.2, count=1000)
    world.run(6.0)
    mine = a.node.engines[world.network_id].peers[b.client_id]
    theirs = b.node.engines[world.network_id].peers[a.client_id]
    assert mine.path is not None and mine.path.best is not None
    ways = [mine.path.best.path.remote, *(SockAddr("203.0.113.9", port) for port in range(1000, 2000))]
    ping = theirs.box.seal(disco.Ping(bytes(12), 0))
    for number in range(10_000):
        now = a.clock()
        a.node.receive(Datagram(now.boot, Path(UDP, ways[number % len(ways)]), DatagramKind.DISCO, ping), now)
        a.node.pump_commands()
    assert len(mine.path._pings) <= MAX_PINGS
    assert len(mine.path._pong_ids) <= MAX_PONG_IDS
    world.run(20.0)
    assert a.to(b).path == "direct"
    assert world.flow(a, b).all_arrived


def test_a_replayed_ping_has_no_older_network_key_used() -> None:
    world, a, b = pair()
    world.stream(a, b, every=0.5, count=20)
    world.run(12.0)
    mine = b.node.engines[world.network_id].peers[a.client_id]
    old = a.node.engines[world.network_id].peers[b.client_id].box.seal(disco.Ping(bytes(12), 0))
    world.controller.rotate()
    world.run(60.0)
    world.stream(a, b, every=0.5, count=20)
    world.run(12.0)
    assert mine.handshake is not None and mine.handshake.known_epoch == 1
    now = b.clock()
    b.node.receive(Datagram(now.boot, Path(UDP, ELSEWHERE), DatagramKind.DISCO, old), now)
    assert mine.handshake.known_epoch == 1


def test_ping_of_a_peer_that_is_away_ends_in_time() -> None:
    world, a, b = pair()
    b.stop()
    began = world.time
    answer = a.ping(b, timeout=2.0)
    assert not answer.ok
    assert world.time - began <= 2.2
    world.run(5.0)
    assert a.to(b).path == "none"


def test_ping_until_direct() -> None:
    world, a, b = pair(kinds=("port_restricted", "port_restricted"))
    first = a.ping(b)
    assert first.ok
    assert first.path == "relay"
    assert first.relay == "relay1"
    world.run(1.5)
    second = a.ping(b)
    assert second.path == "direct"
    assert second.endpoint is not None
    assert second.reason == "direct.punched"
    assert a.to(b).last_handshake is not None


def test_why_tells_what_was_tried() -> None:
    world, a, b = pair(kinds=("symmetric", "port_restricted"))
    world.stream(a, b, every=0.5, count=30)
    world.run(14.0)
    why = a.node.why(world.network_id, b.client_id, a.clock())
    assert why.peer.reason == "relay.symmetric_port_restricted"
    assert {t.result for t in why.attempts} == {"silent"}
    assert why.next_try_s is not None
    assert 30 < why.next_try_s < 75
    assert any("relay (" in line for line in why.history)


def test_unknown_names_are_a_clear_error() -> None:
    world, a, _b = pair()
    with pytest.raises(ShadowMeshError) as no_net:
        a.node.status(NetworkID(bytes(32)), a.clock())
    assert no_net.value.code == "no_network"
    with pytest.raises(ShadowMeshError) as no_peer:
        a.node.why(world.network_id, ClientID("cli_nobody"), a.clock())
    assert no_peer.value.code == "no_peer"


def test_a_removed_network_leaves_nothing_behind() -> None:
    world, a, b = pair()
    world.stream(a, b, every=0.2, count=10)
    world.run(4.0)
    now = a.clock()
    a.node.remove_network(world.network_id, now)
    commands = a.node.pump_commands()
    assert any(isinstance(c, RemovePeer) for c in commands)
    assert not a.node.peers
    assert not a.node.indices_in_use
    assert not a.node.engines


def test_an_idle_network_of_5000_peers_sets_no_timers_for_them() -> None:
    rng = random.Random(1)
    primitives = Fake(1)
    device = Signer(Secret(rng.randbytes(32)))
    world = World(1, primitives=primitives, aead=FakeAead)
    for i in range(5000):
        host = object.__new__(Host)
        host.name, host.client_id = f"h{i}", ClientID(f"cli_h{i}")
        host.overlay = ipaddress.IPv4Address("10.77.0.1") + i
        host.private = primitives.generate_private_key()
        host.public = type(world.network_id and PAIR[1].public)(primitives.key_pair(host.private).public)
        host.device = device
        host.running = False
        world.hosts[host.name] = host
    me = world.hosts["h0"]
    node = Node(Identity(device), NodeConfig(rng=rng, primitives=primitives))
    node.add_network(NetworkIdentity(NetIndex(0), world.network_id, me.client_id, me.private))
    now = Now(1000.0, 1_700_000_000.0)
    node.apply_map(world.network_id, world.controller.netmap(), now)
    assert len(node.pump_commands()) >= 4999
    assert len(node.timers._heap) < 10
    assert len(node.status(world.network_id, now)) == 4999


def test_two_networks_of_one_daemon_keep_apart() -> None:
    """The same device in two networks: each initiation goes to the network whose key its mac1 names."""
    world, a, b = pair()
    other = Fake(77)
    private = other.generate_private_key()
    second = NetworkID(bytes(range(32)))
    b.node.add_network(NetworkIdentity(NetIndex(NET + 1), second, ClientID("cli_b2"), private))
    world.send(a, b)
    world.run(1.0)
    assert world.flow(a, b).received
    engine = b.node.engines[second]
    assert not engine.peers
    assert engine.strangers == 0


def test_a_member_whose_key_is_no_key_harms_nobody_else() -> None:
    """A controller, or who got a key past it, puts a point of small order into its map: real X25519 refuses to work
    with it, and everything else on this host goes on.
    """
    world = World(3)
    world.relay("relay1")
    a, b = world.host("a", "none"), world.host("b", "none")
    world.start()
    world.run(2.5)
    held = world.controller.netmap()
    odd = Member(
        client_id=ClientID("cli_odd"),
        name="odd",
        ip=ipaddress.IPv4Address("10.77.0.99"),
        wg_key=WireGuardPublicKey(bytes(32)),
        device_key=Signer.generate().device_key,
    )
    newer = NetworkMap(generation=held.generation, serial=held.serial + 1, head=held.head, members=(*held.members, odd))
    now = a.clock()
    a.node.apply_map(world.network_id, newer, now)
    a.settle(now)
    a.node.apply_presence(
        world.network_id,
        [Presence(client_id=odd.client_id, online=True, endpoints=(SockAddr("203.0.113.9", 1000),))],
        now,
    )
    with pytest.raises(ShadowMeshError):
        a.node.ping(world.network_id, odd.client_id, 1, now)
    world.stream(a, b, every=0.2, count=20)
    world.run(5.0)
    assert world.flow(a, b).received


def test_whose_overlay_address_is_whose_is_known() -> None:
    _, a, b = pair()
    assert a.node.is_member(b.overlay)
    assert not a.node.is_member(a.overlay)
    assert not a.node.is_member(ipaddress.IPv4Address("192.168.1.2"))
    assert not a.node.is_member(ipaddress.IPv6Address("2001:db8::1"))


def test_a_relay_on_the_last_port_has_no_neighbour_that_is_asked() -> None:
    """A datagram to no port would end the pump of all networks."""
    world, a, _ = pair()
    known = a.node.engines[world.network_id].netmap
    assert known is not None
    (relay,) = known.head.relays
    last = replace(relay, udp=SockAddr("192.0.2.1", 65535))
    head = replace(known.head, relays=(last,), stun=())
    a.node.apply_map(world.network_id, NetworkMap(generation=1, serial=9, head=head, members=known.members), a.clock())
    asked = {c.path.remote for c in a.node.pump_commands() if isinstance(c, Send)}
    assert last.udp in asked
    now = a.clock()
    for request in list(a.node._stun._requests.values()):
        answer = stun.StunServer([SockAddr("192.0.2.1", 65535)]).answer(
            stun.binding_request(request.tx_id), SockAddr("198.18.0.1", 40000), 0
        )
        assert answer is not None
        a.node.receive(Datagram(now.boot, Path(request.slot, request.server), DatagramKind.STUN, answer[0]), now)
    asked |= {c.path.remote for c in a.node.pump_commands() if isinstance(c, Send)}
    assert all(remote is None or remote.port <= 65535 for remote in asked)
