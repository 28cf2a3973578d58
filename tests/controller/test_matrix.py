"""Who may do what: every route of the API's description, by every role. A route that isn't in the table fails the test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from people import Person, person, web
from test_possession import applicant

from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.relaylink import RelayRegistration
from shadowmesh.protocol.signing import Context, Signer, hello_message, sign_text

if TYPE_CHECKING:
    from tests.controller.conftest import World

ROLES = ("admin", "owner", "member", "guest", "outsider", "nobody")

# route → body, what admin, owner, member, guest and outsider (the owner of another network) get.
# A name in braces in `VALUES` says which thing it is tried on.
TABLE: dict[str, tuple[Any, tuple[int, int, int, int, int]]] = {
    "GET /whoami": (None, (200, 200, 200, 200, 200)),
    "POST /networks": ({"name": "new", "subnet": "10.9.0.0/24"}, (201, 403, 403, 403, 403)),
    "GET /networks": (None, (200, 200, 200, 200, 200)),
    "GET /networks/{network}": (None, (200, 200, 200, 200, 404)),
    "PATCH /networks/{network}": ({"p2p": False}, (200, 200, 403, 403, 404)),
    "DELETE /networks/{network}": (None, (204, 204, 403, 403, 404)),
    "POST /networks/{network}/rotate-key": (None, (200, 200, 403, 403, 404)),
    "GET /networks/{network}/map": (None, (200, 200, 200, 200, 404)),
    "POST /networks/{network}/invites": ({"tags": ["server"]}, (201, 201, 403, 403, 404)),
    "GET /networks/{network}/invites": (None, (200, 200, 200, 403, 404)),
    "DELETE /networks/{network}/invites/{invite}": (None, (204, 204, 404, 403, 404)),
    "GET /networks/{network}/clients": (None, (200, 200, 200, 200, 404)),
    "GET /networks/{network}/clients/{client}": (None, (200, 200, 200, 200, 404)),
    "GET /networks/{network}/peers/{client}": (None, (200, 200, 200, 200, 404)),
    "PATCH /networks/{network}/clients/{client}": ({"tags": ["x"]}, (200, 200, 403, 403, 404)),
    "POST /networks/{network}/clients/{client}/approve": (None, (200, 200, 403, 403, 404)),
    "POST /networks/{network}/clients/{client}/deny": (None, (204, 204, 403, 403, 404)),
    "DELETE /networks/{network}/clients/{client}": (None, (204, 204, 403, 403, 404)),
    "GET /devices": (None, (200, 200, 200, 200, 200)),
    "GET /devices/{device}": (None, (200, 200, 404, 404, 404)),
    "DELETE /devices/{device}": (None, (200, 200, 404, 404, 404)),
    "GET /networks/{network}/members": (None, (200, 200, 200, 200, 404)),
    "PUT /networks/{network}/members": (
        {"email": "target@example.org", "role": "guest"}, (200, 200, 403, 403, 404)
    ),
    "DELETE /networks/{network}/members/{user}": (None, (204, 204, 403, 403, 404)),
    "POST /relays/tokens": ({}, (201, 403, 403, 403, 403)),
    "GET /relays": (None, (200, 200, 200, 200, 200)),
    "POST /relays/{relay}/drain": (None, (200, 403, 403, 403, 403)),
    "POST /relays/{relay}/undrain": (None, (200, 403, 403, 403, 403)),
    "DELETE /relays/{relay}": (None, (204, 403, 403, 403, 403)),
    "POST /api-keys": ({}, (201, 201, 201, 201, 201)),
    "GET /api-keys": (None, (200, 200, 200, 200, 200)),
    "DELETE /api-keys/{key}": (None, (204, 404, 404, 404, 404)),  # someone else's
    "POST /users": ({"email": "fresh@example.org"}, (201, 403, 403, 403, 403)),
    "GET /users": (None, (200, 403, 403, 403, 403)),
    "PATCH /users/{user}": ({"disabled": False}, (200, 403, 403, 403, 403)),
    "POST /users/{user}/reset-password": (None, (200, 403, 403, 403, 403)),
    "GET /audit": (None, (200, 403, 403, 403, 403)),
    "GET /audit/verify": (None, (200, 403, 403, 403, 403)),
    "GET /events": (None, (200, 200, 200, 200, 200)),  # of networks whose logs one may read
    "GET /status": (None, (200, 403, 403, 403, 403)),
}  # fmt: skip
PUBLIC = {
    "GET /identity", "POST /enroll/challenge", "POST /enroll", "POST /relays/register", "POST /auth/login",
    "POST /auth/refresh", "POST /auth/logout",
}  # fmt: skip
# what a route is tried on, where it isn't the network `office` and the client `laptop`
THINGS = {
    "POST /networks/{network}/clients/{client}/approve": {"network": "gate", "client": "first"},
    "POST /networks/{network}/clients/{client}/deny": {"network": "gate", "client": "second"},
    "DELETE /networks/{network}/clients/{client}": {"client": "printer"},
    "DELETE /networks/{network}": {"network": "doomed"},
    "DELETE /relays/{relay}": {"relay": "old"},
}


async def things(world: World) -> dict[str, str]:
    """What the routes are tried on."""
    for n, (name, more) in enumerate({"office": {}, "gate": {"approval": True}, "doomed": {}, "own": {}}.items()):
        await world.network(name, f"10.4{n}.0.0/24", **more)
    for network, client in (("office", "laptop"), ("office", "printer"), ("office", "stolen"), ("gate", "first"),
                            ("gate", "second")):  # fmt: skip
        await world.device().join((await world.invite(network)).invite, name=client)
    at = world.at.core.now()
    for n, name in enumerate(("relay", "old", "spare")):
        relay = {
            "id": f"rly_{name}",
            "name": name,
            "key": bytes([n] * 32),
            "region": "",
            "version": "",
            "draining": False,
        }
        await world.at.core.write(
            lambda conn, relay=relay: conn.execute(  # type: ignore[misc]
                schema.relays.insert().values(created_at=at, url="ws://192.0.2.1:9545", **relay)
            )
        )
    target = await person(world, "target", {"office": "guest"})
    key = (await (await person(world, "holder")).ask("POST", "/api-keys", {})).json()["id"]
    invite = (await world.invite()).id
    return {"network": "office", "client": "laptop", "device": "stolen", "relay": "relay", "invite": invite,
            "user": target.email, "key": key}  # fmt: skip


async def someone(world: World, role: str) -> Person:
    if role == "admin":
        return await person(world, "who", admin=True)
    if role in ("outsider", "nobody"):
        return await person(world, "who", {"own": "owner"})
    return await person(world, "who", dict.fromkeys(("office", "gate", "doomed"), role))


@pytest.mark.parametrize("role", ROLES)
async def test_each_route_does_for_each_role_what_the_table_says(world: World, role: str) -> None:
    found = await things(world)
    who = await someone(world, role)
    async with web(world) as client:
        if role != "nobody":
            client.headers["Authorization"] = f"Bearer {who.token}"
        described = (await client.get(f"{api.API}/openapi.json")).json()["paths"]
        routes = {f"{m.upper()} {path.removeprefix(api.API)}" for path, verbs in described.items() for m in verbs}
        assert routes == TABLE.keys() | PUBLIC
        wrong = {}
        for route, (body, expected) in sorted(TABLE.items(), key=lambda row: row[0].startswith("DELETE")):
            method, path = route.split(" ")
            for kind, name in (found | THINGS.get(route, {})).items():
                path = path.replace("{" + kind + "}", name)
            got = await client.request(method, api.API + path, json=body)
            wanted = 401 if role == "nobody" else expected[ROLES.index(role)]
            if got.status_code != wanted:
                wrong[route] = (wanted, got.status_code, got.text)
        assert wrong == {}


async def test_the_description_says_which_permission_a_route_needs(world: World) -> None:
    async with web(world) as client:
        document = (await client.get(f"{api.API}/openapi.json")).json()
    said = {
        f"{method.upper()} {path.removeprefix(api.API)}": verb.get("security")
        for path, verbs in document["paths"].items()
        for method, verb in verbs.items()
    }
    assert {route for route, needs in said.items() if needs is None} == PUBLIC
    assert said["PATCH /networks/{network}/clients/{client}"] == [{"token": ["network.configure", "network.view"]}]
    assert said["POST /networks/{network}/clients/{client}/approve"] == [{"token": ["network.invite"]}]
    answer = document["paths"]["/api/v1/networks"]["get"]["responses"]["4XX"]["content"]
    assert list(answer) == ["application/problem+json"]


async def public_bodies(world: World, who: Person) -> dict[str, Any]:
    """What each route that needs no rights takes and answers well."""
    newcomer = await applicant(world)
    token, nonce, key = (await world.call("relay_token")).token, (await newcomer.asked()).nonce, Signer.generate()
    message = hello_message(bytes.fromhex(nonce), newcomer.identity, token)
    signature = sign_text(key, Context.RELAY_REGISTRATION, message)
    login = {"email": who.email, "password": who.password}
    sessions = [await world.at.sessions.login(api.Login(**login), "192.0.2.7") for _ in range(2)]
    return {
        "GET /identity": None,
        "POST /enroll/challenge": to_builtins(newcomer.redeemed | newcomer.public),
        "POST /enroll": to_builtins(newcomer.request(await newcomer.asked())),
        "POST /relays/register": to_builtins(
            RelayRegistration(
                token=token, nonce=nonce, key=key.public, signature=signature, name="r", url="ws://192.0.2.1:1"
            )
        ),
        "POST /auth/login": login,
        "POST /auth/refresh": {"refresh_token": sessions[0].refresh_token},
        "POST /auth/logout": {"refresh_token": sessions[1].refresh_token},
    }


async def test_answers_are_as_the_description_declares_them(world: World) -> None:
    """Each route once as it is meant, once with a body that isn't one: status, content type and fields are declared ones."""
    found, who = await things(world), await person(world, "who", admin=True)
    wrong = {}
    async with web(world) as client:
        client.headers["Authorization"] = f"Bearer {who.token}"
        document = (await client.get(f"{api.API}/openapi.json")).json()
        bodies = {route: body for route, (body, _) in TABLE.items()} | await public_bodies(world, who)
        for route, body in sorted(bodies.items(), key=lambda row: row[0].startswith("DELETE")):
            method, path = route.split(" ")
            declared = document["paths"][api.API + path][method.lower()]["responses"]
            for kind, name in (found | THINGS.get(route, {})).items():
                path = path.replace("{" + kind + "}", name)
            for sent in ([], body):
                got = await client.request(method, api.API + path, json=sent)
                answer = declared.get(str(got.status_code)) or declared.get(f"{got.status_code // 100}XX")
                kinds = list((answer or {}).get("content", {}))
                kind = got.headers.get("content-type", "").partition(";")[0]
                if answer is None or (kinds != [kind] if got.content else kinds != []):
                    wrong[f"{route} with {sent}"] = (got.status_code, kind, sorted(declared))
                if route in PUBLIC and sent is body and not got.is_success:
                    wrong[route] = (got.status_code, kind, got.text)
    assert wrong == {}
    assert bodies.keys() == TABLE.keys() | PUBLIC


async def test_bodies_are_described_by_their_fields(world: World) -> None:
    async with web(world) as client:
        described = (await client.get(f"{api.API}/openapi.json")).json()["paths"]
    for path, field in (("/enroll", "nonce"), ("/enroll/challenge", "invite_id"), ("/relays/register", "token")):
        body = described[api.API + path]["post"]["requestBody"]
        assert field in body["content"]["application/json"]["schema"]["properties"]
        assert body["required"] is (path != "/enroll/challenge")


async def test_what_a_state_forbids_is_a_conflict_and_what_the_description_forbids_is_invalid(world: World) -> None:
    who = await person(world, "who", admin=True)
    await world.network()
    client = (await world.device().join((await world.invite()).invite)).client_id
    async with web(world) as http:
        http.headers["Authorization"] = f"Bearer {who.token}"
        for method, path, more, status, code in (
            ("POST", "/networks/office/invites", {"json": {"ip": "10.99.0.1"}}, 409, "address_outside"),
            ("PATCH", f"/networks/office/clients/{client}", {"json": {"ip": "10.99.0.1"}}, 409, "address_outside"),
            ("GET", "/devices", {"params": {"cursor": "0x"}}, 422, "invalid_request"),
            ("POST", "/networks", {"json": {"name": "x"}, "headers": {"Idempotency-Key": ""}}, 422, "invalid_request"),
        ):
            got = await http.request(method, api.API + path, **more)  # type: ignore[arg-type]
            assert (got.status_code, got.json()["code"]) == (status, code), path
        document = (await http.get(f"{api.API}/openapi.json")).json()
        paths, schemas = document["paths"], document["components"]["schemas"]
        cursor = next(p for p in paths["/api/v1/devices"]["get"]["parameters"] if p["name"] == "cursor")
        assert "0-9a-f" in str(cursor["schema"])
        subnet = next(s for s in schemas["NetworkCreate"]["properties"]["subnet"]["anyOf"] if s["type"] == "string")
        assert re.fullmatch(subnet["pattern"], "10.42.0.0/24") and not re.fullmatch(subnet["pattern"], "10.42.0.0/33")
        enrol = paths["/api/v1/enroll"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert all("pattern" in enrol[key] for key in ("device_key", "wg_key", "sealing_key"))


async def test_a_number_is_no_yes_or_no_and_a_text_no_number(world: World) -> None:
    who = await person(world, "who", admin=True)
    async with web(world) as client:
        client.headers["Authorization"] = f"Bearer {who.token}"
        got = await client.post(f"{api.API}/networks", json={"name": "five", "max_clients": 5.0})
        assert got.json()["max_clients"] == 5
        for wish in ({"p2p": 0}, {"p2p": "off"}, {"approval": 1}, {"max_clients": "5"}, {"max_clients": True}):
            got = await client.post(f"{api.API}/networks", json={"name": "x", "subnet": "10.9.0.0/24"} | wish)
            assert (got.status_code, got.json()["code"]) == (422, "invalid_request"), wish


async def test_a_method_that_a_path_lacks_names_all_that_it_has(world: World) -> None:
    async with web(world) as client:
        for method, path, allowed in (
            ("DELETE", "/networks", "GET, POST"),
            ("PUT", "/networks/office", "DELETE, GET, PATCH"),
            ("POST", "/networks/office/clients/x", "DELETE, GET, PATCH"),
            ("GET", "/auth/login", "POST"),
            ("DELETE", "/relays/register", "POST"),
            ("DELETE", "/relays/tokens", "POST"),
        ):
            got = await client.request(method, api.API + path)
            assert (got.status_code, got.headers["allow"]) == (405, allowed)
            assert got.json()["code"] == "method_not_allowed"
