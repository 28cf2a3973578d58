"""Who may do what: every route of the API's description, by every role. A route that isn't in the table fails the test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from people import Person, person, web
from sqlalchemy.engine import Connection
from test_passwords import HASHES
from test_possession import applicant

from shadowmesh.client_api.clientcertificate import new_key, signing_request
from shadowmesh.controller.edge.application import SOCKETS
from shadowmesh.controller.edge.declared import LinkProof
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts, api
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.devicelink import EpochHeld, Grant, Health, Leave, RefreshGrant, Report, Watch
from shadowmesh.model.receivers import SyslogCreate, WebhookCreate
from shadowmesh.model.relaylink import RelayRegistration
from shadowmesh.model.templates import TemplateCreate
from shadowmesh.model.usage import PlanPut
from shadowmesh.protocol.signing import Context, Signer, hello_message, sign_text

if TYPE_CHECKING:
    from tests.controller.conftest import World

CSR = signing_request(new_key())

# Who asks. An outsider owns another network. Then lists of permissions and groups: `listed`, an owner with the list of the
# example policy (it lacks network.delete and client.remove); `helper`, a guest with network.view, network.invite and
# client.remove; `nothing`, a member with an empty list; `grouped`, an owner by a group alone; `kept`, the same with a list of
# their own that has network.view. Then API keys of an owner: one that only reads, one for network.view and client.register,
# one for another network.
WHO = (
    "admin", "owner", "member", "guest", "outsider", "listed", "helper", "nothing", "grouped", "kept", "reader", "scoped",
    "elsewhere",
)  # fmt: skip
LISTS: dict[str, tuple[str, list[str]]] = {
    "listed": ("owner", ["network.configure", "network.invite", "network.view", "client.register", "logs.view"]),
    "helper": ("guest", ["network.view", "network.invite", "client.remove"]),
    "nothing": ("member", []),
    "kept": ("guest", ["network.view"]),
}
KEYS: dict[str, dict[str, Any]] = {
    "reader": {"read_only": True},
    "scoped": {"scopes": ["network.view", "client.register"]},
    "elsewhere": {"networks": ["own"]},
}

# route → body, and what each of them gets; `_` is what the administrator gets.
# A name in braces in `things` says which thing it is tried on.
TABLE: dict[str, tuple[Any, str]] = {
    #                                        admin owner memb. guest outs. | list. help. noth. grou. kept | read. scop. else.
    "GET /whoami": (None,                       "200   _     _     _     _       _     _     _     _     _      _     _     _"),
    "POST /networks": ({"name": "new", "subnet": "10.9.0.0/24"},
                                                "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /networks": (None,                     "200   _     _     _     _       _     _     _     _     _      _     _     _"),
    "GET /networks/{network}": (None,           "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "PATCH /networks/{network}": ({"p2p_enabled": False},
                                                "200   _     403   403   404     _     403   403   _     403    403   403   404"),
    "DELETE /networks/{network}": (None,        "204   _     403   403   404     403   403   403   _     403    403   403   404"),
    "POST /networks/{network}/rotate-key": (None,
                                                "200   _     403   403   404     _     403   403   _     403    403   403   404"),
    "GET /networks/{network}/map": (None,       "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "GET /networks/{network}/access": (None,    "200   _     _     _     404     _     _     _     _     _      _     _     404"),
    "POST /networks/{network}/invites": ({"tags": ["server"]},
                                                "201   _     403   403   404     _     _     403   _     403    403   403   404"),
    "GET /networks/{network}/invites": (None,   "200   _     _     403   404     _     _     403   _     403    403   _     404"),
    "DELETE /networks/{network}/invites/{invite}": (None,
                                                "204   _     404   403   404     _     _     403   _     403    403   404   404"),
    "GET /networks/{network}/code": (None,      "200   _     403   403   404     _     _     403   _     403    403   403   404"),
    "POST /networks/{network}/code": (None,     "200   _     403   403   404     _     _     403   _     403    403   403   404"),
    "GET /networks/{network}/clients": (None,   "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "GET /networks/{network}/clients/{client}": (None,
                                                "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "POST /networks/{network}/clients": (
        {"client_name": "fresh", "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
                                                "201   _     _     403   404     _     403   403   _     403    403   _     404"),
    "GET /networks/{network}/peers/{peer}": (None,
                                                "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "PATCH /networks/{network}/clients/{client}": ({"tags": ["x"]},
                                                "200   _     403   403   404     _     403   403   _     403    403   403   404"),
    "POST /networks/{network}/clients/{client}/approve": (None,
                                                "200   _     403   403   404     _     _     403   _     403    403   403   404"),
    "POST /networks/{network}/clients/{client}/deny": (None,
                                                "204   _     403   403   404     _     _     403   _     403    403   403   404"),
    "DELETE /networks/{network}/clients/{client}": (None,
                                                "204   _     403   403   404     403   _     403   _     403    403   403   404"),
    # of one that runs shadowmesh
    "POST /networks/{network}/clients/{client}/plain-wireguard": (None,
                                                "409   _     403   403   404     _     _     403   _     403    403   403   404"),
    "GET /networks/{network}/clients/{client}/plain-wireguard": (None,
                                                "404   _     403   403   404     _     _     403   _     403    403   403   404"),
    "GET /networks/{network}/logs": (None,      "200   _     _     403   404     _     403   403   _     403    _     403   404"),
    "GET /networks/{network}/topology": (None,  "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "POST /networks/{network}/webhooks": ({"url": "https://1.1.1.1/hook"},
                                                "201   _     403   403   404     _     403   403   _     403    403   403   404"),
    "POST /webhooks": ({"url": "https://1.1.1.1/hook"},
                                                "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /webhooks": (None,                     "200   _     _     _     _       _     _     _     _     _      _     _     _"),
    "GET /webhooks/{webhook}/compare": (None,
                                                "200   _     404   404   404     _     404   404   _     404    404   404   404"),
    "DELETE /webhooks/{webhook}": (None,        "204   _     404   404   404     _     404   404   _     404    403   404   404"),
    "POST /webhooks/{webhook}/test": (None,     "200   403   404   404   404     403   404   404   403   404    403   404   404"),
    "PATCH /webhooks/{webhook}": ({"events": ["client_online"]},
                                                "200   _     404   404   404     _     404   404   _     404    403   404   404"),
    "POST /syslog": ({"url": "tcp://192.0.2.1:601"},
                                                "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /syslog": (None,                       "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PATCH /syslog/{syslog}": ({"url": "tcp://192.0.2.1:602"},
                                                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /syslog/{syslog}": (None,           "204   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /syslog/{syslog}/test": (None,        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /usage": (None,                        "200   _     _     _     _       _     _     _     _     _      _     403   _"),
    "GET /networks/{network}/quota": (None,     "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "PUT /networks/{network}/plan": ({"plan": None},
                                                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /plans": (None,                        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PUT /plans/{plan}": ({"max_clients": 3},   "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /plans/{plan}": (None,              "204   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /devices": (None,                      "200   _     _     _     _       _     _     _     _     _      403   _     _"),
    "GET /devices/{device}": (None,             "200   _     404   404   404     404   _     404   _     404    403   404   404"),
    "DELETE /devices/{device}": (None,          "200   _     404   404   404     404   _     404   _     404    403   404   404"),
    "GET /networks/{network}/members": (None,   "200   _     _     _     404     _     _     403   _     _      _     _     404"),
    "PUT /networks/{network}/members": ({"email": "target@example.org", "role": "guest"},
                                                "200   _     403   403   404     _     403   403   _     403    403   403   404"),
    "DELETE /networks/{network}/members/{user}": (None,
                                                "204   _     403   403   404     _     403   403   _     403    403   403   404"),
    "GET /relays/tokens": (None,                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    # which isn't there
    "DELETE /relays/tokens/{token}": (None,     "404   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /relays/tokens": ({},                 "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /relays": (None,                       "200   _     _     _     _       _     _     _     _     _      _     _     _"),
    "POST /relays/{relay}/drain": (None,        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /relays/{relay}/undrain": (None,      "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /relays/{relay}": (None,            "204   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /nodes": (None,                        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /nodes/{node}/drain": (None,          "409   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /nodes/{node}/undrain": (None,        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /api-keys": ({},                      "201   _     _     _     _       _     _     _     _     _      403   _     _"),
    "GET /api-keys": (None,                     "200   _     _     _     _       _     _     _     _     _      _     _     _"),
    # someone else's
    "POST /api-keys/{key}/certificate": ({"csr": CSR},
                                                "404   404   404   404   404     404   404   404   404   404    403   404   404"),
    "DELETE /api-keys/{key}": (None,            "204   404   404   404   404     404   404   404   404   404    403   404   404"),
    "GET /auth/mfa": (None,                     "200   _     _     _     _       _     _     _     _     _      403   403   403"),
    "POST /auth/mfa/enrol": ({"password": "the password of who"},
                                                "200   _     _     _     _       _     _     _     _     _      403   403   403"),
    "POST /auth/mfa/confirm": ({"code": "no-such-code"},
                                                "403   _     _     _     _       _     _     _     _     _      403   403   403"),
    # not confirmed
    "POST /auth/mfa/recovery-codes": ({"code": "no-such-code"},
                                                "409   _     _     _     _       _     _     _     _     _      403   403   403"),
    "POST /auth/mfa/disable": ({"password": "the password of who", "code": "no-such-code"},
                                                "409   _     _     _     _       _     _     _     _     _      403   403   403"),
    # who has none
    "DELETE /users/{user}/mfa": (None,          "409   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /sessions": (None,                     "200   _     _     _     _       _     _     _     _     _      _     _     _"),
    # someone else's
    "DELETE /sessions/{session}": (None,        "204   404   404   404   404     404   404   404   404   404    403   404   404"),
    "POST /users": ({"email": "fresh@example.org"},
                                                "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /users/invitations": ({"email": "invited@example.org"},
                                                "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /users/invitations": (None,            "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /users/invitations/{invitation}": (None,
                                                "204   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /users/import": ({"users": [{"email": "moved@example.org", "password_hash": HASHES["bcrypt"]}]},
                                                "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /users": (None,                        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PATCH /users/{user}": ({"disabled": False},
                                                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /users/{user}/reset-password": (None, "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /users/{user}/policy": (None,          "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PUT /users/{user}/policy": ({"networks": {"office": {"role": "guest"}}},
                                                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /groups": ({"name": "fresh"},         "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PATCH /groups/{group}": ({"description": "x"}, "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /groups": (None,                       "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /groups/{group}": (None,               "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /groups/{group}": (None,            "204   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PUT /groups/{group}/users/{user}": (None,  "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    # who isn't in it
    "DELETE /groups/{group}/users/{user}": (None,
                                                "404   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PUT /groups/{group}/networks/{network}": ({"role": "guest"},
                                                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /groups/{group}/networks/{network}": (None,
                                                "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /settings": (None,                     "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PATCH /settings": ({"mfa_required": []},   "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /templates": ({"name": "mine"},       "201   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /templates": (None,                    "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /templates/{template}": (None,         "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "PUT /templates/{template}": ({},           "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "DELETE /templates/{template}": (None,      "204   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /audit": (None,                        "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "GET /audit/verify": (None,                 "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    # of networks whose logs one may read
    "GET /events": (None,                       "200   _     _     _     _       _     _     _     _     _      _     403   _"),
    "GET /status": (None,                       "200   403   403   403   403     403   403   403   403   403    403   403   403"),
    "POST /apply": ({},                         "200   _     _     _     _       _     _     _     _     _      403   _     _"),
    # another's, or none: left as it is
    "DELETE /apply/{turn}": (None,              "204   _     _     _     _       _     _     _     _     _      403   _     _"),
    # the last, as others are tried on them
    "DELETE /users/{user}": (None,              "200   403   403   403   403     403   403   403   403   403    403   403   403"),
}  # fmt: skip


def expected(row: str, who: str) -> int:
    """The status in this row, in the column of `who`."""
    if who == "nobody":
        return 401
    cells = row.split()
    return int(cells[0] if (cell := cells[WHO.index(who)]) == "_" else cell)


PUBLIC = {
    "GET /identity", "POST /enroll/challenge", "POST /enroll", "POST /relays/register", "POST /auth/login",
    "POST /auth/accept-invitation", "POST /auth/signup",
    "POST /auth/refresh", "POST /auth/logout",
}  # fmt: skip
BY_CERTIFICATE = {"POST /relays/certificate"}  # `test_relay_trust.py` has a relay that shows one
QUERIES = {"GET /webhooks/{webhook}/compare": "?nonce=00112233445566778899aabbccddeeff"}
# what a route is tried on, where it isn't the network `office` and the client `laptop`
THINGS = {
    "POST /networks/{network}/clients/{client}/approve": {"network": "gate", "client": "first"},
    "POST /networks/{network}/clients/{client}/deny": {"network": "gate", "client": "second"},
    "DELETE /networks/{network}/clients/{client}": {"client": "printer"},
    "DELETE /networks/{network}": {"network": "doomed"},
    "DELETE /relays/{relay}": {"relay": "old"},
    "DELETE /groups/{group}": {"group": "useless"},
    "DELETE /templates/{template}": {"template": "useless"},
    "DELETE /groups/{group}/users/{user}": {"group": "empty"},
}


async def things(world: World) -> dict[str, str]:
    """What the routes are tried on."""
    for n, (name, more) in enumerate({"office": {}, "gate": {"approval": True}, "doomed": {}, "own": {}}.items()):
        await world.network(name, f"10.4{n}.0.0/24", **more)
    for network, client in (("office", "laptop"), ("office", "printer"), ("office", "stolen"), ("gate", "first"),
                            ("gate", "second")):  # fmt: skip
        await world.device().join((await world.invite(network)).invite, name=client)
    at = world.at.context.now()
    for n, name in enumerate(("relay", "old", "spare")):
        relay = {
            "id": f"rly_{name}",
            "name": name,
            "key": bytes([n] * 32),
            "region": "",
            "version": "",
            "draining": False,
        }
        await world.at.context.write(
            lambda conn, relay=relay: conn.execute(  # type: ignore[misc]
                schema.relays.insert().values(created_at=at, url="ws://192.0.2.1:9545", **relay)
            )
        )
    target = await person(world, "target", {"office": "guest"})
    holder = await person(world, "holder")
    key = (await holder.ask("POST", "/api-keys", {})).json()["id"]
    invite = (await world.invite()).id
    for name in ("group", "useless", "empty"):
        await world.call("group_create", accounts.GroupCreate(name=name))
    for name in ("template", "useless"):
        await world.call("template_create", TemplateCreate(name=name))
    webhook = await world.call("webhook_create", WebhookCreate(url="http://127.0.0.1:1/hook"), "office")
    syslog = await world.call("syslog_create", SyslogCreate(url="tcp://127.0.0.1:1"))
    await world.call("plan_set", "free", PlanPut(max_clients=3))
    invitation = await world.call("user_invite", accounts.UserInvite(email="guest@example.org"))
    return {"network": "office", "client": "laptop", "peer": "laptop", "device": "stolen", "relay": "relay", "invite": invite,
            "user": target.email, "key": key, "session": holder.session.session, "plan": "free", "webhook": webhook.id, "syslog": syslog.id, "invitation": invitation.id, "group": "group",
            "template": "template",
            "node": world.at.nodes.id}  # fmt: skip


async def someone(world: World, who: str) -> tuple[Person, str]:
    """And the token that they show."""
    if who == "admin":
        return (found := await person(world, "who", admin=True)), found.token
    if who in ("outsider", "nobody"):
        return (found := await person(world, "who", {"own": "owner"})), found.token
    inside = ("office", "gate", "doomed")
    if who not in LISTS and who != "grouped":
        role = "owner" if who in KEYS else who
        found = await person(world, "who", dict.fromkeys((*inside, "own") if who in KEYS else inside, role))
        if who not in KEYS:
            return found, found.token
        made = await found.ask("POST", "/api-keys", KEYS[who])
        return found, made.json()["key"]
    found = await person(world, "who")
    if who in LISTS:
        role, permissions = LISTS[who]
        wish = {"email": found.email, "role": role, "permissions": permissions}
        for network in inside:
            await world.call("member_set", network, api.MemberPut.model_validate(wish))
    if who in ("grouped", "kept"):
        await world.call("group_create", accounts.GroupCreate(name="owners"))
        await world.call("group_add", "owners", found.email)
        for network in inside:
            await world.call("group_set_role", "owners", network, api.GivenRole(role="owner"))
    return found, found.token


def filled(path: str, found: Mapping[str, str]) -> str:
    for kind, name in found.items():
        path = path.replace("{" + kind + "}", name)
    return path


@pytest.mark.timeout(180)
@pytest.mark.parametrize("who", [*WHO, "nobody"])
async def test_each_route_does_for_each_what_the_table_says(world: World, who: str) -> None:
    found = await things(world)
    _, token = await someone(world, who)
    async with web(world) as client:
        if who != "nobody":
            client.headers["Authorization"] = f"Bearer {token}"
        described = (await client.get(f"{api.API}/openapi.json")).json()["paths"]
        routes = {f"{m.upper()} {path.removeprefix(api.API)}" for path, verbs in described.items() for m in verbs}
        assert routes == TABLE.keys() | PUBLIC | BY_CERTIFICATE
        wrong = {}
        for route, (body, row) in sorted(TABLE.items(), key=lambda row: row[0].startswith("DELETE")):
            method, path = route.split(" ")
            path = filled(path, found | THINGS.get(route, {})) + QUERIES.get(route, "")
            got = await client.request(method, api.API + path, json=body)
            if got.status_code != expected(row, who):
                wrong[route] = (expected(row, who), got.status_code, got.text)
        assert wrong == {}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("who", [who for who in WHO if who != "admin"])
async def test_each_route_answers_of_a_foreign_network_as_of_none(world: World, who: str) -> None:
    found = await things(world)
    await world.network("foreign", "10.99.0.0/24")
    await world.device().join((await world.invite("foreign")).invite, name="laptop")
    _, token = await someone(world, who)
    wrong = {}
    async with web(world) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        for route, (body, _) in TABLE.items():
            if "{network}" not in route or "{group}" in route:
                continue
            method, path = route.split(" ")
            there, absent = [
                await client.request(method, api.API + filled(path, found | {"network": name}), json=body)
                for name in ("foreign", "nowhere")
            ]
            same = (there.status_code, there.text.replace("foreign", "nowhere")) == (absent.status_code, absent.text)
            if not same or there.status_code not in (403, 404):
                wrong[route] = (there.status_code, there.text, absent.status_code, absent.text)
    assert wrong == {}
    shown = await world.call("network_show", "foreign")
    assert (shown.clients, shown.epoch, shown.p2p_enabled) == (1, 0, True)


# what `/ws` answers to a subscription of the network that they are in, and of a foreign one
SUBSCRIBING = (
    #  admin owner memb. guest outs. | list. help. noth. grou. kept | read. scop. else.
    "  ok    ok    ok    ok    404     ok    ok    403   ok    ok     ok    ok    404 ",
    "  ok    404   404   404   404     404   404   404   404   404    404   404   404 ",
)
_CODES = {"network_unknown": "404", "not_allowed": "403"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("who", WHO)
async def test_each_may_watch_what_the_table_says(world: World, who: str) -> None:
    await things(world)
    await world.network("foreign", "10.99.0.0/24")
    found, token = await someone(world, who)
    for network, row in zip(("office", "foreign"), SUBSCRIBING, strict=True):
        said = await found.subscribing(token, network)
        assert _CODES.get(said, said) == row.split()[WHO.index(who)], (network, said)


async def test_what_a_device_sends_counts_in_its_own_networks_alone(world: World) -> None:
    """Each message that names a network, of one that the device isn't in: nothing comes of it, there or here."""
    await world.network()
    await world.network("foreign", "10.99.0.0/24")
    device, other = await world.member("office"), await world.member("foreign")
    theirs = other.map.head.network_id
    assert device.link is not None
    c, health = schema.clients, schema.health

    def state(conn: Connection) -> Any:
        return conn.execute(sa.select(c.c.id, c.c.state, c.c.epoch_held).order_by(c.c.id)).all()

    sent: dict[type, Any] = {
        Report: Report(network_id=theirs, endpoints=(SockAddr("192.0.2.66", 1),)),
        EpochHeld: EpochHeld(network_id=theirs, epoch=0),
        RefreshGrant: RefreshGrant(network_id=theirs),
        Watch: Watch(network_id=theirs, peers=(other.answer.client_id,)),  # type: ignore[union-attr]
        Health: Health(network_id=theirs, nat="none"),
        Leave: Leave(network_id=theirs),
    }
    needs = SOCKETS[f"{api.API}/link"].needs
    assert sent.keys() == {kind for kind, need in needs.items() if need is LinkProof.MEMBERSHIP}
    before = await world.at.context.read(state)
    for message in sent.values():
        device.link.post(message)
    already = len(device.events)
    device.link.post(RefreshGrant(network_id=device.map.head.network_id))  # answered after all the others
    await device.until(lambda: [e for e in device.events[already:] if isinstance(e, Grant)])
    assert {e.network_id for e in device.events if isinstance(e, Grant)} == {device.map.head.network_id}
    assert await world.at.context.read(state) == before
    assert await world.at.context.read(lambda conn: conn.execute(sa.select(health)).all()) == []
    ref = other.answer.network  # type: ignore[union-attr]
    assert all("192.0.2.66" not in str(p.endpoints) for p in world.at.hub.presence[ref].values())
    assert device.link.maps.keys() == {device.map.head.network_id}


async def test_the_description_says_which_permission_a_route_needs(world: World) -> None:
    async with web(world) as client:
        document = (await client.get(f"{api.API}/openapi.json")).json()
    said = {
        f"{method.upper()} {path.removeprefix(api.API)}": verb.get("security")
        for path, verbs in document["paths"].items()
        for method, verb in verbs.items()
    }
    assert {route for route, needs in said.items() if needs is None} == PUBLIC | BY_CERTIFICATE
    assert said["PATCH /networks/{network}/clients/{client}"] == [{"token": ["network.configure", "network.view"]}]
    assert said["POST /networks/{network}/clients/{client}/approve"] == [{"token": ["network.invite"]}]
    answer = document["paths"]["/api/v1/networks"]["get"]["responses"]["403"]["content"]
    assert list(answer) == ["application/problem+json"]


async def public_bodies(world: World, who: Person) -> dict[str, Any]:
    """What each route that needs no rights takes and answers well."""
    newcomer = await applicant(world)
    token, nonce, key = (await world.call("relay_token")).token, (await newcomer.asked()).nonce, Signer.generate()
    message = hello_message(bytes.fromhex(nonce), newcomer.identity, token)
    signature = sign_text(key, Context.RELAY_REGISTRATION, message)
    login = {"email": who.email, "password": who.password}
    sessions = [await world.at.signing_in.login(accounts.Login(**login), "192.0.2.7") for _ in range(2)]
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
        "POST /auth/accept-invitation": {
            "token": (await world.call("user_invite", accounts.UserInvite(email="comes@example.org"))).token,
            "password": "a password of theirs",
        },
        "POST /auth/signup": {"email": "comes@example.org"},
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
            path = filled(path, found | THINGS.get(route, {})) + QUERIES.get(route, "")
            for sent in ([], body):
                got = await client.request(method, api.API + path, json=sent)
                answer = declared.get(str(got.status_code)) or declared.get(f"{got.status_code // 100}XX")
                kinds = list((answer or {}).get("content", {}))
                kind = got.headers.get("content-type", "").partition(";")[0]
                if answer is None or (kinds != [kind] if got.content else kinds != []):
                    wrong[f"{route} with {sent}"] = (got.status_code, kind, sorted(declared))
                taken = got.is_success or (route == "POST /auth/signup" and got.status_code == 403)  # test_sign_up.py
                if route in PUBLIC and sent is body and not taken:
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
        for wish in ({"p2p_enabled": 0}, {"p2p": "off"}, {"approval": 1}, {"max_clients": "5"}, {"max_clients": True}):
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
            ("DELETE", "/relays/tokens", "GET, POST"),
            ("PATCH", "/users/invitations/uin_x", "DELETE"),
            ("PUT", "/users/ann/bob@example.org", "DELETE, PATCH"),
        ):
            got = await client.request(method, api.API + path)
            assert (got.status_code, got.headers["allow"]) == (405, allowed)
            assert got.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("who", "held", "everywhere"),
    [
        ("admin", set(api.Permission), set(api.Permission)),
        ("owner", set(api.Permission) - {api.Permission.NETWORK_CREATE}, set()),
        ("member", {"network.view", "client.register", "logs.view"}, set()),
        ("guest", {"network.view"}, set()),
        ("listed", set(LISTS["listed"][1]), set()),
        ("helper", set(LISTS["helper"][1]), set()),
        ("grouped", set(api.Permission) - {api.Permission.NETWORK_CREATE}, set()),
        ("reader", {"network.view", "logs.view"}, set()),
        ("scoped", {"network.view", "client.register"}, set()),
    ],
)
async def test_each_reads_what_they_may_do(world: World, who: str, held: set[str], everywhere: set[str]) -> None:
    await things(world)
    _, token = await someone(world, who)
    async with web(world) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        listed = {n["name"]: n for n in (await client.get(f"{api.API}/networks")).json()["networks"]}
        shown = (await client.get(f"{api.API}/networks/office")).json()
        me = (await client.get(f"{api.API}/whoami")).json()
    assert set(shown["permissions"]) == set(listed["office"]["permissions"]) == held
    assert set(me["permissions"]) == everywhere and me["administers"] == (who == "admin")
    assert me["read_only"] == (who == "reader")
