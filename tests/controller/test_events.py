"""Events for people: as they happen, and those missed while away; for eyes that may see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.authz import LOCAL
from shadowmesh.controller.service.events import StoredEvent
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.store.database import StorageInDoubt
from shadowmesh.model import accounts, api
from shadowmesh.model.ids import NetworkRef

if TYPE_CHECKING:
    from tests.controller.conftest import World


@asynccontextmanager
async def watching(world: World, token: str, **subscription: Any) -> AsyncIterator[ClientConnection]:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    headers = {"Authorization": f"Bearer {token}"}
    url = world.url.replace("https", "wss") + "/api/v1/ws"
    async with connect(url, ssl=contact.tls, proxy=None, additional_headers=headers) as socket:
        await socket.send(json.dumps({"type": "subscribe"} | subscription))
        yield socket


async def until(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """What comes until the first of this type, and that one."""
    got = []
    while not got or got[-1]["type"] != kind:
        got.append(json.loads(await asyncio.wait_for(socket.recv(), 5)))
    return got


async def test_what_may_be_stored_already_is_stored_and_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to the database broke while it was committing."""
    ref = NetworkRef((await world.network()).network_id)
    await world.at.events.flush()
    newest, told = await world.at.events.newest(), list[StoredEvent]()
    world.at.events.listen(told.extend)
    write, broken = world.at.context.store.write, [True]

    async def breaks(tx: Any) -> Any:
        found = await write(tx)
        if broken:
            broken.pop()
            raise StorageInDoubt(OSError("away"))
        return found

    monkeypatch.setattr(world.at.context.store, "write", breaks)
    world.at.events.publish("network_changed", ref, change="set", fields=["one"])
    with pytest.raises(StorageInDoubt):
        await world.at.events.flush()
    world.at.events.publish("network_changed", ref, change="set", fields=["two"])
    await world.at.events.flush()
    assert [(e.seq, e.data["fields"]) for e in told] == [(newest + 1, ["one"]), (newest + 2, ["two"])]
    lines = await world.call("log", "office", source="controller")
    assert [line.detail["fields"] for line in lines if "fields" in line.detail] == [["one"], ["two"]]


async def test_events_come_numbered_and_a_watcher_that_was_away_misses_none(world: World) -> None:
    network = await world.network()
    async with watching(world, world.first.api_key, network_id="office") as socket:
        (subscribed,) = await until(socket, "subscribed")
        device = await world.member(name="one")
        seen = await until(socket, "client_online")
        assert [e["data"].get("change") for e in seen if e["type"] == "network_changed"] == ["client_joined"]
        assert seen[-1]["client_id"] == device.answer.client_id
        assert all(e["network_id"] == network.network_id and e["at"].endswith("Z") for e in seen)
        numbers = [e["seq"] for e in seen]
        assert numbers == sorted(set(numbers)) and numbers[0] > subscribed["seq"]
    await device.close()
    await world.network("other", "10.43.0.0/24")
    await world.call("client_remove", "office", "one")
    async with watching(world, world.first.api_key, network_id=network.network_id, since=numbers[-1]) as socket:
        missed = await until(socket, "client_removed")
        assert [e["type"] for e in missed[1:]] == ["client_offline", "client_removed"]
        assert missed[1]["seq"] > numbers[-1]
    answered = await world.call("events", since=numbers[-1], network="office")
    assert [e.seq for e in answered] == [e["seq"] for e in missed[1:]]


async def test_a_number_that_is_not_reached_yet_is_not_waited_for(world: World) -> None:
    """As after an older database was put back: who was told of more than there is now hears of what comes."""
    network = await world.network()
    await world.at.events.flush()
    newest = await world.at.events.newest()
    assert (await world.at.events.log(LOCAL, 10**6)).next == str(newest)
    async with watching(world, world.first.api_key, since=10**6) as socket:
        (subscribed,) = await until(socket, "subscribed")
        assert subscribed["seq"] == newest
        await world.call("network_set", "office", api.NetworkPatch(description="x"))
        (told,) = await until(socket, "network_changed")
        assert (told["network_id"], told["seq"]) == (network.network_id, newest + 1)


async def test_someone_who_waits_is_an_event(world: World) -> None:
    await world.network(approval=True)
    async with watching(world, world.first.api_key) as socket:
        await until(socket, "subscribed")
        await world.device().join((await world.invite()).invite)
        assert (await until(socket, "client_pending"))[-1]["data"]["name"] == "laptop"


async def test_a_member_sees_its_networks_only_and_a_stranger_nothing(world: World) -> None:
    await world.network()
    await world.network("secret", "10.43.0.0/24")
    await world.call("user_create", accounts.UserCreate(email="ann@example.org"))
    await world.call("member_set", "office", api.MemberPut(email="ann@example.org", role="guest"))
    user = await world.call("user_reset_password", "ann@example.org")
    session = await world.at.signing_in.login(
        accounts.Login(email=user.email, password=user.password, new_password="longer than ten"), "test"
    )
    async with watching(world, session.access_token, since=0) as socket:
        await until(socket, "subscribed")
        await world.invite("secret")
        await world.call("network_set", "secret", api.NetworkPatch(description="x"))
        await world.call("network_set", "office", api.NetworkPatch(description="y"))
        events = await until(socket, "network_changed")
        while events[-1]["data"].get("change") != "set":
            events += await until(socket, "network_changed")
        office = (await world.call("network_show", "office")).network_id
        assert {e["network_id"] for e in events} == {office}
    async with watching(world, session.access_token, network_id="secret") as socket:
        assert (await until(socket, "error"))[-1]["code"] == "network_unknown"
    async with watching(world, "sk_wrong") as socket:
        assert (await until(socket, "error"))[-1]["code"] == "not_signed_in"
        await socket.wait_closed()
        assert socket.close_code == 4401


async def test_a_page_of_another_site_is_kept_out(world: World) -> None:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    url = world.url.replace("https", "wss") + "/api/v1/ws"
    try:
        async with connect(url, ssl=contact.tls, proxy=None, origin="https://evil.example"):  # type: ignore[arg-type]
            raise AssertionError("it was let in")
    except Exception as e:
        assert "403" in str(e)
    async with connect(url, ssl=contact.tls, proxy=None, origin=world.url):  # type: ignore[arg-type]
        pass


async def test_a_network_whose_creation_is_asked_for_again_was_created_once(world: World) -> None:
    wish = api.NetworkCreate(name="office", subnet="10.42.0.0/24")
    for _ in range(2):
        await world.at.networks.create(LOCAL, wish, IdempotentRequest.of("k", "networks", wish))
    await world.at.events.flush()
    assert [e.data["change"] for e in (await world.at.events.log(LOCAL, 0)).items] == ["created"]
