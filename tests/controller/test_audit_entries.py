"""No change without its entry: every route that changes something is walked, and what it leaves in the audit log is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
from fastapi.routing import APIRoute
from people import Person
from test_passwords import HASHES
from test_relays import linked, register, registered
from test_second_factor import code_of

from shadowmesh.client_api.clientcertificate import new_key, signing_request
from shadowmesh.controller.edge.application import router
from shadowmesh.controller.service.services import Services
from shadowmesh.model.accounts import ApiKeyCreate, Session, UserCreate
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.devicelink import Leave, Removed
from shadowmesh.model.relaylink import TokenKeys
from shadowmesh.protocol.signing import Signer

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}
# What changes nothing that people set or that somebody else sees.
BY_CERTIFICATE = {"POST /relays/certificate"}  # `test_relay_trust.py` has its entry
NO_CHANGE = {
    "POST /apply": "a turn, which ends by itself within a minute",
    "DELETE /apply/{turn}": "a turn, which ends by itself within a minute",
    "POST /enroll/challenge": "keeps no state",
    "POST /webhooks/{webhook}/test": "sends a message that says that it is a test",
    "POST /syslog/{syslog}/test": "sends a line that says that it is a test",
    "POST /auth/refresh": "goes on with a session; `auth.login` and `auth.logout` are its ends",
    "POST /auth/signup": "refused in mode local; its entry is looked at in test_sign_up",
    "POST /nodes/{node}/drain": "refused where there is one node; with several in test_several_nodes",
    "POST /nodes/{node}/undrain": "changes nothing where there is one node",
}


class Walk:
    """A controller with something of each kind in it, and an administrator at its local socket."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world = world
        self.client = client
        self.made: dict[str, Any] = {}

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = await self.client.request(method, f"/api/v1{path}", json=body, headers=headers)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else None

    async def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            page = await self.call(
                "GET", f"/audit?limit=1000&cursor={page['next']}" if page["next"] else "/audit?limit=1000"
            )
            found += page["items"]
        return found

    async def waiting(self) -> Device:
        device = self.world.device()
        await device.join((await self.world.invite("strict")).invite)
        return device


def _create_webhook(path: str) -> Callable[[Walk], Awaitable[Any]]:
    async def create(walk: Walk) -> None:
        walk.made["webhook"] = await walk.call("POST", path, {"url": "http://127.0.0.1:1/hook"})

    return create


async def _create_syslog(walk: Walk) -> None:
    walk.made["syslog"] = await walk.call("POST", "/syslog", {"url": "tcp://127.0.0.1:1"})


async def _assign_plan(walk: Walk) -> None:
    for plan in ("free", None):
        await walk.call("PUT", "/networks/office/plan", {"plan": plan})


async def _login(walk: Walk) -> None:
    made = await walk.call("POST", "/users", {"email": "bo@example.org"})
    wish = {"email": "bo@example.org", "password": made["password"], "new_password": "a long enough one"}
    walk.made["session"] = await walk.call("POST", "/auth/login", wish)


async def _logout(walk: Walk) -> None:
    await walk.call("POST", "/auth/logout", {"refresh_token": walk.made["session"]["refresh_token"]})


async def _end_session(walk: Walk) -> None:
    wish = {"email": "bo@example.org", "password": "a long enough one", "client_name": "old phone"}
    session = await walk.call("POST", "/auth/login", wish)
    await walk.call("DELETE", f"/sessions/{session['session']}")


async def _as_bo(walk: Walk, method: str, path: str, body: Any = None) -> Any:
    person = Person(walk.world, "", "", "", Session.model_validate(walk.made["session"]))
    answer = await person.ask(method, path, body)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def _invite_user(walk: Walk) -> None:
    walk.made["invitation"] = await walk.call(
        "POST", "/users/invitations", {"email": "cy@example.org", "role": "admin"}
    )


async def _accept(walk: Walk) -> None:
    wish = {"token": walk.made["invitation"]["token"], "password": "a long enough one"}
    await walk.call("POST", "/auth/accept-invitation", wish)


async def _revoke_invitation(walk: Walk) -> None:
    made = await walk.call("POST", "/users/invitations", {"email": "di@example.org"})
    await walk.call("DELETE", f"/users/invitations/{made['id']}")


async def _enrol_factor(walk: Walk) -> None:
    made = await _as_bo(walk, "POST", "/auth/mfa/enrol", {"password": "a long enough one"})
    walk.made["secret"] = made["secret"]


async def _confirm_factor(walk: Walk) -> None:
    code = code_of(walk.world, walk.made["secret"])
    walk.made |= await _as_bo(walk, "POST", "/auth/mfa/confirm", {"code": code})


def _by_recovery_code(what: str, **more: str) -> Callable[[Walk], Awaitable[Any]]:
    async def use(walk: Walk) -> None:
        code = walk.made["recovery_codes"].pop()
        walk.made |= await _as_bo(walk, "POST", f"/auth/mfa/{what}", {"code": code, **more}) or {}

    return use


async def _reset_factor(walk: Walk) -> None:
    await _enrol_factor(walk)
    await _confirm_factor(walk)
    await walk.call("DELETE", "/users/bo@example.org/mfa")


async def _enrol(walk: Walk) -> None:
    await walk.world.device().join((await walk.world.invite("office")).invite, name="first")


async def _register_relay(walk: Walk) -> None:
    token = (await walk.call("POST", "/relays/tokens", {}))["token"]
    walk.made["relay"] = (await register(walk.world, Signer.generate(), token)).json()


async def _revoke_relay_token(walk: Walk) -> None:
    token = await walk.call("POST", "/relays/tokens", {"uses": 4})
    assert [t["id"] for t in (await walk.call("GET", "/relays/tokens"))["items"]][-1] == token["id"]
    await walk.call("DELETE", f"/relays/tokens/{token['id']}")


async def _create_key(walk: Walk) -> None:
    walk.made["key"] = await walk.call("POST", "/api-keys", {"name": "ci"})


async def _create_invite(walk: Walk) -> None:
    walk.made["invite"] = await walk.call("POST", "/networks/office/invites", {"uses": 3})


async def _approve(walk: Walk) -> None:
    answer = (await walk.waiting()).answer
    assert answer is not None
    await walk.call("POST", f"/networks/strict/clients/{answer.client_id}/approve")


async def _deny(walk: Walk) -> None:
    answer = (await walk.waiting()).answer
    assert answer is not None
    await walk.call("POST", f"/networks/strict/clients/{answer.client_id}/deny")


async def _remove_device(walk: Walk) -> None:
    await walk.world.device().join((await walk.world.invite("office")).invite, name="stolen")
    await walk.call("DELETE", "/devices/stolen")


def plain(method: str, path: str, body: Any = None) -> Callable[[Walk], Awaitable[Any]]:
    return lambda walk: walk.call(method, path.format(**walk.made), body)


# In this order: the route, how it is used, the action that it leaves, and what of the change the entry has to tell.
STEPS: list[tuple[str, Callable[[Walk], Awaitable[Any]], str, dict[str, Any]]] = [
    (
        "POST /networks",
        plain("POST", "/networks", {"name": "more", "subnet": "10.50.0.0/24"}),
        "network.create",
        {"after": {"name": "more", "subnet": "10.50.0.0/24", "max_clients": 100}},
    ),
    (
        "PATCH /networks/{network}",
        plain("PATCH", "/networks/more", {"max_clients": 7}),
        "network.set",
        {"before": {"max_clients": 100}, "after": {"max_clients": 7}},
    ),
    (
        "POST /networks/{network}/rotate-key",
        plain("POST", "/networks/more/rotate-key"),
        "network.rotate-key",
        {"before": {"epoch": 0}, "after": {"epoch": 1}},
    ),
    ("DELETE /networks/{network}", plain("DELETE", "/networks/more"), "network.delete", {"before": {"name": "more"}}),
    ("POST /networks/{network}/invites", _create_invite, "invite.create", {"after": {"uses": 3}}),
    (
        "DELETE /networks/{network}/invites/{invite}",
        plain("DELETE", "/networks/office/invites/{invite[id]}"),
        "invite.revoke",
        {"before": {"revoked_at": None}},
    ),
    ("POST /networks/{network}/code", plain("POST", "/networks/office/code"), "network.regenerate-code", {}),
    ("PATCH /settings", plain("PATCH", "/settings", {"mfa_required": ["guest"]}), "controller.set",
     {"before": {"mfa_required": []}, "after": {"mfa_required": ["guest"]}}),
    ("POST /enroll", _enrol, "client.enrol", {"after": {"name": "first", "ip": "10.42.0.1", "state": "approved"}}),
    (
        "POST /networks/{network}/clients",
        plain("POST", "/networks/office/clients", {"client_name": "box", "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
        "client.register",
        {"after": {"name": "box", "state": "pending"}},
    ),
    ("POST /networks/{network}/clients/{client}/plain-wireguard",
     plain("POST", "/networks/office/clients/box/plain-wireguard"), "client.declare-plain",
     {"before": {"state": "pending"}, "after": {"state": "approved"}}),
    (
        "PATCH /networks/{network}/clients/{client}",
        plain("PATCH", "/networks/office/clients/first", {"ip": "10.42.0.9", "tags": ["db"]}),
        "client.set",
        {"before": {"ip": "10.42.0.1", "tags": []}, "after": {"ip": "10.42.0.9", "tags": ["db"]}},
    ),
    (
        "POST /networks/{network}/clients/{client}/approve",
        _approve,
        "client.approve",
        {"before": {"state": "pending"}, "after": {"state": "approved"}},
    ),
    (
        "POST /networks/{network}/clients/{client}/deny",
        _deny,
        "client.remove",
        {"before": {"state": "pending"}, "after": {"state": "denied"}},
    ),
    (
        "DELETE /networks/{network}/clients/{client}",
        plain("DELETE", "/networks/office/clients/first"),
        "client.remove",
        {"before": {"name": "first", "ip": "10.42.0.9"}, "after": {"state": "removed"}},
    ),
    (
        "DELETE /devices/{device}",
        _remove_device,
        "client.remove",
        {"before": {"name": "stolen"}, "after": {"state": "removed"}},
    ),
    (
        "POST /users",
        plain("POST", "/users", {"email": "al@example.org"}),
        "user.add",
        {"after": {"email": "al@example.org", "admin": False}},
    ),
    ("POST /users/invitations", _invite_user, "user.invite", {"after": {"email": "cy@example.org", "admin": True}}),
    ("POST /auth/accept-invitation", _accept, "user.add", {"after": {"email": "cy@example.org", "admin": True}}),
    ("DELETE /users/invitations/{invitation}", _revoke_invitation, "user.revoke-invitation",
     {"before": {"email": "di@example.org"}}),
    (
        "POST /users/import",
        plain("POST", "/users/import", {"users": [{"email": "ed@example.org", "password_hash": HASHES["scrypt"]}]}),
        "user.add",
        {"after": {"email": "ed@example.org", "admin": False, "kind": "person"}},
    ),
    (
        "PUT /networks/{network}/members",
        plain("PUT", "/networks/office/members", {"email": "al@example.org", "role": "guest"}),
        "member.set",
        {"before": {"role": None}, "after": {"role": "guest"}},
    ),
    (
        "DELETE /networks/{network}/members/{user}",
        plain("DELETE", "/networks/office/members/al@example.org"),
        "member.remove",
        {"before": {"role": "guest"}, "after": {"role": None}},
    ),
    (
        "PUT /users/{user}/policy",
        plain("PUT", "/users/al@example.org/policy", {"networks": {"office": {"role": "guest", "permissions": []}}}),
        "user.set-policy",
        {"before": {"office": None}, "after": {"office": {"role": "guest", "permissions": []}}},
    ),
    ("POST /templates", plain("POST", "/templates", {"name": "mine", "settings": {"approval": True}}), "template.create",
     {"after": {"settings": {"approval": True}}}),
    ("PUT /templates/{template}", plain("PUT", "/templates/mine", {"settings": {"max_clients": 5}}), "template.set",
     {"before": {"settings": {"approval": True}}, "after": {"settings": {"max_clients": 5}}}),
    ("DELETE /templates/{template}", plain("DELETE", "/templates/mine"), "template.delete",
     {"before": {"settings": {"max_clients": 5}}}),
    ("POST /groups", plain("POST", "/groups", {"name": "ops"}), "group.create", {"after": {"name": "ops"}}),
    ("PATCH /groups/{group}", plain("PATCH", "/groups/ops", {"description": "on call"}), "group.set",
     {"before": {"description": ""}, "after": {"description": "on call"}}),
    ("PUT /groups/{group}/users/{user}", plain("PUT", "/groups/ops/users/al@example.org"), "group.add",
     {"after": {"user": "al@example.org"}}),
    ("PUT /groups/{group}/networks/{network}", plain("PUT", "/groups/ops/networks/office", {"role": "member"}),
     "group.set-role", {"before": {"role": None}, "after": {"role": "member"}}),
    ("DELETE /groups/{group}/networks/{network}", plain("DELETE", "/groups/ops/networks/office"),
     "group.remove-role", {"before": {"role": "member"}, "after": {"role": None}}),
    ("DELETE /groups/{group}/users/{user}", plain("DELETE", "/groups/ops/users/al@example.org"), "group.remove",
     {"before": {"user": "al@example.org"}}),
    ("DELETE /groups/{group}", plain("DELETE", "/groups/ops"), "group.delete", {"before": {"users": []}}),
    (
        "PATCH /users/{user}",
        plain("PATCH", "/users/al@example.org", {"admin": True}),
        "user.set",
        {"before": {"admin": False}, "after": {"admin": True}},
    ),
    ("POST /auth/login", _login, "auth.login", {}),
    ("POST /auth/mfa/enrol", _enrol_factor, "mfa.enrol", {}),
    ("POST /auth/mfa/confirm", _confirm_factor, "mfa.enable", {"before": {"enabled": False}, "after": {"enabled": True}}),
    ("POST /auth/mfa/recovery-codes", _by_recovery_code("recovery-codes"), "mfa.recovery-codes", {}),
    ("POST /auth/mfa/disable", _by_recovery_code("disable", password="a long enough one"), "mfa.disable",
     {"before": {"enabled": True}, "after": {"enabled": False}}),
    ("DELETE /users/{user}/mfa", _reset_factor, "mfa.reset", {"before": {"enabled": True}}),
    ("DELETE /sessions/{session}", _end_session, "auth.end-session", {"before": {"client": "old phone"}}),
    ("POST /auth/logout", _logout, "auth.logout", {}),
    ("POST /users/{user}/reset-password", plain("POST", "/users/bo@example.org/reset-password"), "user.reset-password",
     {"before": {"must_change": False}, "after": {"must_change": True}}),
    ("POST /api-keys", _create_key, "api-key.create", {"after": {"name": "ci"}}),
    ("POST /api-keys/{key}/certificate",
     plain("POST", "/api-keys/{key[id]}/certificate", {"csr": signing_request(new_key())}), "api-key.certificate", {}),
    ("DELETE /api-keys/{key}", plain("DELETE", "/api-keys/{key[id]}"), "api-key.revoke", {"before": {"name": "ci"}}),
    ("POST /relays/tokens", plain("POST", "/relays/tokens", {"uses": 2}), "relay.token", {"after": {"uses": 2}}),
    ("DELETE /relays/tokens/{token}", _revoke_relay_token, "relay.revoke-token", {"before": {"uses_left": 4}}),
    ("POST /relays/register", _register_relay, "relay.register", {"after": {"name": "r1", "region": "eu"}}),
    (
        "POST /relays/{relay}/drain",
        plain("POST", "/relays/r1/drain"),
        "relay.drain",
        {"before": {"draining": False}, "after": {"draining": True}},
    ),
    (
        "POST /relays/{relay}/undrain",
        plain("POST", "/relays/r1/undrain"),
        "relay.undrain",
        {"before": {"draining": True}, "after": {"draining": False}},
    ),
    ("DELETE /relays/{relay}", plain("DELETE", "/relays/r1"), "relay.remove", {"before": {"name": "r1"}}),
    ("POST /networks/{network}/webhooks", _create_webhook("/networks/office/webhooks"), "webhook.create",
     {"after": {"place": "http://127.0.0.1:1", "stream": "events"}}),
    ("POST /webhooks", _create_webhook("/webhooks"), "webhook.create", {"after": {"place": "http://127.0.0.1:1"}}),
    ("PATCH /webhooks/{webhook}", plain("PATCH", "/webhooks/{webhook[id]}", {"events": ["client_online"]}), "webhook.set",
     {"before": {"events": []}, "after": {"events": ["client_online"]}}),
    ("DELETE /webhooks/{webhook}", plain("DELETE", "/webhooks/{webhook[id]}"), "webhook.delete",
     {"before": {"stream": "events"}}),
    ("POST /syslog", _create_syslog, "syslog.create", {"after": {"place": "tcp://127.0.0.1:1", "stream": "audit"}}),
    ("PATCH /syslog/{syslog}", plain("PATCH", "/syslog/{syslog[id]}", {"url": "tcp://127.0.0.1:2"}), "syslog.set",
     {"before": {"place": "tcp://127.0.0.1:1"}, "after": {"place": "tcp://127.0.0.1:2"}}),
    ("DELETE /syslog/{syslog}", plain("DELETE", "/syslog/{syslog[id]}"), "syslog.delete", {"before": {"stream": "audit"}}),
    ("PUT /plans/{plan}", plain("PUT", "/plans/free", {"max_clients": 3}), "plan.set", {"after": {"max_clients": 3}}),
    ("PUT /networks/{network}/plan", _assign_plan, "plan.assign", {"before": {"plan": "free"}, "after": {"plan": None}}),
    ("DELETE /plans/{plan}", plain("DELETE", "/plans/free"), "plan.delete", {"before": {"max_clients": 3}}),
    ("DELETE /users/{user}", plain("DELETE", "/users/ed@example.org"), "user.delete", {"before": {"email": "ed@example.org"}}),
]  # fmt: skip


def test_every_route_that_may_change_something_is_walked() -> None:
    routes = {
        f"{method} {route.path_format.removeprefix('/api/v1')}"
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods & UNSAFE
    }
    assert routes == {step[0] for step in STEPS} | set(NO_CHANGE) | BY_CERTIFICATE


def tells(detail: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(detail.get(side, {}).get(name) == v for side, values in expected.items() for name, v in values.items())


async def test_every_change_leaves_its_entry(world: World) -> None:
    await world.network()
    await world.network("strict", "10.43.0.0/24", approval=True)
    transport = httpx.AsyncHTTPTransport(uds=str(world.data_dir / "controller.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
        walk = Walk(world, client)
        for route, use, action, expected in STEPS:
            before = len(await walk.entries())
            await use(walk)
            new = (await walk.entries())[before:]
            found = [entry for entry in new if entry["action"] == action]
            assert found, f"{route} left {[entry['action'] for entry in new]}"
            assert any(tells(entry["detail"], expected) for entry in found), (route, found)
        assert (await world.call("audit_verify")).ok


async def test_an_entry_tells_no_secret(world: World) -> None:
    """Whatever was made: passwords, keys, tokens, invites and codes stay out of the log."""
    await world.network()
    made = await world.invite()
    user = await world.call("user_create", UserCreate(email="al@example.org"))
    key = await world.call("api_key_create", ApiKeyCreate(name="ci"))
    token = await world.call("relay_token")
    text = "\n".join(str(entry) for entry in await world.call("audit_list"))
    for secret in (made.invite, made.code, user.password, key.key, token.token):
        assert secret not in text


async def test_what_machines_change_by_their_links_leaves_an_entry(world: World) -> None:
    await world.network()
    device = await world.member()
    assert device.link is not None
    device.link.post(Leave(network_id=device.map.head.network_id))
    await device.until_event(Removed)
    signer = Signer.generate()
    relay = await registered(world, signer)
    async with linked(world, signer, relay, udp=SockAddr("192.0.2.77", 1234)) as end:
        await end.next(TokenKeys)
        entries = await world.call("audit_list")
    left, moved = (next(e for e in entries if e.action == action) for action in ("client.remove", "relay.set"))
    assert (left.actor, left.detail["reason"]) == (f"device {device.answer.client_id}", "left")  # type: ignore[union-attr]
    assert moved.actor == f"relay {relay.relay_id}"
    assert (moved.detail["before"], moved.detail["after"]) == ({"udp": "192.0.2.5:9545"}, {"udp": "192.0.2.77:1234"})


async def test_what_is_set_differently_at_a_start_leaves_an_entry(world: World) -> None:
    moved = msgspec.structs.replace(world.at.context.settings, public_urls=("https://192.0.2.9:8443",))
    context = dataclasses.replace(world.at.context, settings=moved)
    before = [e for e in await world.call("audit_list") if e.action == "controller.settings"]
    for _ in range(2):  # the second time nothing is new
        other = Services(context)
        await other.start()
        await other.stop()
        entries = [e for e in await world.call("audit_list") if e.action == "controller.settings"]
        assert len(entries) == len(before) + 1
    assert entries[-1].detail["before"]["public_urls"] == [world.url]
    assert entries[-1].detail["after"]["public_urls"] == ["https://192.0.2.9:8443"]
