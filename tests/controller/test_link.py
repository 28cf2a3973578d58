"""The device's link: maps as deltas, grants, presence, removal, rotation, clones; and what happens to who was away."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.frames import CloseCode

from shadowmesh.client_api import link as link_module
from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.link import Connected, Disconnected, LinkRefused, MapChanged, MapRefused
from shadowmesh.controller import pki
from shadowmesh.controller.authz import LOCAL
from shadowmesh.controller.service import revocations
from shadowmesh.controller.service.grants import make_grant
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import (
    EpochHeld,
    Grant,
    Hello,
    Leave,
    MapState,
    MapUpdate,
    Pending,
    RefreshGrant,
    Removed,
    Report,
    Watch,
)
from shadowmesh.model.errors import Kind
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import Encoded, MapDelta, MapHead, MapSnapshot, Member, NetworkMap
from shadowmesh.protocol.sealing import network_key_info, open_sealed
from shadowmesh.protocol.signing import (
    Context,
    ForgedError,
    IdentityDocument,
    Signer,
    goes_back,
    hello_message,
    sign_map,
    sign_text,
    succeeding,
)
from shadowmesh.protocol.token import read_token
from shadowmesh.relay.sessiontable import RevocationList
from shadowmesh.serving.admission import Accepted
from shadowmesh.serving.listening import ListeningSocket

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World


def keys_of(device: Device, network_id: NetworkID) -> dict[int, bytes]:
    return {
        k.epoch: open_sealed(device.sealing_secret, base64.b64decode(k.sealed), network_key_info(network_id, k.epoch))
        for k in device.grants[network_id].keys
    }


async def eventually(ask: Callable[[], Awaitable[Any]], good: Callable[[Any], bool]) -> Any:
    """What is asked again and again until it is as wanted: for what nobody is told of."""
    for _ in range(100):
        answer = await ask()
        if good(answer):
            return answer
        await asyncio.sleep(0.03)
    raise AssertionError(f"still {answer}")


async def test_two_devices_learn_of_each_other_by_deltas(world: World) -> None:
    await world.network()
    one = await world.member(name="one")
    two = await world.member(name="two")
    seen = await one.until_map(lambda m: {x.name for x in m.members} == {"one", "two"})
    assert seen == two.map
    await world.call("client_set", "office", "two", name="zwei", tags=["web"])
    for device in (one, two):
        found = await device.until_map(lambda m: any(x.name == "zwei" and x.tags == ("web",) for x in m.members))
        assert found.digest == (await world.at.maps.get(found.head.network_ref)).map.digest
    assert not any(isinstance(e, Disconnected) for e in one.events)


async def test_a_link_says_that_it_can_wait_and_a_person_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[bool] = []
    judge = ListeningSocket._can_wait

    def note(listener: ListeningSocket, connection: Accepted) -> bool:
        judged.append(judge(listener, connection))
        return judged[-1]

    monkeypatch.setattr(ListeningSocket, "_can_wait", note)
    await world.network()
    device = await world.member(name="one")
    assert judged.count(True) == 1, "its link"
    await device.close()
    judged.clear()
    await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    assert judged and not any(judged)


async def test_presence_tells_who_is_online_and_where(world: World) -> None:
    await world.network()
    one, two = await world.member(name="one"), await world.member(name="two")
    await one.until(lambda: one.presence.get(two.answer.client_id))
    await two.until(lambda: two.presence.get(one.answer.client_id))
    home = RelayID("rly_x")
    two.link.post(Report(network_id=two.answer.network_id, home=home, endpoints=(SockAddr("192.0.2.7", 4500),)))
    await one.until(lambda: one.presence[two.answer.client_id].home == home)
    assert one.presence[two.answer.client_id].endpoints == (SockAddr("192.0.2.7", 4500),)
    shown = await world.call("client_show", "office", "two")
    assert shown.status == "online" and shown.endpoints == ["192.0.2.7:4500"]
    await two.close()
    await one.until(lambda: not one.presence[two.answer.client_id].online)
    shown = await eventually(lambda: world.call("client_show", "office", "two"), lambda c: c.last_seen is not None)
    assert shown.status == "offline"


async def test_who_says_whom_it_talks_to_hears_of_these_only(world: World) -> None:
    await world.network()
    one, two, three = [await world.member(name=n) for n in ("one", "two", "three")]
    await one.until(lambda: {two.answer.client_id, three.answer.client_id} <= one.presence.keys())
    one.link.post(Watch(network_id=one.answer.network_id, peers=(two.answer.client_id,)))
    one.link.post(RefreshGrant(network_id=one.answer.network_id))  # its answer shows that the watch has arrived
    before = len(one.events)
    await one.until(lambda: len(one.events) >= before + 2)
    for device in (three, two):
        device.link.post(Report(network_id=device.answer.network_id, home=RelayID("rly_y")))
        await asyncio.sleep(0.06)  # two gatherings
    await one.until(lambda: one.presence[two.answer.client_id].home == "rly_y")
    assert one.presence[three.answer.client_id].home is None


async def test_a_removed_client_is_out_at_once_and_the_key_rotates(world: World) -> None:
    await world.network()
    one, two = await world.member(name="one"), await world.member(name="two")
    await one.until_map(lambda m: len(m.members) == 2)
    started = time.monotonic()
    await world.call("client_remove", "office", "two")
    gone = await two.until_event(Removed)
    assert gone.reason == "removed"
    found = await one.until_map(lambda m: len(m.members) == 1)
    assert time.monotonic() - started < 2
    assert [e.epoch for e in found.head.epochs] == [0, 1]
    network_id = one.answer.network_id
    await one.until(lambda: set(keys_of(one, network_id)) == {0, 1})
    assert set(keys_of(two, network_id)) == {0}, "the removed one has no key of the new epoch"
    refused = await two.until_event(LinkRefused)
    assert refused.code == "device_unknown"


async def test_rotation_hands_out_long_before_use_and_ends_the_old_epoch_when_all_hold_the_new(world: World) -> None:
    await world.network()
    one, two = await world.member(name="one"), await world.member(name="two")
    network_id = one.answer.network_id
    old = await one.until_map(lambda m: len(m.members) == 2)
    await world.call("network_rotate_key", "office")
    new = await one.until_map(lambda m: len(m.head.epochs) == 2)
    for device in (one, two):
        await device.until(lambda device=device: set(keys_of(device, network_id)) == {0, 1})
    now = world.clock().timestamp()
    assert old.current_epoch(now) == new.current_epoch(now) == 0
    assert new.current_epoch(now + 31) == 1
    assert keys_of(one, network_id)[1] == keys_of(two, network_id)[1] != keys_of(one, network_id)[0]
    one.link.post(EpochHeld(network_id=network_id, epoch=1))
    world.clock.advance(seconds=31)
    await asyncio.sleep(0.3)
    assert len(one.map.head.epochs) == 2, "the other one hasn't said that it holds it"
    two.link.post(EpochHeld(network_id=network_id, epoch=1))
    await one.until_map(lambda m: m.head.epochs[0].ends is not None and m.head.epochs[0].ends < now + 60)
    world.clock.advance(seconds=11)
    final = await one.until_map(lambda m: [e.epoch for e in m.head.epochs] == [1])
    assert final.current_epoch(world.clock().timestamp()) == 1
    assert (await world.call("network_show", "office")).epoch == 1


async def test_an_old_epoch_ends_after_a_week_though_one_never_acknowledged(world: World) -> None:
    await world.network()
    one = await world.member(name="one")
    await world.call("network_rotate_key", "office")
    found = await one.until_map(lambda m: len(m.head.epochs) == 2)
    assert found.head.epochs[0].ends == pytest.approx(world.clock().timestamp() + 7 * 86400, abs=30)
    world.clock.advance(days=7, seconds=1)
    await one.until_map(lambda m: [e.epoch for e in m.head.epochs] == [1])


async def test_removals_rotate_once_in_ten_minutes(world: World) -> None:
    await world.network()
    stays = await world.member(name="stays")
    for i in range(3):
        await world.device().join((await world.invite()).invite, name=f"m{i}")
        await world.call("client_remove", "office", f"m{i}")
    shown = await world.call("network_show", "office")
    assert [e.epoch for e in shown.epochs] == [0, 1] and shown.rotation_due is not None
    world.clock.advance(minutes=10, seconds=1)
    await stays.until_map(lambda m: max(e.epoch for e in m.head.epochs) == 2)
    assert (await world.call("network_show", "office")).rotation_due is None


async def test_who_was_away_gets_one_delta(world: World) -> None:
    await world.network()
    one = await world.member(name="one")
    held = one.map
    await one.close()
    gone = await world.device().join((await world.invite()).invite, name="gone")
    await world.device().join((await world.invite()).invite, name="new")
    await world.call("client_remove", "office", "gone")
    back = world.device()
    back.signer, back.boot_id = one.signer, "boot-2"
    await back.connect(maps=(held,))
    found = await back.until_map(lambda m: m.serial > held.serial)
    assert {m.name for m in found.members} == {"one", "new"}
    live = await world.at.maps.get(found.head.network_ref)
    delta = live.delta_from(held.serial)
    assert gone.client_id in delta.remove and len(delta.upsert) == 1


async def test_who_holds_the_newest_map_gets_an_empty_delta_after_a_restart(world: World) -> None:
    await world.network()
    one = await world.member(name="one")
    held = one.map
    await one.close()
    back = world.device()
    back.signer, back.boot_id = one.signer, "boot-2"
    await back.connect(maps=(held,))
    event = await back.until_event(MapChanged)
    assert event.map == held
    live = await world.at.maps.get(held.head.network_ref)
    assert len(live.text_for(one.answer.client_id, held.order)) < 700


async def test_a_clone_is_refused_naming_both_and_the_first_goes_on(world: World) -> None:
    await world.network()
    first = await world.member(name="web")
    clone = world.clone(first)
    await clone.connect()
    refused = await clone.until_event(LinkRefused)
    assert refused.code == "client_duplicate"
    assert "web@office" in refused.what and refused.what.count("127.0.0.1:") == 2
    await world.call("client_set", "office", "web", tags=["still"])
    await first.until_map(lambda m: m.members[0].tags == ("still",))


async def test_a_boot_replaces_one_that_doesnt_answer_any_more(world: World) -> None:
    """A host that lost its power leaves a connection behind, which nobody answers on."""
    await world.network()
    device = world.device()
    await device.join((await world.invite()).invite)
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with connect(world.url.replace("https", "wss") + "/api/v1/link", ssl=contact.tls, proxy=None) as dead:
        nonce = bytes.fromhex(from_json(await dead.recv(), Any)["nonce"])
        message = hello_message(nonce, contact.identity.identity, "dead")
        await dead.send(to_json(hello(device.signer, message, "dead")).decode())
        await dead.recv()
        await (await device.connect()).until_event(Connected)
        await device.settled()
        assert len(world.at.hub.devices) == 1


def hello(signer: Signer, message: bytes, boot_id: str) -> Hello:
    return Hello(
        device_key=signer.device_key,
        signature=sign_text(signer, Context.HELLO, message),
        boot_id=boot_id,
        version="0",
    )


async def test_a_hello_signed_for_another_nonce_is_refused(world: World) -> None:
    await world.network()
    device = world.device()
    await device.join((await world.invite()).invite)
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with connect(world.url.replace("https", "wss") + "/api/v1/link", ssl=contact.tls, proxy=None) as socket:
        await socket.recv()
        stale = hello_message(bytes(32), contact.identity.identity, "b")
        await socket.send(to_json(hello(device.signer, stale, "b")).decode())
        assert from_json(await socket.recv(), Any)["code"] == "bad_signature"
        await socket.wait_closed()
        assert socket.close_code == 4003


async def test_who_waits_is_told_and_let_in_on_the_same_link(world: World) -> None:
    await world.network(approval=True)
    device = world.device()
    await device.join((await world.invite()).invite)
    await device.connect()
    assert (await device.until_event(Pending)).client_id == device.answer.client_id
    await world.call("client_approve", "office", "laptop")
    found = await device.until_map(lambda m: True)
    assert [m.client_id for m in found.members] == [device.answer.client_id]
    assert set(keys_of(device, device.answer.network_id)) == {0}


async def test_who_is_denied_is_told(world: World) -> None:
    await world.network(approval=True)
    device = world.device()
    await device.join((await world.invite()).invite)
    await device.connect()
    await device.until_event(Pending)
    await world.call("client_deny", "office", "laptop")
    assert (await device.until_event(Removed)).reason == "denied"
    shown = await world.call("network_show", "office")
    assert shown.serial == 1 and len(shown.epochs) == 1, "it never was a member: nothing rotates"


async def test_a_connected_device_that_joins_another_network_follows_it_on_the_same_link(world: World) -> None:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    device = await world.member(name="both")
    other = world.device()
    other.signer = device.signer
    answer = await other.join((await world.invite("lab")).invite)
    device.link.joined(answer.network_id)
    await device.until_event(MapChanged, lambda e: e.network_id == answer.network_id)
    assert len(device.link.maps) == 2
    await world.call("network_delete", "lab")
    assert (await device.until_event(Removed)).reason == "deleted"
    assert len(device.link.maps) == 1 and device.link.connected


async def test_a_device_leaves(world: World) -> None:
    await world.network()
    device = await world.member()
    device.link.post(Leave(network_id=device.answer.network_id))
    assert (await device.until_event(Removed)).reason == "left"
    assert await world.call("client_list", "office") == []


async def test_leaving_that_is_told_late_ends_no_membership_made_since(world: World) -> None:
    await world.network()
    device = await world.member()
    network = device.answer.network_id
    first = device.grants[network]
    world.clock.advance(minutes=16)
    device.link.post(Leave(network_id=network, wg_key=WireGuardPublicKey(bytes(32))))
    device.link.post(RefreshGrant(network_id=network))  # read after it
    await device.until(lambda: device.grants[network].relay_token != first.relay_token)
    assert len(await world.call("client_list", "office")) == 1
    device.link.post(Leave(network_id=network, wg_key=device.wg_key))
    assert (await device.until_event(Removed)).reason == "left"


async def test_a_refreshed_grant_has_a_newer_token(world: World) -> None:
    await world.network()
    device = await world.member()
    first = device.grants[device.answer.network_id]
    world.clock.advance(minutes=16)
    device.link.post(RefreshGrant(network_id=device.answer.network_id))
    await device.until(lambda: device.grants[device.answer.network_id].relay_token != first.relay_token)


async def test_keys_that_a_device_holds_are_not_sealed_to_it_again(world: World) -> None:
    await world.network()
    device = await world.member()
    network = device.answer.network_id
    ((_, first),) = keys_of(device, network).items()

    async def again(**keys: Secret) -> Grant:
        await device.close()
        device.grants.clear()
        await device.connect(keys={int(name[1:]): key for name, key in keys.items()})
        return await device.until(lambda: device.grants.get(network))

    grant = await again(e0=Secret(first))
    assert (grant.keys, grant.held) == ((), (0,)) and grant.relay_token
    for wrong in ({"e0": Secret(bytes(32))}, {"e1": Secret(first)}):
        grant = await again(**wrong)
        assert keys_of(device, network) == {0: first} and grant.held == ()
    await device.close()
    await world.call("network_rotate_key", "office")
    grant = await again(e0=Secret(first))
    assert [k.epoch for k in grant.keys] == [1] and grant.held == (0,)
    device.link.post(RefreshGrant(network_id=network))
    await device.until(lambda: device.grants[network].held == ())
    assert keys_of(device, network).keys() == {0, 1}, "who asks for keys gets them all"


async def test_messages_of_newer_versions_are_passed_over(world: World) -> None:
    await world.network()
    device = await world.member()
    (link,) = world.at.hub.devices.values()
    link.post('{"type":"tomorrow","x":1}')
    device.link._unsent.put_nowait('{"type":"someday"}')
    await world.call("client_set", "office", "laptop", tags=["still"])
    await device.until_map(lambda m: m.members[0].tags == ("still",))
    device.link._unsent.put_nowait('{"type":"report"}')  # known, and wrong
    assert (await device.until_event(LinkRefused)).code == "malformed"


async def test_a_map_that_goes_back_or_is_forged_is_not_taken(world: World) -> None:
    await world.network()
    device = await world.member()
    held = device.map
    await world.call("network_set", "office", _patch(description="x"))
    newer = await device.until_map(lambda m: m.serial > held.serial)
    live = await world.at.maps.get(held.head.network_ref)
    (link,) = world.at.hub.devices.values()
    old = _update(device, held, sign_map(world.at.context.keys.maps, held))
    link.post(old)
    await device.until_event(MapRefused)
    assert device.map == newer
    link.post(_update(device, held, sign_map(Signer.generate(), live.map)))
    await device.until_event(Disconnected)
    await device.until(lambda: sum(isinstance(e, Connected) for e in device.events) == 2)
    assert device.map == newer


async def test_a_newer_controllers_map_is_taken_whole_and_by_delta(world: World) -> None:
    """What this version doesn't know in the head, in members, in grants and in presence is no reason to refuse a map."""
    await world.network()
    device = await world.member()
    held = device.map

    def later(value: Any, **invented: Any) -> msgspec.Raw:
        return msgspec.Raw(json.dumps(json.loads(to_json(value)) | invented, indent=1).encode())

    def signed(netmap: NetworkMap, **what: Any) -> str:
        signature = sign_map(world.at.context.keys.maps, netmap)
        client_id = device.answer.client_id
        message = MapUpdate(network_id=held.head.network_id, client_id=client_id, signature=signature, **what)
        return to_json(message).decode()

    newer = NetworkMap.read(
        MapSnapshot(
            generation=1,
            serial=held.serial + 1,
            head=later(held.head, policy={"ssh": "all"}),
            members=tuple(later(m, zone="north") for m in held.members),
        )
    )
    (link,) = world.at.hub.devices.values()
    link.post(signed(newer, snapshot=newer.snapshot()))
    taken = await device.until_map(lambda m: m.serial == newer.serial)
    assert taken == newer and taken.members == held.members
    renamed = msgspec.structs.replace(held.members[0], name="renamed")
    newest = newer.changed(
        serial=newer.serial + 1,
        head=Encoded.read(later(held.head, policy={}), MapHead),
        upsert=[Encoded.read(later(renamed, zone="south"), Member)],
    )
    link.post(signed(newest, delta=MapDelta.between(newer, newest)))
    taken = await device.until_map(lambda m: m.serial == newest.serial)
    assert taken == newest and taken.members == (renamed,)
    assert json.loads(taken.entries[renamed.client_id].raw)["zone"] == "south"


def _patch(**values: Any) -> Any:
    from shadowmesh.model.api import NetworkPatch

    return NetworkPatch(**values)


def _update(device: Device, netmap: Any, signature: Any) -> str:
    update = MapUpdate(
        network_id=netmap.head.network_id,
        client_id=device.answer.client_id,
        snapshot=netmap.snapshot(),
        signature=signature,
    )
    return to_json(update).decode()


async def test_a_refusal_stands_until_the_controller_says_otherwise(world: World) -> None:
    """Between two refusals there is no `Disconnected` that would hide their reason."""
    await world.network()
    first = await world.member()
    clone = world.clone(first)
    clone.answer = first.answer
    await clone.connect()
    await clone.until_event(LinkRefused)
    assert clone.link is not None
    clone.link.kick()  # asks again at once
    await clone.until(lambda: len(clone.events) >= 2)
    assert [type(e) for e in clone.events] == [LinkRefused, LinkRefused]
    await first.close()
    clone.link.kick()
    await clone.until_event(Connected)


@pytest.mark.parametrize(("age", "accepted"), [(-86400.0, True), (86400.0, False)])
async def test_an_identity_played_back_brings_no_old_keys_back(
    world: World, tmp_path: Path, age: float, accepted: bool
) -> None:
    """The device knows another authority than what is shown: one that was replaced before, or one that replaced it."""
    await world.network()
    device = world.device()
    await device.join((await world.invite()).invite)
    pki.make_authority(tmp_path, world.fingerprint, world.clock())
    known = device.identity
    device.identity = msgspec.structs.replace(
        known, ca_pem=(tmp_path / "ca.pem").read_text(), issued=known.issued + age
    )
    await device.connect()
    if accepted:
        await device.settled()
    else:
        error = (await device.until_event(Disconnected)).error
        assert (error.code, error.kind) == ("identity_older", Kind.NOT_ALLOWED)


def test_an_older_identity_with_the_same_keys_is_no_harm() -> None:
    """The controller's clock was wrong for a time, say."""
    keys = (Signer.generate().public,)
    document = IdentityDocument(identity=keys[0], ca_pem="x", signing_keys=keys, urls=(), issued=1e9)
    older = msgspec.structs.replace(document, issued=1.0, urls=("https://192.0.2.1",))
    assert not goes_back(older, document)
    assert goes_back(msgspec.structs.replace(older, signing_keys=()), document)
    assert not goes_back(msgspec.structs.replace(document, signing_keys=(), issued=1e9 - 60), document)


def test_an_identity_of_todays_keys_makes_no_room_for_the_one_before_them() -> None:
    old, new = Signer.generate().public, Signer.generate().public
    before = IdentityDocument(identity=old, ca_pem="x", signing_keys=(old,), urls=(), issued=1e9)
    first = msgspec.structs.replace(before, signing_keys=(new,), issued=1e9 + 10)
    today = msgspec.structs.replace(first, issued=2e9)
    known = succeeding(first, today, 2e9)
    assert known == today
    with pytest.raises(ForgedError):
        succeeding(before, known, 2e9)


def test_an_identity_of_a_clock_years_ahead_is_succeeded_by_todays() -> None:
    old, new = Signer.generate().public, Signer.generate().public
    ahead = IdentityDocument(identity=old, ca_pem="x", signing_keys=(old,), urls=(), issued=2e9)
    renewed = msgspec.structs.replace(ahead, signing_keys=(new,), issued=1e9 + 10)
    for known in (None, msgspec.structs.replace(ahead, issued=1e9 - 10)):
        kept = succeeding(ahead, known, 1e9)
        assert succeeding(renewed, kept, 1e9 + 10).signing_keys == (new,)
        with pytest.raises(ForgedError):
            succeeding(msgspec.structs.replace(renewed, issued=1e9 - 10), kept, 1e9 + 10)


async def test_a_hello_of_somebody_who_is_in_no_network_holds_no_link(world: World) -> None:
    await world.network()
    stranger = Signer.generate()
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    url = world.url.replace("https", "wss") + "/api/v1/link"
    async with connect(url, ssl=contact.tls, proxy=None) as socket:
        nonce = bytes.fromhex(json.loads(await socket.recv())["nonce"])
        message = hello_message(nonce, contact.identity.identity, "b")
        held = NetworkID(bytes(32))
        hello = Hello(
            device_key=stranger.device_key,
            signature=sign_text(stranger, Context.HELLO, message),
            boot_id="b",
            version="0",
            maps=(MapState(network_id=held, generation=1, serial=1),),
        )
        await socket.send(to_json(hello).decode())
        assert json.loads(await socket.recv())["type"] == "removed"
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 1000
    await eventually(lambda: asyncio.sleep(0, len(world.at.hub.devices)), lambda count: count == 0)


async def test_no_grant_goes_to_a_client_whose_removal_overtakes_its_hello(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hello read is from before the removal, and the map is still to be read again."""
    await world.network()
    device = world.device()
    await device.join((await world.invite()).invite)
    find, refresh, tasks = world.at.devices._memberships.of, world.at.maps.refresh, list[asyncio.Task[None]]()
    told = asyncio.Event()

    async def late(*args: Any, **options: Any) -> Any:
        told.set()
        await asyncio.sleep(0.3)
        return await refresh(*args, **options)

    async def of(key: Any) -> Any:
        rows = await find(key)
        if not tasks:
            tasks.append(asyncio.create_task(world.at.clients.remove(LOCAL, "office", "laptop")))
            await told.wait()
        return rows

    monkeypatch.setattr(world.at.maps, "refresh", late)
    monkeypatch.setattr(world.at.devices._memberships, "of", of)
    await device.connect()
    assert (await device.until_event(Removed)).reason == "removed"
    assert (await device.until_event(LinkRefused)).code == "device_unknown"
    await tasks[0]
    assert device.grants == {}


async def test_a_token_made_while_its_client_is_removed_is_void_at_the_relays(world: World) -> None:
    await world.network()
    device = await world.member()
    live = await world.at.maps.get(device.map.head.network_ref)
    member = live.map.member(device.answer.client_id)
    await world.call("client_remove", "office", "laptop")
    world.clock.advance(seconds=2)
    late = make_grant(world.at.context, live.network_id, live.keys, member, device.sealing_key, live.limits)
    now = world.clock()
    known = RevocationList((await world.at.context.read(lambda conn: revocations.for_relays(conn, now)))[1])
    token = read_token(late.relay_token)
    assert known.revokes(token) and max(e.until for e in known.entries()) >= token.valid_until


async def test_the_link_of_a_device_that_waits_ends_with_its_network(world: World) -> None:
    await world.network(approval=True)
    await world.network("lab", "10.43.0.0/24", approval=True)
    device = world.device()
    await device.join((await world.invite()).invite)
    await device.connect()
    await device.until_event(Pending)
    other = world.device()
    other.signer = device.signer
    assert device.link is not None
    device.link.joined((await other.join((await world.invite("lab")).invite)).network_id)
    await world.call("client_deny", "lab", "laptop")
    assert (await device.until_event(Removed)).reason == "denied"
    assert len(world.at.hub.devices) == 1, "it still waits for the other network"
    await world.call("network_delete", "office")
    await device.until_event(Removed, lambda e: e.reason == "deleted")
    await eventually(lambda: asyncio.sleep(0, len(world.at.hub.devices)), lambda count: count == 0)


@pytest.mark.parametrize(
    ("code", "words"), [(CloseCode.SERVICE_RESTART, "restarts"), (CloseCode.INTERNAL_ERROR, "closed the connection")]
)
async def test_a_connection_that_was_there_and_ended_isnt_called_out_of_reach(
    world: World, code: CloseCode, words: str
) -> None:
    await world.network()
    device = await world.member()
    (link,) = world.at.hub.devices.values()
    link.close(code, "")
    gone = await device.until_event(Disconnected)
    assert (gone.error.code, gone.error.kind) == ("link_lost", Kind.UNREACHABLE)
    assert words in gone.error.what and "can't be reached" not in gone.error.what
    assert gone.retry_in > 0.0, "all others come back as well"


async def test_a_controller_that_fell_silent_is_asked_by_who_looks_and_given_up_if_it_says_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_QUIET", 0.0)
    await world.network()
    device = await world.member()
    assert device.link is not None and device.link._socket is not None
    before = asyncio.get_running_loop().time()
    silence = await device.link.silence(5.0)
    assert silence is not None and silence <= asyncio.get_running_loop().time() - before, "it answered"
    assert not any(isinstance(e, Disconnected) for e in device.events)
    monkeypatch.setattr(link_module, "_LOOK_TIMEOUT", 0.05)
    device.link._socket.transport.pause_reading()  # nothing gets here any more, and nobody says so
    await device.link.silence(0.0)
    gone = await device.until_event(Disconnected)
    assert gone.error.code == "link_lost" and "has said nothing for" in gone.error.what
    assert await device.link.silence(0.0) is None
    await device.until(lambda: sum(isinstance(e, Connected) for e in device.events) == 2)


async def test_a_clone_that_tries_again_and_again_is_one_entry_in_the_audit_log(world: World) -> None:
    await world.network()
    first = await world.member(name="web")
    clone = world.clone(first)
    await clone.connect()
    await clone.until_event(LinkRefused)
    assert clone.link is not None
    clone.link.kick()
    await clone.until(lambda: sum(isinstance(e, LinkRefused) for e in clone.events) >= 2)
    assert [e.action for e in await world.call("audit_list")].count("client.duplicate") == 1


@pytest.mark.parametrize("bad", ["https://127.0.0.1:99999", "https://[::1", f"https://{'a' * 70}.example:1", "x"])
async def test_an_announced_url_that_is_none_keeps_nobody_from_the_others(world: World, bad: str) -> None:
    await world.network()
    device = world.device()
    await device.join((await world.invite()).invite)
    device.identity = msgspec.structs.replace(device.identity, urls=(bad, *device.identity.urls))
    await device.connect()
    await device.settled()


async def test_one_that_is_closed_while_it_connects_stays_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.network()
    device = world.device()
    await device.join((await world.invite()).invite)
    real = link_module.connect

    async def connected_too_late(*arguments: Any, **options: Any) -> Any:
        socket = await real(*arguments, **options)
        assert device.link is not None
        await device.link.close()
        return socket

    monkeypatch.setattr(link_module, "connect", connected_too_late)
    await device.connect()
    assert device._task is not None
    await asyncio.wait_for(device._task, 5)
    assert device.events == [] and not world.at.hub.devices
