"""Text that a terminal would obey is refused where it comes in: from people, devices and relays, on every way."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from test_possession import Applicant
from test_relays import linked, register, registered
from websockets.asyncio.client import connect

from shadowmesh.client_api.contact import first_contact
from shadowmesh.model.codec import from_json
from shadowmesh.model.devicelink import Challenge, LinkError
from shadowmesh.protocol.signing import Context, Signer, hello_message, sign_text

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

UNSAFE = ["\x1b[2J", "a\x00b", "\x9b31m", "a\u202eb", "\u2066", "a\nb", "\u2028", "\x7f", "\ud800", "\U000e0041"]
RAW = "\x1b\x9b\x00\u202e"


@pytest.mark.parametrize("text", UNSAFE)
async def test_from_people(world: World, text: str) -> None:
    await world.network()
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/networks", {"name": text, "subnet": "10.50.0.0/24"}),
        ("POST", "/networks", {"name": "n", "subnet": text}),
        ("POST", "/networks", {"name": "n", "subnet": "10.50.0.0/24", "description": text}),
        ("PATCH", "/networks/office", {"description": text}),
        ("PATCH", "/networks/office", {"relay": text}),
        ("POST", "/networks/office/invites", {"tags": [text]}),
        ("POST", "/networks/office/invites", {"client_name": text}),
        ("POST", "/users", {"email": f"{text}@example.org"}),
        ("POST", "/users", {"email": f"x@{text}"}),
        ("PUT", "/networks/office/members", {"email": f"x@{text}", "role": "guest"}),
        ("POST", "/api-keys", {"name": text}),
        ("POST", "/auth/login", {"email": f"x@{text}", "password": "x"}),
        ("POST", "/auth/refresh", {"refresh_token": text}),
        ("POST", "/auth/logout", {"refresh_token": text}),
        ("POST", "/enroll/challenge", {"code": text}),
    ]
    transport = httpx.AsyncHTTPTransport(uds=str(world.data_dir / "controller.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://local/api/v1") as client:
        for method, path, body in requests:
            answer = await client.request(
                method, path, content=json.dumps(body), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 422, (method, path, body, answer.text)
            assert not set(answer.text) & set(RAW), "what is told of it is text"
        odd = {"email": "admin@localhost", "password": "\ud800", "new_password": "\ud800" * 10}
        answer = await client.post("/auth/login", content=json.dumps(odd), headers={"content-type": "application/json"})
        assert answer.status_code == 422


@pytest.mark.parametrize("name", ["", "  ", "\u00a0", "\u200d", "\u3164", "\u2800", "\ufe0f", "x" * 101])
async def test_an_api_key_has_a_name_that_can_be_seen_or_none(world: World, name: str) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(world.data_dir / "controller.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://local/api/v1") as client:
        assert (await client.post("/api-keys", json={"name": name})).status_code == 422
        for good in ({"name": "Büro 👩\u200d💻"}, {}):
            made = await client.post("/api-keys", json=good)
            assert (made.status_code, made.json()["name"]) == (201, good.get("name", ""))


@pytest.mark.parametrize("field", ["hostname", "version", "name"])
@pytest.mark.parametrize("text", [t for t in UNSAFE if t != "\ud800"])
async def test_from_who_enrols(world: World, field: str, text: str) -> None:
    await world.network()
    applicant = Applicant(world, world.device(), (await world.invite()).invite)
    answer = await applicant.post("/enroll", applicant.request(await applicant.asked()) | {field: text})
    assert answer.status_code == 422
    assert not set(answer.text) & set(RAW)
    assert await world.call("client_list", "office") == []


async def said_on_the_link(world: World, device: Device, *messages: dict[str, Any], **hello: Any) -> LinkError:
    """What the controller says against what a device with a client of its own sends."""
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    url = world.url.replace("https", "wss") + "/api/v1/link"
    async with connect(url, ssl=contact.tls, proxy=None) as socket:
        challenge = from_json(await socket.recv(), Challenge)
        said: dict[str, Any] = {"boot_id": "b1", "version": "1"} | hello
        message = hello_message(bytes.fromhex(challenge.nonce), contact.identity.identity, said["boot_id"])
        said |= {
            "type": "hello",
            "device_key": str(device.signer.device_key),
            "signature": sign_text(device.signer, Context.HELLO, message),
        }
        await socket.send(json.dumps(said))
        for more in messages:
            await socket.send(json.dumps(more))
        await socket.send(json.dumps({"type": "probereply", "nonce": ""}))
        async with asyncio.timeout(8):
            while json.loads(text := await socket.recv())["type"] != "linkerror":
                pass
        return from_json(text, LinkError)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\u202eb", "x" * 101])
async def test_from_a_device(world: World, text: str) -> None:
    await world.network()
    device = world.device()
    answer = await device.join((await world.invite()).invite)
    network = str(answer.network_id)
    health = {"type": "health", "network_id": network}
    for error in (
        await said_on_the_link(world, device, version=text),
        await said_on_the_link(world, device, boot_id=text),
        await said_on_the_link(world, device, health | {"nat": text}),
        await said_on_the_link(world, device, health | {"peers": [["cli_x", text]]}),
    ):
        assert error.code in ("bad_text", "malformed")
        assert not set(error.what) & set(RAW)
    (client,) = await world.call("client_list", "office")
    assert text not in client.version


@pytest.mark.parametrize("home", ["rly_" + "x" * 50_000, "\x1b[2J"])
async def test_a_relay_that_is_none_is_told_nobody(world: World, home: str) -> None:
    """What a device says of itself goes to everyone who hears of it, and so would fifty kilobytes."""
    await world.network()
    other = await world.member()
    device = world.device()
    answer = await device.join((await world.invite()).invite)
    for field in ("home", "standby"):
        error = await said_on_the_link(
            world, device, {"type": "report", "network_id": str(answer.network_id), field: home}
        )
        assert error.code == "bad_text"
    told = other.presence.get(answer.client_id)
    assert told is None or (told.home, told.standby) == (None, None)


@pytest.mark.parametrize("host", ["\x1b[2J", "host.example.org", "fe80::1%x", "1.2.3"])
async def test_an_endpoint_that_is_no_address_is_told_nobody(world: World, host: str) -> None:
    """Told as presence, every member would look it up, or fail over it."""
    await world.network()
    other = await world.member()
    device = world.device()
    answer = await device.join((await world.invite()).invite)
    report = {"type": "report", "network_id": str(answer.network_id), "endpoints": [[host, 5]]}
    error = await said_on_the_link(world, device, report)
    assert error.code == "malformed"
    told = other.presence.get(answer.client_id)
    assert told is None or told.endpoints == ()


@pytest.mark.parametrize("text", ["\x1b[2J", "a\u202eb", "x" * 400])
async def test_from_a_relay(world: World, text: str) -> None:
    signer = Signer.generate()
    for changes in ({"region": text}, {"name": text}, {"version": text}, {"url": f"ws://{text}"}):
        token = (await world.call("relay_token")).token
        answer = await register(world, signer, token, **changes)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_text"), changes
    relay = await registered(world, signer)
    for changes in ({"region": text}, {"version": text}, {"url": f"wss://{text}"}, {"boot_id": text}):
        async with linked(world, signer, relay, **changes) as end:
            assert (await end.next(LinkError)).code == "bad_text"
    (kept,) = await world.call("relay_list")
    assert text not in f"{kept.region} {kept.version} {kept.url}"


@pytest.mark.parametrize(
    "url", ["http://x", "ws://", "wss://[", "ws://r:99999", "ws://r:0", "ws://a b/", f"ws://{'a' * 70}", "ws://r/x y"]
)
async def test_a_relays_url_is_one_that_clients_can_connect_to(world: World, url: str) -> None:
    token = (await world.call("relay_token")).token
    answer = await register(world, Signer.generate(), token, url=url)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_relay")


@pytest.mark.parametrize("capacity", [-1, 2**31, 2**63, 2**200])
async def test_a_relays_capacity_is_a_number_that_can_be_kept(world: World, capacity: int) -> None:
    token = (await world.call("relay_token")).token
    answer = await register(world, Signer.generate(), token, capacity_mbit=capacity)
    assert answer.status_code == 422


@pytest.mark.parametrize("told", [{"sessions": 10**400}, {"forwarded_bytes": -1}, {"cpu": 1e300}])
async def test_numbers_of_a_relays_load_are_such_that_can_be_shown(world: World, told: dict[str, Any]) -> None:
    signer = Signer.generate()
    relay = await registered(world, signer)
    counts = dict.fromkeys(("sessions", "networks", "forwarded_frames", "forwarded_bytes", "dropped_frames", "cpu"), 1)
    async with linked(world, signer, relay) as end:
        await end.socket.send(json.dumps({"type": "load"} | counts | told))
        assert (await end.next(LinkError)).code == "malformed"
