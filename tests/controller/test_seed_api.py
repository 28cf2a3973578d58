"""The examples of the API's specification, sent as they are written there, over HTTPS; answers compared field by field."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from people import person, web
from sqlalchemy.engine import Connection
from websockets.asyncio.client import connect

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.store import schema
from shadowmesh.model.devicelink import Health, PathChange, PeerHealth, Pending
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.protocol.sealing import generate_sealing_keys, network_key_info, open_sealed

if TYPE_CHECKING:
    from tests.controller.conftest import World

CREATE = """{
  "name": "acme-prod",
  "subnet": "10.100.1.0/24",
  "description": "Production environment",
  "p2p_enabled": true,
  "relay_fallback": true
}"""


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """With `Authorization: Bearer <token>` of an administrator."""
    async with web(world) as client:
        client.headers["Authorization"] = f"Bearer {world.first.api_key}"
        yield client


async def created(http: httpx.AsyncClient, body: str = CREATE) -> dict[str, Any]:
    answer = await http.post("/api/v1/networks", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def with_field(body: str, **fields: str) -> str:
    return json.dumps(json.loads(body) | fields)


def is_time(text: str) -> bool:
    return text.endswith("Z") and dt.datetime.fromisoformat(text).tzinfo is not None


def opened(secret: Secret, field: dict[str, Any], wire_id: str) -> bytes:
    """What is in an `encryption_key` or `network_key`."""
    info = network_key_info(NetworkID.parse(wire_id), field["epoch"])
    return open_sealed(secret, base64.b64decode(field["sealed"]), info)


# create network


async def test_create_network(http: httpx.AsyncClient) -> None:
    made = await created(http)
    assert re.fullmatch(r"net_[a-z0-9]{20}", made["network_id"])
    assert re.fullmatch(r"acmeprod-[a-z0-9]{4}-[a-z0-9]{8}", made["invitation_code"])
    assert (made["encryption_key"], made["network_key_reason"]) == (None, "no_sealing_key")
    assert {name: made[name] for name in json.loads(CREATE)} == json.loads(CREATE)
    shown = (await http.get(f"/api/v1/networks/{made['network_id']}")).json()
    assert {name: shown[name] for name in json.loads(CREATE)} == json.loads(CREATE)
    assert "invitation_code" not in shown and "encryption_key" not in shown


async def test_the_invitation_code_lets_a_machine_ask_to_join(world: World, http: httpx.AsyncClient) -> None:
    made = await created(http)
    answer = await world.device().join(made["invitation_code"], name="server-1")
    assert (answer.network, answer.state) == (made["network_id"], "pending"), "who comes by a code waits for approval"
    invites = (await http.get("/api/v1/networks/acme-prod/invites")).json()["items"]
    assert [(i["standing"], i["state"]) for i in invites] == [(True, "open")]
    await http.delete(f"/api/v1/networks/acme-prod/invites/{invites[0]['id']}")
    with pytest.raises(ShadowMeshError) as caught:
        await world.device().join(made["invitation_code"], name="server-2")
    assert caught.value.code == "invite_revoked"


async def test_the_encryption_key_is_sealed_to_who_asked(world: World, http: httpx.AsyncClient) -> None:
    secret, sealing = generate_sealing_keys()
    made = await created(http, with_field(CREATE, sealing_key=str(sealing)))
    assert made["network_key_reason"] is None and set(made["encryption_key"]) == {"sealed", "epoch"}
    key = opened(secret, made["encryption_key"], made["wire_id"])
    assert len(key) == 32 and str(NetworkID.of(Secret(key))) == made["wire_id"], "it is the key that names the network"
    log = await world.call("audit_list")
    entry = next(e for e in log if e.action == "network.create")
    assert entry.detail["key_given"] is True and entry.detail["invite"].startswith("inv_")


@pytest.mark.parametrize("key", ["", "AAAA", "A" * 1624], ids=["none", "short", "no key"])
async def test_what_is_no_sealing_key_is_refused_and_makes_no_network(http: httpx.AsyncClient, key: str) -> None:
    answer = await http.post(
        "/api/v1/networks", content=with_field(CREATE, sealing_key=key), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert (await http.get("/api/v1/networks")).json() == {"networks": [], "next": None}


# list and delete networks


async def test_list_networks(world: World, http: httpx.AsyncClient) -> None:
    made = await created(http)
    await world.member("acme-prod")
    answer = await http.get("/api/v1/networks")
    assert answer.status_code == 200 and set(answer.json()) == {"networks", "next"}
    (network,) = answer.json()["networks"]
    told = {name: network[name] for name in ("network_id", "name", "subnet", "clients_online")}
    assert told == {
        "network_id": made["network_id"], "name": "acme-prod", "subnet": "10.100.1.0/24", "clients_online": 1
    }  # fmt: skip
    assert is_time(network["created_at"])


async def test_delete_network(http: httpx.AsyncClient) -> None:
    made = await created(http)
    answer = await http.delete(f"/api/v1/networks/{made['network_id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await http.get(f"/api/v1/networks/{made['network_id']}")).status_code == 404


# register client

REGISTER = """{
  "client_name": "server-1",
  "invitation_code": "regen45-prod-k3fj92",
  "public_key": "base64_encoded_key",
  "nat_capability": {
    "public_ip": "203.0.113.45",
    "public_port": 51820,
    "nat_type": "port_restricted"
  }
}"""


async def test_register_client(world: World, http: httpx.AsyncClient) -> None:
    made, device = await created(http), world.device()
    body = REGISTER.replace("regen45-prod-k3fj92", made["invitation_code"])
    body = body.replace("base64_encoded_key", str(device.wg_key))
    path, json_headers = f"/api/v1/networks/{made['network_id']}/clients", {"Content-Type": "application/json"}
    await world.at.context.write(a_relay)
    answer = await http.post(path, content=body, headers=json_headers)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert re.fullmatch(r"cli_[a-z0-9]{20}", told["client_id"])
    assert told["assigned_ip"] == "10.100.1.1"
    assert (told["network_key"], told["network_key_reason"]) == (None, "no_sealing_key")
    assert told["relay_server"] == "ws://relay-us-east.shadowmesh.io:9545"
    assert (told["state"], is_time(told["expires_at"])) == ("pending", True)
    assert (await device.join(made["invitation_code"])).client_id == told["client_id"]


async def test_where_there_is_no_relay_none_is_named(world: World, http: httpx.AsyncClient) -> None:
    await created(http)
    body = {"client_name": "server-1", "public_key": str(world.device().wg_key)}
    told = (await http.post("/api/v1/networks/acme-prod/clients", json=body)).json()
    assert told["relay_server"] is None


def a_relay(conn: Connection) -> None:
    url = "ws://relay-us-east.shadowmesh.io:9545"
    values = {"id": "rly_x", "name": "us-east", "key": bytes(32), "url": url, "region": "us-east", "version": ""}
    at = dt.datetime.now(dt.UTC)
    conn.execute(schema.relays.insert().values(**values, draining=False, created_at=at))


# peer discovery


async def test_get_peer_info(world: World, http: httpx.AsyncClient) -> None:
    made, device = await created(http), world.device()
    body = json.loads(REGISTER) | {"public_key": str(device.wg_key)}
    del body["invitation_code"]
    told = (await http.post("/api/v1/networks/acme-prod/clients", json=body)).json()
    path = f"/api/v1/networks/{made['network_id']}/peers/{told['client_id']}"
    assert (await http.get(path)).status_code == 404, "it isn't in the map before it has proved its key"
    await device.join(told["invite"])
    await world.at.context.write(a_relay)
    answer = await http.get(path)
    assert answer.status_code == 200
    peer = answer.json()
    assert (peer["peer_id"], peer["public_key"]) == (told["client_id"], str(device.wg_key))
    assert peer["endpoints"] == [
        {"type": "direct", "address": "203.0.113.45:51820", "nat_type": "port_restricted"},
        {"type": "relay", "address": "ws://relay-us-east.shadowmesh.io:9545", "nat_type": None},
    ]


# list clients


async def test_list_clients(world: World, http: httpx.AsyncClient) -> None:
    made = await created(http)
    device = await world.member("acme-prod", name="server-1")
    answer = await http.get(f"/api/v1/networks/{made['network_id']}/clients")
    assert answer.status_code == 200 and set(answer.json()) == {"clients", "next"}
    (client,) = answer.json()["clients"]
    assert device.answer is not None
    names = ("client_id", "name", "ip", "status", "connection_type", "latency_ms", "public_key")
    assert [client[name] for name in names] == [
        device.answer.client_id, "server-1", "10.100.1.1", "online", None, None, str(device.wg_key)
    ]  # fmt: skip
    assert is_time(client["last_seen"])


async def test_a_client_that_waits_for_approval_is_connecting_and_one_away_offline(
    world: World, http: httpx.AsyncClient
) -> None:
    made = await created(http)
    waiting = world.device()
    await waiting.join(made["invitation_code"], name="server-1")
    path = "/api/v1/networks/acme-prod/clients"
    assert [c["status"] for c in (await http.get(path)).json()["clients"]] == ["offline"]
    await (await waiting.connect()).until_event(Pending)
    assert [c["status"] for c in (await http.get(path)).json()["clients"]] == ["connecting"]
    await http.post(f"{path}/server-1/approve")
    await waiting.settled()
    assert [c["status"] for c in (await http.get(path)).json()["clients"]] == ["online"]


# events


async def test_the_websocket_tells_who_came_and_went(world: World, http: httpx.AsyncClient) -> None:
    made = await created(http)
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    url, headers = world.url.replace("https", "wss") + "/api/v1/ws", {"Authorization": f"Bearer {world.first.api_key}"}
    async with connect(url, ssl=contact.tls, proxy=None, additional_headers=headers) as ws:
        await ws.send(json.dumps({"type": "subscribe", "network_id": made["network_id"]}))

        async def until(kind: str) -> dict[str, Any]:
            async with asyncio.timeout(8):
                while (data := json.loads(await ws.recv()))["type"] != kind:
                    pass
            found: dict[str, Any] = data
            return found

        await until("subscribed")
        device, other = await world.member("acme-prod", name="one"), await world.member("acme-prod", name="two")
        assert device.answer is not None and other.answer is not None and device.link is not None
        assert (await until("client_online"))["client_id"] == device.answer.client_id
        await device.until_map(lambda m: len(m.members) == 2)
        punched = PathChange(ago=1, reason="direct.punched")
        way = PeerHealth(peer=other.answer.client_id, reason="relay.path_lost", changes=(punched,))
        device.link.post(Health(network_id=device.answer.network_id, peers=(way,)))
        upgrade = await until("connection_upgrade")
        assert upgrade["client_id"] == device.answer.client_id and upgrade["network_id"] == made["network_id"]
        await device.close()
        gone = await until("client_offline")
        assert gone["client_id"] == device.answer.client_id and "client_id" not in gone["data"]
    listed = (await http.get("/api/v1/events")).json()["items"]
    assert {e["client_id"] for e in listed if e["type"] == "client_offline"} == {device.answer.client_id}


# the example of the migration's second phase


async def test_curl_without_a_content_type(http: httpx.AsyncClient) -> None:
    """`curl -d` says that it sends a form."""
    body = """{
    "name": "my-network",
    "subnet": "10.100.1.0/24",
    "p2p_enabled": true
  }"""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await http.post("/api/v1/networks", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "my-network"
    bare = await http.post(
        "/api/v1/networks", content=body.replace("my-network", "other").replace("10.100.1", "10.100.2")
    )
    assert bare.status_code == 201, "nor with none at all"
    form = await http.post("/api/v1/networks", content="name=my-network&subnet=10.100.1.0/24", headers=headers)
    assert (form.status_code, form.json()["code"]) == (422, "invalid_request")


# sessions


async def test_refresh(world: World, http: httpx.AsyncClient) -> None:
    ann = await person(world, "ann")
    answer = await http.post("/api/v1/auth/refresh", json={"refresh_token": ann.session.refresh_token})
    assert answer.status_code == 200 and answer.json()["token_type"] == "Bearer"
    token = answer.json()["access_token"]
    assert (await http.get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"})).json()["user"] == ann.user
