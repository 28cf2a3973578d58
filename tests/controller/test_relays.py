"""Relays register once, hold a link, hear of revocations, and stand in the maps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from shadowmesh.client_api.contact import Contact, first_contact
from shadowmesh.controller.service import revocations
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import Challenge, LinkError
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.relaylink import (
    Drain,
    FromController,
    Load,
    RelayHello,
    RelayRegistered,
    RelayRegistration,
    Revocations,
    TokenKeys,
)
from shadowmesh.protocol.signing import Context, Signer, hello_message, sign_text
from shadowmesh.protocol.token import read_token, verify_token
from shadowmesh.relay.sessiontable import RevocationList

if TYPE_CHECKING:
    from tests.controller.conftest import World

PLACE: dict[str, Any] = {"url": "ws://192.0.2.5:9545", "udp": SockAddr("192.0.2.5", 9545), "region": "eu"}


async def register(world: World, signer: Signer, token: str, **changes: Any) -> httpx.Response:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, trust_env=False) as client:
        nonce = (await client.post("/api/v1/enroll/challenge")).json()["nonce"]
        message = hello_message(bytes.fromhex(nonce), contact.identity.identity, token)
        wish = RelayRegistration(
            token=token,
            nonce=nonce,
            key=signer.public,
            signature=sign_text(signer, Context.RELAY_REGISTRATION, message),
            **(PLACE | {"name": "r1"} | changes),
        )
        return await client.post("/api/v1/relays/register", content=to_json(wish))


async def registered(world: World, signer: Signer) -> RelayRegistered:
    token = (await world.call("relay_token")).token
    answer = await register(world, signer, token)
    return from_json(answer.content, RelayRegistered)


class RelayEnd:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def next(self, kind: type) -> Any:
        while True:
            message: Any = from_json(await asyncio.wait_for(self.socket.recv(), 5), FromController)  # type: ignore[arg-type]
            if isinstance(message, kind):
                return message


@asynccontextmanager
async def linked(world: World, signer: Signer, relay: RelayRegistered, **changes: Any) -> AsyncIterator[RelayEnd]:
    contact: Contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    url = world.url.replace("https", "wss") + "/api/v1/relay-link"
    async with connect(url, ssl=contact.tls, proxy=None) as socket:
        end = RelayEnd(socket)
        challenge = await end.next(Challenge)
        boot_id = changes.get("boot_id", "b1")
        message = hello_message(bytes.fromhex(challenge.nonce), contact.identity.identity, boot_id)
        hello = RelayHello(
            relay_id=relay.relay_id,
            key=signer.public,
            signature=sign_text(signer, Context.RELAY_HELLO, message),
            **(PLACE | {"boot_id": "b1", "version": "0"} | changes),
        )
        await socket.send(to_json(hello).decode())
        yield end


async def test_a_relay_comes_into_the_maps_and_hears_who_is_removed(world: World) -> None:
    await world.network()
    device = await world.member()
    signer = Signer.generate()
    relay = await registered(world, signer)
    found = await device.until_map(lambda m: bool(m.head.relays))
    (info,) = found.head.relays
    assert (info.relay_id, info.key, info.udp, info.url) == (relay.relay_id, signer.public, PLACE["udp"], PLACE["url"])
    async with linked(world, signer, relay) as end:
        keys = (await end.next(TokenKeys)).keys
        first = await end.next(Revocations)
        assert first.complete and first.entries == ()
        token = device.grants[device.answer.network_id].relay_token
        body = verify_token(token, keys, time.time())
        started = time.monotonic()
        await world.call("client_remove", "office", "laptop")
        more = await end.next(Revocations)
        assert time.monotonic() - started < 2
        (gone,) = more.entries
        assert not more.complete
        assert (gone.device_key, gone.network_id) == (device.signer.device_key, device.answer.network_id)
        assert gone.before > body.issued and gone.until >= body.valid_until
        await end.socket.send(to_json(load(sessions=3)).decode())
        shown = await shown_when(world, lambda r: r.load is not None)
        assert shown.online and shown.load.sessions == 3
        await world.call("network_delete", "office")
        assert (await end.next(Revocations)).entries[0].device_key is None
    async with linked(world, signer, relay) as end:
        assert len((await end.next(Revocations)).entries) == 2, "who comes back hears of all"
    assert not (await shown_when(world, lambda r: not r.online)).online


async def shown_when(world: World, good: Any) -> Any:
    for _ in range(100):
        (relay,) = await world.call("relay_list")
        if good(relay):
            return relay
        await asyncio.sleep(0.03)
    raise AssertionError(relay)


def load(sessions: int) -> Load:
    return Load(sessions=sessions, networks=1, forwarded_frames=1, forwarded_bytes=1, dropped_frames=0, cpu=0.5)


async def test_a_relay_that_moved_or_drains_is_so_in_the_maps(world: World) -> None:
    await world.network()
    device = await world.member()
    signer = Signer.generate()
    relay = await registered(world, signer)
    async with linked(world, signer, relay, udp=SockAddr("192.0.2.9", 9545)) as end:
        await device.until_map(lambda m: any(r.udp == SockAddr("192.0.2.9", 9545) for r in m.head.relays))
        await world.call("relay_drain", "r1")
        assert (await end.next(Drain)).draining
        await device.until_map(lambda m: not m.head.relays)
        await world.call("relay_drain", "r1", draining=False)
        await device.until_map(lambda m: len(m.head.relays) == 1)
        await world.call("relay_remove", "r1")
        assert (await end.next(LinkError)).code == "relay_removed"
        await device.until_map(lambda m: not m.head.relays)
    async with linked(world, signer, relay) as end:
        assert (await end.next(LinkError)).code == "relay_unknown"


async def test_draining_a_relay_says_who_is_left_without_one(world: World) -> None:
    for name in ("r1", "r2"):
        token = (await world.call("relay_token")).token
        await register(world, Signer.generate(), token, name=name)
    await world.network("pinned", relay="r1")
    (of_one,) = (await world.call("relay_drain", "r1")).warnings
    assert of_one.startswith("pinned may use this relay only")
    (of_all,) = (await world.call("relay_drain", "r2")).warnings
    assert of_all.startswith("no other relay is in use")
    assert (await world.call("relay_drain", "r2", draining=False)).warnings == []


async def test_a_token_is_used_once_and_the_same_key_comes_back(world: World) -> None:
    signer, other = Signer.generate(), Signer.generate()
    token = (await world.call("relay_token")).token
    first, again = await register(world, signer, token), await register(world, signer, token)
    assert first.json() == again.json()
    assert (await register(world, other, token)).json()["code"] == "relay_token_expired"
    assert (await register(world, other, "smr1_guess")).json()["code"] == "relay_token_invalid"
    assert (await register(world, other, token, url="http://x", udp=None)).json()["code"] == "bad_relay"
    second = await registered(world, other)
    assert second.name == "r1-2"


async def test_a_network_may_be_bound_to_one_relay(world: World) -> None:
    first, second = Signer.generate(), Signer.generate()
    await registered(world, first)
    two = await registered(world, second)
    network = await world.network(relay="r1-2")
    assert network.relay == "r1-2"
    shown = await world.call("network_map", "office")
    assert [r["relay_id"] for r in shown["map"]["head"]["relays"]] == [two.relay_id]


async def test_another_key_cant_take_a_relays_place(world: World) -> None:
    signer = Signer.generate()
    relay = await registered(world, signer)
    async with linked(world, Signer.generate(), relay) as end:
        assert (await end.next(LinkError)).code == "relay_unknown"


@pytest.mark.parametrize("text", ["", "{}", '{"type":"load"}', "\x00", '{"type":"relayhello"}'])
async def test_junk_on_the_link_is_refused(world: World, text: str) -> None:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    for path in ("relay-link", "link"):
        async with connect(
            world.url.replace("https", "wss") + f"/api/v1/{path}", ssl=contact.tls, proxy=None
        ) as socket:
            await socket.recv()
            await socket.send(text)
            assert from_json(await socket.recv(), dict)["code"] == "malformed"
            await socket.wait_closed()
            assert socket.close_code == 4002


async def test_a_relay_whose_hello_fails_leaves_no_link_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer.generate()
    relay = await registered(world, signer)

    def fail(*_: object) -> None:
        raise ShadowMeshError("storage_failed", "the disk is full")

    monkeypatch.setattr(revocations, "for_relays", fail)
    async with linked(world, signer, relay) as end:
        await end.next(LinkError)
    assert not world.at.hub.relays
    (shown,) = await world.call("relay_list")
    assert not shown.online


async def test_what_is_revoked_while_a_relay_says_hello_stays_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told at once, and by who follows other controllers: both before the list that was read a moment earlier."""
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    device = await world.member()
    signer = Signer.generate()
    relay = await registered(world, signer)
    body = read_token(device.grants[device.answer.network_id].relay_token)
    read = ServiceContext.read
    looks: list[Any] = []

    def noted(*arguments: Any) -> Any:
        looks.append(for_relays(*arguments))
        return looks[-1]

    async def slow(context: ServiceContext, work: Any) -> Any:
        found: Any = await read(context, work)
        if looks[:1] and found is looks[0]:
            await world.call("client_remove", "office", "laptop")
            await world.at.following.catch_up()
        return found

    for_relays = revocations.for_relays
    monkeypatch.setattr(revocations, "for_relays", noted)
    monkeypatch.setattr(ServiceContext, "read", slow)
    known = RevocationList()
    async with linked(world, signer, relay) as end:
        await shown_when(world, lambda r: r.online)
        await world.call("network_delete", "lab")  # the last that it hears of
        while not any(e.client_id is None for e in known.entries()):
            told = await end.next(Revocations)
            (known.replace if told.complete else known.add)(told.entries)
    assert (body.network_id, body.device_key) in {(e.network_id, e.device_key) for e in known.entries()}
