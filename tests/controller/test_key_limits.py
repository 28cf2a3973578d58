"""API keys that are for less than their owner may do: certain permissions, certain networks, only to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from people import Person, person, web

from shadowmesh.model import accounts, api

if TYPE_CHECKING:
    from tests.controller.conftest import World


@pytest.fixture
async def offices(world: World) -> World:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    return world


async def key_of(who: Person, token: str | None = None, **wish: Any) -> str:
    made = await who.ask("POST", "/api-keys", wish, token=token)
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


async def asked(who: Person, token: str, *requests: tuple[str, str, Any]) -> list[int]:
    return [(await who.ask(method, path, body, token=token)).status_code for method, path, body in requests]


async def test_a_key_with_scopes_is_for_these_permissions_alone(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    key = await key_of(ann, scopes=["network.view", "network.invite"])
    assert await asked(
        ann, key,
        ("GET", "/networks/office", None), ("POST", "/networks/office/invites", {"uses": 2}),
        ("PATCH", "/networks/office", {"description": "theirs"}), ("DELETE", "/networks/office", None),
    ) == [200, 201, 403, 403]  # fmt: skip


@pytest.mark.parametrize("admin", [False, True])
async def test_to_a_key_of_one_network_there_are_no_others(offices: World, admin: bool) -> None:
    ann = await person(offices, "ann", {"office": "owner", "lab": "owner"}, admin=admin)
    key = await key_of(ann, networks=["office"])
    seen = (await ann.ask("GET", "/networks", token=key)).json()["networks"]
    assert [n["name"] for n in seen] == ["office"]
    assert await asked(
        ann, key,
        ("PATCH", "/networks/office", {"description": "theirs"}), ("GET", "/networks/lab", None), ("DELETE", "/networks/lab", None),
        ("POST", "/networks", {"name": "new"}), ("GET", "/users", None), ("POST", "/relays/tokens", {}),
    ) == [200, 404, 404, 403, 403, 403]  # fmt: skip
    absent, others = [await ann.ask("GET", f"/networks/{name}", token=key) for name in ("xxx", "lab")]
    assert absent.text == others.text.replace("lab", "xxx")
    async with ann.watching(token=key) as watch:
        for network in ("lab", "office"):
            await offices.call("network_set", network, api.NetworkPatch(description="touched"))
        office = await offices.call("network_show", "office")
        assert (await watch.until("network_changed", change="set"))["network_id"] == office.network_id
    await offices.at.events.flush()
    told = (await ann.ask("GET", "/events", token=key)).json()["items"]
    assert {e["network_id"] for e in told} == {office.network_id}


async def test_a_read_only_key_changes_nothing(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    key = await key_of(ann, read_only=True)
    assert await asked(
        ann, key,
        ("GET", "/networks/office", None), ("GET", "/events?network=office", None), ("GET", "/api-keys", None),
        ("PATCH", "/networks/office", {"description": "theirs"}), ("POST", "/networks/office/invites", {}), ("POST", "/api-keys", {}),
        ("GET", "/networks/office/invites", None),
    ) == [200, 200, 200, 403, 403, 403, 403]  # fmt: skip
    async with ann.watching(token=key, network_id="office"):
        pass


async def test_a_read_only_key_of_an_administrator_looks_at_what_administrators_may(offices: World) -> None:
    root = await person(offices, "root", admin=True)
    key = await key_of(root, read_only=True)
    assert await asked(
        root, key,
        ("GET", "/users", None), ("GET", "/audit", None), ("POST", "/users", {"email": "x@y"}),
        ("PATCH", f"/users/{root.email}", {"admin": False}), ("DELETE", "/networks/office", None),
    ) == [200, 200, 403, 403, 403]  # fmt: skip


async def test_a_key_made_with_a_key_is_for_no_more(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner", "lab": "owner"})
    parent = await key_of(ann, scopes=["network.view", "network.invite"], networks=["office"])
    more = await ann.ask("POST", "/api-keys", {"scopes": ["network.view", "network.delete"]}, token=parent)
    assert (more.status_code, more.json()["code"]) == (403, "not_allowed") and "network.delete" in more.json()["detail"]
    elsewhere = await ann.ask("POST", "/api-keys", {"networks": ["lab"]}, token=parent)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "network_unknown")
    child = (await ann.ask("POST", "/api-keys", {}, token=parent)).json()
    office = await offices.call("network_show", "office")
    assert (child["scopes"], child["networks"]) == (["network.invite", "network.view"], [office.network_id])
    own = (await ann.ask("POST", "/api-keys", {"name": "another"})).json()
    listed = (await ann.ask("GET", "/api-keys", token=parent)).json()["items"]
    assert own["id"] not in {k["id"] for k in listed} and child["id"] in {k["id"] for k in listed}
    assert await asked(ann, parent, ("DELETE", f"/api-keys/{own['id']}", None), ("DELETE", f"/api-keys/{child['id']}", None)) == [404, 204]  # fmt: skip


async def test_a_key_isnt_given_the_answer_that_another_of_the_same_name_got(offices: World) -> None:
    """The answer to a request that is sent again has what was made: with it a key would get one that is for more."""
    ann = await person(offices, "ann", {"office": "owner"})
    names = [await key_of(ann, name="ci"), await key_of(ann, name="ci", scopes=["network.view"])]
    made = []
    async with web(offices) as client:
        for key in (names[0], *names):
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "one"}
            made.append((await client.post("/api/v1/api-keys", json={"name": "more"}, headers=headers)).json())
    assert made[0] == made[1] and made[2]["id"] != made[0]["id"]
    assert (made[0]["scopes"], made[2]["scopes"]) == (None, ["network.view"])


async def test_a_limited_key_of_an_administrator_learns_of_no_user(offices: World) -> None:
    root = await person(offices, "root", admin=True)
    eve = await person(offices, "eve")
    key = await key_of(root, networks=["office"])
    put, seen, near = "/networks/office/members", list[set[str]](), "/networks/office/access?user=usr_nobody"
    for method, path, body in (
        ("PUT", put, {"email": "{}", "role": "guest"}),
        ("GET", "/networks/office/access?user={}", None),
        ("DELETE", put + "/{}", None),
    ):
        answers = set[str]()
        for email in (eve.email, "evi@example.org"):
            wish = None if body is None else body | {"email": email}
            answer = await root.ask(method, path.replace("{}", email), wish, token=key)
            answers.add(f"{answer.status_code} {answer.text.replace(email, '…')}")
        seen.append(answers)
    assert [len(answers) for answers in seen] == [1, 1, 1], seen
    for name in ("usr_nobody", eve.user):
        assert eve.email not in (await root.ask("GET", near.replace("usr_nobody", name), token=key)).text
    members = (await root.ask("GET", put, token=key)).json()["items"]
    assert {m["user"] for m in members} <= {None}
    assert (await root.ask("GET", near.replace("usr_nobody", eve.user))).json()["user"] == eve.email


async def test_a_key_never_has_more_than_its_owner_has_now(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    key = await key_of(ann, scopes=["network.view", "network.configure"], networks=["office"])
    change = ("PATCH", "/networks/office", {"description": "theirs"})
    assert await asked(ann, key, change) == [200]
    await person(offices, "bob", {"office": "owner"})
    await offices.call("member_set", "office", api.MemberPut(email=ann.email, role="guest"))
    assert await asked(ann, key, change, ("GET", "/networks/office", None)) == [403, 200]
    await offices.call("member_remove", "office", ann.email)
    assert await asked(ann, key, change) == [404]
    await offices.call("user_set", ann.email, accounts.UserPatch(disabled=True))
    assert await asked(ann, key, ("GET", "/networks", None)) == [401]


async def test_limits_are_shown_and_stand_in_the_audit_log(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    made = (
        await ann.ask("POST", "/api-keys", {"scopes": ["logs.view"], "networks": ["office"], "read_only": True})
    ).json()
    office = await offices.call("network_show", "office")
    limits = {"scopes": ["logs.view"], "networks": [office.network_id], "read_only": True}
    (listed,) = (await ann.ask("GET", "/api-keys")).json()["items"]
    assert {name: made[name] for name in limits} == {name: listed[name] for name in limits} == limits
    entry = next(e for e in reversed(await offices.call("audit_list")) if e.action == "api-key.create")
    assert {name: entry.detail["after"][name] for name in limits} == limits


@pytest.mark.parametrize("wish", [{"scopes": []}, {"scopes": ["network.own"]}, {"networks": []}, {"read_only": 1}])
async def test_limits_that_are_none_are_refused(offices: World, wish: dict[str, Any]) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    assert (await ann.ask("POST", "/api-keys", wish)).status_code == 422
