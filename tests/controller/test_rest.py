"""The REST API through its typed client, and with whatever may come instead of good requests."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shadowmesh.client_api import rest, signin
from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.logins import login_path
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def refused(attempt: Any) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as caught:
        await attempt
    return caught.value


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A plain client with the first administrator's key."""
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    headers = {"Authorization": f"Bearer {world.first.api_key}"}
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, headers=headers, trust_env=False) as client:
        yield client


async def test_a_network_from_birth_to_death(world: World) -> None:
    made = await world.network(description="the team", p2p_enabled=False)
    assert made.network_id.startswith("net_") and made.serial == 1 and made.epoch == 0
    assert await world.call("network_show", "office") == await world.call("network_show", made.network_id)
    changed = await world.call(
        "network_set", "office", api.NetworkPatch(p2p_enabled=True, subnet="10.42.0.0/16", name="hq")
    )
    assert (changed.name, changed.p2p_enabled, changed.subnet, changed.serial) == ("hq", True, "10.42.0.0/16", 2)
    assert [n.name for n in await world.call("network_list")] == ["hq"]
    await world.call("network_delete", "hq")
    assert await world.call("network_list") == []
    assert (await refused(world.call("network_show", made.network_id))).kind is Kind.NOT_FOUND
    await world.network("hq")  # the name is free again


@pytest.mark.parametrize(
    ("subnet", "word"),
    [
        ("10.0.0.0/33", "not a subnet"),
        ("10.0.0.5/24", "did you mean 10.0.0.0/24"),
        ("10.0.0.1", "did you mean"),
        ("127.0.0.0/8", "reserved"),
        ("224.0.0.0/8", "reserved"),
        ("0.0.0.0/8", "reserved"),
        ("10.0.0.0/31", "prefix"),
        ("::/64", "IPv4"),
        ("nonsense", "not a subnet"),
    ],
)
async def test_a_bad_subnet_is_refused_with_what_to_do(subnet: str, word: str) -> None:
    from shadowmesh.controller.service.addresspool import parse_subnet

    with pytest.raises(ShadowMeshError) as caught:
        parse_subnet(subnet)
    assert caught.value.code == "bad_subnet" and caught.value.kind is Kind.USAGE
    assert word in str(caught.value)


async def test_conflicts_and_unknown_names_have_their_codes(world: World) -> None:
    await world.network()
    assert (await refused(world.network())).code == "network_exists"
    assert (await refused(world.call("network_set", "office", api.NetworkPatch(relay="r9")))).code == "relay_unknown"
    assert (await refused(world.invite("nowhere"))).code == "network_unknown"
    for verb in ("client_show", "client_approve", "client_remove"):
        assert (await refused(world.call(verb, "office", "ghost"))).code == "client_unknown"
    assert (await refused(world.call("invite_revoke", "office", "inv_x"))).code == "invite_unknown"
    assert (await refused(world.call("relay_drain", "r1"))).code == "relay_unknown"
    assert (await refused(world.call("api_key_revoke", "key_x"))).code == "api_key_unknown"


async def test_clients_are_found_by_name_address_and_id_and_moved(world: World) -> None:
    await world.network()
    answer = await world.device().join((await world.invite()).invite)
    by_name = await world.call("client_show", "office", "laptop")
    for key in (answer.client_id, "10.42.0.1"):
        assert await world.call("client_show", "office", key) == by_name
    moved = await world.call("client_set", "office", "laptop", ip="10.42.0.9", name="desk")
    assert (moved.ip, moved.name) == ("10.42.0.9", "desk")
    assert str((await world.device().join((await world.invite()).invite)).ip) == "10.42.0.2", "the old one rests"
    assert (await refused(world.call("client_set", "office", "laptop", ip="10.42.0.9"))).code == "address_taken"
    assert (await refused(world.call("client_set", "office", "laptop", name="desk"))).code == "name_taken"


async def test_lists_page_by_cursor(world: World, http: httpx.AsyncClient) -> None:
    for i in range(5):
        await world.network(f"n{i}", f"10.{i}.0.0/24")
    names, cursor = [], None
    while True:
        page = (await http.get("/api/v1/networks", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        names += [n["name"] for n in page["networks"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert names == [f"n{i}" for i in range(5)]


async def test_an_idempotency_key_gives_the_first_answer_again(world: World, http: httpx.AsyncClient) -> None:
    await world.network()
    headers = {"Idempotency-Key": "abc"}
    path = "/api/v1/networks/office/invites"
    first = await http.post(path, json={}, headers=headers)
    second = await http.post(path, json={}, headers=headers)
    assert first.status_code == 201 and first.json() == second.json()
    other = await http.post(path, json={"uses": 2}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert len(await world.invites("office")) == 1


async def test_who_is_not_signed_in_gets_nothing(world: World, http: httpx.AsyncClient) -> None:
    for token in ("", "Bearer sk_wrong", "Bearer a.b.c", "Bearer ...", "Basic x", "Bearer " + "x" * 5000):
        answer = await http.get("/api/v1/networks", headers={"Authorization": token})
        assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_signing_in_changes_the_one_time_password_and_refresh_rotates(
    world: World, http: httpx.AsyncClient
) -> None:
    who = {"email": world.first.admin_email, "password": world.first.admin_password}
    wrong = await http.post("/api/v1/auth/login", json=who | {"password": "x"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "bad_credentials")
    once = await http.post("/api/v1/auth/login", json=who)
    assert (once.status_code, once.json()["code"]) == (403, "password_change_required")
    session = (await http.post("/api/v1/auth/login", json=who | {"new_password": "correct horse"})).json()
    bearer = {"Authorization": f"Bearer {session['access_token']}"}
    me = (await http.get("/api/v1/whoami", headers=bearer)).json()
    assert (me["name"], me["admin"]) == (world.first.admin_email, True)
    again = await http.post("/api/v1/auth/login", json=who | {"password": "correct horse"})
    assert again.status_code == 200

    world.clock.advance(minutes=11)
    assert (await http.get("/api/v1/whoami", headers=bearer)).status_code == 401
    for _ in range(30):
        limited = await http.post("/api/v1/auth/login", json=who | {"password": "guess"})
        if limited.status_code == 429:
            break
    assert limited.status_code == 429 and int(limited.headers["retry-after"]) >= 1


async def test_roles_allow_what_they_say(world: World, http: httpx.AsyncClient) -> None:
    await world.network()
    await world.network("secret", "10.43.0.0/24")
    user = await world.call("user_create", accounts.UserCreate(email="Ann@example.org"))
    session = (
        await http.post(
            "/api/v1/auth/login",
            json={"email": "ann@example.org", "password": user.password, "new_password": "longer than ten"},
        )
    ).json()
    ann = {"Authorization": f"Bearer {session['access_token']}"}

    async def ask(method: str, path: str, body: Any = None) -> int:
        return (await http.request(method, f"/api/v1{path}", json=body, headers=ann)).status_code

    assert await ask("GET", "/networks/office") == 404, "not even its name"
    await world.call("member_set", "office", api.MemberPut(email="ann@example.org", role="guest"))
    assert [n["name"] for n in (await http.get("/api/v1/networks", headers=ann)).json()["networks"]] == ["office"]
    assert await ask("GET", "/networks/office/clients") == 200
    assert await ask("POST", "/networks/office/invites", {}) == 403
    assert await ask("PATCH", "/networks/office", {"p2p_enabled": False}) == 403
    await world.call("member_set", "office", api.MemberPut(email="ann@example.org", role="owner"))
    assert await ask("POST", "/networks/office/invites", {}) == 201
    assert await ask("PATCH", "/networks/office", {"p2p_enabled": False}) == 200
    for method, path, body in (
        ("POST", "/networks", {"name": "mine", "subnet": "10.1.0.0/24"}),
        ("GET", "/users", None),
        ("GET", "/audit", None),
        ("POST", "/relays/tokens", {}),
    ):
        assert await ask(method, path, body) == 403
    assert await ask("DELETE", "/networks/secret") == 404
    await world.call("user_set", "ann@example.org", accounts.UserPatch(disabled=True))
    assert await ask("GET", "/networks") == 401
    last = await refused(world.call("user_set", world.first.admin_email, accounts.UserPatch(admin=False)))
    assert last.code == "last_admin"


async def test_every_change_is_in_the_audit_log_and_a_changed_entry_shows(world: World) -> None:
    await world.network()
    await world.device().join((await world.invite()).invite)
    await world.call("client_remove", "office", "laptop")
    entries = [(e.action, e.actor) for e in await world.call("audit_list")]
    assert [a for a, _ in entries if a.startswith(("network", "invite", "client"))] == [
        "network.create", "invite.create", "client.enrol", "client.remove"
    ]  # fmt: skip
    assert entries[-1] == ("client.remove", "local")
    verdict = await world.call("audit_verify")
    assert verdict.ok and verdict.entries == len(entries)

    from shadowmesh.controller.store import schema

    t = schema.audit
    await world.at.context.write(lambda c: c.execute(t.update().where(t.c.seq == 4).values(actor="nobody")))
    verdict = await world.call("audit_verify")
    assert not verdict.ok and verdict.broken_at == 4


async def test_the_client_says_what_is_wrong_with_the_way(
    world: World, tmp_path: Path, login_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(environ: dict[str, str]) -> ControllerClient:
        return ControllerClient.choose(environ=environ)

    with pytest.raises(ShadowMeshError) as caught:
        ControllerClient.local(tmp_path / "none").whoami()
    assert caught.value.kind is Kind.UNREACHABLE
    monkeypatch.setattr(rest, "DEFAULT_DATA_DIR", tmp_path / "none")
    with pytest.raises(ShadowMeshError) as caught:
        choose({})
    assert caught.value.code == "no_controller"
    with pytest.raises(ShadowMeshError) as caught:
        choose({"SHADOWMESH_CONTROLLER": world.url})
    assert caught.value.kind is Kind.NOT_ALLOWED
    error = await refused(
        asyncio.to_thread(
            choose,
            {
                "SHADOWMESH_CONTROLLER": "https://127.0.0.1:9",
                "SHADOWMESH_TOKEN": "x",
                "SHADOWMESH_FINGERPRINT": world.fingerprint,
            },
        )
    )
    assert error.kind is Kind.UNREACHABLE
    environ = {
        "SHADOWMESH_CONTROLLER": world.url,
        "SHADOWMESH_TOKEN": world.first.api_key,
        "SHADOWMESH_FINGERPRINT": world.fingerprint,
    }
    who = await asyncio.to_thread(lambda: choose(environ).whoami())
    assert who.name == f"{world.first.admin_email} by first"
    unknown = await refused(asyncio.to_thread(first_contact, world.url, None))
    assert unknown.code == "certificate_refused" and "--fingerprint" in unknown.remedy


async def test_a_login_is_kept_privately_and_renewed(world: World, login_home: Path) -> None:
    first = world.first
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    options = {"email": first.admin_email, "password": first.admin_password}
    who = await asyncio.to_thread(signin.login, contact, **options, new_password="correct horse")
    assert who.admin
    assert stat.S_IMODE(login_path().stat().st_mode) == 0o600
    world.clock.advance(minutes=11)  # the access token has run out

    def use() -> str:
        with ControllerClient.choose(environ={}) as client:
            return client.whoami().name

    assert await asyncio.to_thread(use) == first.admin_email
    assert await asyncio.to_thread(use) == first.admin_email, "the renewed one was kept"
    await asyncio.to_thread(signin.logout)
    assert not login_path().exists()


async def test_other_bad_requests(world: World, http: httpx.AsyncClient) -> None:
    await world.network()
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("DELETE", "/networks", 405),
        ("GET", "/networks?limit=0", 422),
        ("GET", "/networks?limit=1_0", 422),
        ("GET", "/networks?limit=%2B5", 422),
        ("GET", "/networks?limit=%205", 422),
        ("GET", "/networks?limit=5.0", 422),
        ("GET", "/networks?limit=%D9%A5", 422),
        ("GET", "/networks?limit=0x5", 422),
        ("GET", "/networks?limit=", 422),
        ("GET", "/networks?limit=99999999999999999999", 422),
        ("GET", "/networks?cursor=%00", 422),
        ("GET", "/audit?cursor=x", 422),
        ("GET", "/events?cursor=None", 422),
        ("GET", "/audit?cursor=9999999999999999999999", 422),
        ("GET", "/networks/%00", 422),
        ("GET", "/networks/%ff%fe", 422),
        ("GET", "/networks/" + "x" * 5000, 422),
        ("GET", "/networks/..%2f..%2fetc", 404),
        ("DELETE", "/networks/office/clients/10.42.0.999", 404),
    ):
        answer = await http.request(method, "/api/v1" + path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
    for path, allowed in (
        ("/networks", "GET, POST"),
        ("/networks/office", "DELETE, GET, PATCH"),
        ("/relays/x", "DELETE"),
    ):
        assert (await http.put("/api/v1" + path)).headers["allow"] == allowed
    large = await http.post("/api/v1/networks", content=b" " * 300_000)
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 10_000

    assert (await http.post("/api/v1/networks", content=chunks())).status_code == 413
    lone = await http.post("/api/v1/networks", content=rb'{"name":"x","subnet":"\ud800"}')
    assert lone.status_code == 422
    unknown = await http.post("/api/v1/networks", json={"name": "x", "subnet": "10.0.0.0/24", "subnets": 1})
    assert "subnets" in unknown.json()["detail"]


async def test_health_metrics_and_the_api_description(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    assert "shadowmesh_controller_devices 0.0" in (await http.get("/metrics")).text
    stranger = await http.get("/metrics", headers={"Authorization": ""})
    assert (stranger.status_code, stranger.json()["code"]) == (401, "not_signed_in")
    described = (await http.get("/api/v1/openapi.json")).json()
    assert {"/api/v1/networks", "/api/v1/enroll", "/api/v1/networks/{network}/peers/{peer}"} <= described[
        "paths"
    ].keys()


async def test_a_path_that_goes_on_is_no_users_name(http: httpx.AsyncClient) -> None:
    answer = await http.patch("/api/v1/users/ann@example.org/reset-password", json={"disabled": True})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await http.patch("/api/v1/users/a/b@example.org", json={"disabled": True})).json()["code"] == "user_unknown"
