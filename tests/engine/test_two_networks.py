"""A public key names a peer within one network only; an overlay address names whoever has it in the newest map."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from fake_crypto import Fake
from simworld import Host, World

from shadowmesh.dataplane.aead import FakeAead
from shadowmesh.engine import NetworkIdentity
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import EpochInfo, MapHead, Member, NetworkMap
from shadowmesh.model.pump import NetIndex
from shadowmesh.protocol.signing import Signer
from shadowmesh.protocol.token import RelayTokenBody, sign_token

OTHER_KEY = Secret(b"k" * 32)
OTHER = NetworkID.of(OTHER_KEY)


def trio(kind: str = "none") -> tuple[World, Host, Host, Host]:
    world = World(5, primitives=Fake(5), aead=FakeAead)
    world.relay("relay1")
    a, b, c = (world.host(name, kind) for name in "abc")
    world.start()
    world.run(3.0)
    return world, a, b, c


def join_network_with_the_key_of(world: World, host: Host, victim: Host, *, first: bool) -> None:
    """`host` is in another network, too, whose map has the victim's public key under another name."""
    now = host.clock()
    private = world.primitives.generate_private_key()
    own = WireGuardPublicKey(world.primitives.key_pair(private).public)
    if first:  # so that the other network's members are looked at first
        host.node.remove_network(world.network_id, now)
    host.node.add_network(NetworkIdentity(NetIndex(1), OTHER, ClientID("cli_me"), private))
    if first:
        host.join()
    me, thief = (
        Member(
            client_id=ClientID(client),
            name=client,
            ip=ipaddress.IPv4Address(ip),
            wg_key=key,
            device_key=host.device.device_key,
        )
        for client, ip, key in (("cli_me", "10.99.0.1", own), ("cli_thief", "10.99.0.2", victim.public))
    )
    head = MapHead(
        network_id=OTHER,
        network_ref=NetworkRef("net_other"),
        name="other",
        subnet=ipaddress.IPv4Network("10.99.0.0/24"),
        epochs=(EpochInfo(epoch=0, current_from=0.0),),
    )
    host.node.apply_map(OTHER, NetworkMap(generation=1, serial=1, head=head, members=(me, thief)), now)
    host.node.apply_keys(OTHER, {0: OTHER_KEY}, now)
    host.settle(now)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["none", "port_restricted", "symmetric"])
def test_who_enrols_a_victims_key_elsewhere_cuts_nobody_off(kind: str, first: bool) -> None:
    world, a, b, _ = trio(kind)
    join_network_with_the_key_of(world, a, b, first=first)
    world.run(3.0)
    for src, dst in ((b, a), (a, b)):
        world.stream(src, dst, every=0.2, count=200)
    world.run(42.0)
    assert not world.flow(b, a).lost
    assert not world.flow(a, b).lost
    assert a.to(b).path == b.to(a).path == ("relay" if kind == "symmetric" else "direct")
    thief = a.node.engines[OTHER].peers[ClientID("cli_thief")]
    assert not thief.active, "nothing of the victim's counts in the other network"


def test_leaving_the_other_network_leaves_the_peer_of_the_same_key_alone() -> None:
    world, a, b, _ = trio()
    join_network_with_the_key_of(world, a, b, first=False)
    world.stream(b, a, every=0.2, count=100)
    world.run(5.0)
    a.node.remove_network(OTHER, a.clock())
    a.settle(a.clock())
    world.run(20.0)
    assert not world.flow(b, a).lost
    assert a.to(b).path == "direct"


def test_a_relay_token_of_another_network_is_refused() -> None:
    world, a, _, _ = trio()
    now = a.clock()
    body = RelayTokenBody(
        device_key=a.device.device_key,
        network_id=OTHER,
        ip=a.overlay,
        issued=now.wall,
        renew_after=now.wall + 900,
        valid_until=now.wall + 9000,
    )
    with pytest.raises(MalformedError):
        a.node.apply_grant(world.network_id, sign_token(body, Signer.generate()), now)


@pytest.mark.parametrize("kind", ["none", "symmetric"])
@pytest.mark.parametrize("turn", [("b", "c"), ("c", "b")])
def test_members_exchange_addresses_in_one_map(kind: str, turn: tuple[str, str]) -> None:
    """Traffic of the pair that stays as it was goes on; each of the two is known by its new address, on relays too."""
    world, a, b, c = trio(kind)
    for host in (b, c):
        world.stream(a, host, every=0.2, count=10)
    world.run(5.0)
    new = {b.client_id: c.overlay, c.client_id: b.overlay}
    old = world.controller.netmap()
    world._by_overlay = {a.overlay.packed: a, b.overlay.packed: c, c.overlay.packed: b}
    b.overlay, c.overlay = c.overlay, b.overlay
    members = [msgspec.structs.replace(m, ip=new.get(m.client_id, m.ip)) for m in old.members]
    swapped = NetworkMap(generation=1, serial=old.serial + 1, head=old.head, members=members)
    now = a.clock()
    a.node.apply_map(world.network_id, swapped, now)
    a.settle(now)
    engine = a.node.engines[world.network_id]
    assert {str(ipaddress.ip_address(ip)): peer.member.name for ip, peer in engine.by_ip.items()} == {
        str(b.overlay): "b",
        str(c.overlay): "c",
    }
    for name in turn:
        host = world.hosts[name]
        host.apply_readdressed(swapped)
    world.run(3.0)
    for host in (b, c):
        for src, dst in ((a, host), (host, a)):
            world.stream(src, dst, every=0.2, count=20)
    world.run(8.0)
    for host in (b, c):
        for src, dst in ((a, host), (host, a)):
            assert not [n for n in world.flow(src, dst).lost if n >= 10 or src is not a], world.story(src, dst)
