"""Lists of permissions in the place of a role's, groups with roles, and who may give what to whom."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
from people import Person, person

from shadowmesh.controller.authz import ALL, ROLES, Permission, RoleGrant, decide
from shadowmesh.controller.service.accessexplained import Asked, KeyLimits, explained
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World

SEED = ["network.configure", "network.invite", "network.view", "client.register", "logs.view"]  # of the example policy
VIEW, REGISTER, REMOVE = Permission.NETWORK_VIEW, Permission.CLIENT_REGISTER, Permission.CLIENT_REMOVE


@pytest.fixture
async def offices(world: World) -> World:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    return world


async def statuses(who: Person, *requests: tuple[str, str, Any]) -> list[int]:
    return [(await who.ask(method, path, body)).status_code for method, path, body in requests]


async def group(world: World, name: str, *users: str, **roles: Any) -> None:
    await world.call("group_create", accounts.GroupCreate(name=name))
    for user in users:
        await world.call("group_add", name, user)
    for network, role in roles.items():
        await world.call("group_set_role", name, network, api.GivenRole(**role))


async def refused(coroutine: Any) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as caught:
        await coroutine
    return caught.value


# what decides


def test_a_list_of_ones_own_is_the_last_word_and_else_all_adds_up() -> None:
    own, ops = RoleGrant("member"), RoleGrant("owner", frozenset({VIEW, REMOVE}), "ops")
    assert decide([]).permissions == frozenset() and decide([]).role is None
    assert decide([own]).permissions == ROLES["member"]
    both = decide([own, ops])
    assert (both.role, both.permissions) == ("owner", ROLES["member"] | {REMOVE})
    assert not both.oversees, (
        "the group that makes them owner doesn't read logs, and the role that reads them isn't owner"
    )
    listed = decide([RoleGrant("guest", frozenset({REGISTER})), ops, RoleGrant("owner", None, "heads")])
    assert (listed.role, listed.permissions, listed.listed) == ("guest", {REGISTER}, True)
    assert decide([RoleGrant("guest", frozenset())], admin=True).permissions == ALL


def test_an_explanation_says_what_decides() -> None:
    """Over random roles, lists, groups and keys: allowed is what `decide` gives and the key is for, and each no has its reason."""
    dice = random.Random(7)
    some = lambda: frozenset(p for p in ALL - {Permission.NETWORK_CREATE} if dice.random() < 0.5)  # noqa: E731
    for _ in range(3000):
        grants = [
            RoleGrant(dice.choice(list(ROLES)), dice.choice([None, some()]), name)
            for name in (None, "ops", "heads")
            if dice.random() < 0.6
        ]
        key = dice.choice([None, KeyLimits("k", some(), here=dice.random() < 0.8)])
        asked = Asked(grants, admin=dice.random() < 0.1, disabled=dice.random() < 0.1, key=key)
        held = decide(grants, admin=asked.admin).permissions
        if key is not None:
            held = held & key.scopes if key.here else frozenset()
        expected = frozenset() if asked.disabled else held
        said = explained(asked)
        assert [s.permission for s in said] == list(Permission)
        assert {s.permission for s in said if s.allowed} == expected
        for s in said:
            assert bool(s.given_by and not s.taken_by) == s.allowed and s.why


# by REST


async def test_the_example_policy_widens_and_narrows(offices: World) -> None:
    ann, root = await person(offices, "ann"), await person(offices, "root", admin=True)
    await offices.device().join((await offices.invite()).invite)
    document = {
        "user_id": ann.user,
        "networks": {
            "office": {"role": "owner", "permissions": SEED},
            "lab": {"role": "member", "permissions": ["network.view", "client.register"]},
        },
    }
    put = await root.ask("PUT", f"/users/{ann.email}/policy", document)
    assert put.status_code == 200, put.text
    for reader in (root, ann):
        shown = (await reader.ask("GET", f"/users/{ann.user}/policy")).json()
        assert shown["user_id"] == ann.user
        assert {n: (r["role"], set(r["permissions"])) for n, r in shown["networks"].items()} == {
            n: (r["role"], set(r["permissions"]))  # type: ignore[index,arg-type]
            for n, r in document["networks"].items()  # type: ignore[union-attr]
        }
    assert await statuses(
        ann,
        ("PATCH", "/networks/office", {"description": "x"}), ("POST", "/networks/office/invites", {"uses": 2}),
        ("GET", "/networks/office/logs", None), ("DELETE", "/networks/office/clients/laptop", None), ("DELETE", "/networks/office", None),
        ("GET", "/networks/lab", None), ("GET", "/networks/lab/logs", None), ("POST", "/networks/lab/invites", {}),
    ) == [200, 201, 200, 403, 403, 200, 403, 201]  # fmt: skip
    said = (await ann.ask("DELETE", "/networks/office/clients/laptop")).json()
    assert "list of permissions in office" in said["detail"] and "client.remove" in said["detail"]
    entry = next(e for e in reversed(await offices.call("audit_list")) if e.action == "user.set-policy")
    assert entry.detail["before"] == {} and entry.detail["after"]["lab"]["permissions"] == [
        "client.register",
        "network.view",
    ]


async def test_a_document_is_set_whole_or_not_at_all(offices: World) -> None:
    ann, bob = await person(offices, "ann", {"office": "owner", "lab": "member"}), await person(offices, "bob")
    show = lambda: offices.call("policy_document", ann.email)  # noqa: E731
    before = await show()
    assert {n: (r.role, r.permissions) for n, r in before.networks.items()} == {
        "lab": ("member", None),
        "office": ("owner", None),
    }
    lab = await offices.call("network_show", "lab")
    for networks, code in (
        ({"lab": {"role": "guest"}, "nowhere": {"role": "guest"}}, "network_unknown"),
        ({"lab": {"role": "guest"}}, "last_owner"),
        ({"lab": {"role": "guest"}, "office": {"role": "owner", "permissions": ["network.view"]}}, "last_owner"),
        ({"office": {"role": "owner"}, "lab": {"role": "guest"}, lab.network_id: {"role": "guest"}}, "network_twice"),
    ):
        wish = accounts.PolicyDocumentPut.model_validate({"networks": networks})
        assert (await refused(offices.call("policy_document_set", ann.email, wish))).code == code
        assert await show() == before, code
    foreign = accounts.PolicyDocumentPut(user_id=bob.user, networks={})
    assert (await refused(offices.call("policy_document_set", ann.email, foreign))).code == "other_user"
    kept = accounts.PolicyDocumentPut.model_validate({"networks": {"office": {"role": "owner"}}})
    assert list((await offices.call("policy_document_set", ann.email, kept)).networks) == ["office"]
    assert (await ann.ask("GET", "/networks/lab")).status_code == 404
    unchanged = accounts.PolicyDocumentPut.model_validate((await show()).model_dump(mode="json"))
    assert await offices.call("policy_document_set", ann.email, unchanged) == await show(), "what is read can be set"


async def test_a_document_is_its_owners_and_administrators_to_read(offices: World) -> None:
    ann, bob = await person(offices, "ann", {"office": "owner"}), await person(offices, "bob")
    for name in (ann.email, "nobody@example.org"):
        assert (await bob.ask("GET", f"/users/{name}/policy")).status_code == 403
    assert (await ann.ask("PUT", f"/users/{ann.email}/policy", {"networks": {}})).status_code == 403
    for bad in (
        {"networks": {"office": {"role": "owner", "permissions": ["network.create"]}}},
        {"networks": {"office": {"role": "king"}}},
        {"networks": {"office": {"role": "guest", "permission": []}}},
        {},
    ):
        root = await person(offices, f"root{len(str(bad))}", admin=True)
        assert (await root.ask("PUT", f"/users/{ann.email}/policy", bad)).status_code == 422


async def test_nobody_gives_what_they_lack(offices: World) -> None:
    await person(offices, "boss", {"office": "owner"})
    ann, bob = await person(offices, "ann"), await person(offices, "bob", {"office": "member"})
    put = lambda **wish: ann.ask("PUT", "/networks/office/members", wish)  # noqa: E731
    narrowed = api.MemberPut(email=ann.email, role="owner", permissions=SEED)  # type: ignore[arg-type]
    await offices.call("member_set", "office", narrowed)
    for wish in (
        {"email": bob.email, "role": "owner"},
        {"email": bob.email, "role": "member", "permissions": ["client.remove"]},
        {"email": ann.email, "role": "owner"},
        {"email": "new@example.org", "role": "guest", "permissions": ["network.delete"]},
    ):
        got = await put(**wish)
        assert (got.status_code, got.json()["code"]) == (403, "beyond_own_rights"), wish
    assert (await put(email=bob.email, role="owner", permissions=["network.view", "network.invite"])).status_code == 200
    member = await put(email=bob.email, role="member")
    assert (member.status_code, member.json()["permissions"]) == (200, None)
    helper = api.MemberPut(email=bob.email, role="member", permissions=["network.view", "network.configure"])  # type: ignore[list-item]
    await offices.call("member_set", "office", helper)
    raised = await bob.ask(
        "PUT", "/networks/office/members", {"email": "x@example.org", "role": "owner", "permissions": ["network.view"]}
    )
    assert raised.json()["code"] == "beyond_own_rights", "an owner sees others' machines in the log; a member doesn't"


async def test_an_api_key_gives_no_more_than_it_is_for(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    key = (await ann.ask("POST", "/api-keys", {"scopes": ["network.configure", "network.view"]})).json()["key"]
    wish = {"email": "x@example.org", "role": "owner"}
    got = await ann.ask("PUT", "/networks/office/members", wish, token=key)
    assert (got.status_code, got.json()["code"]) == (403, "beyond_own_rights")
    wish = {"email": "x@example.org", "role": "guest"}
    assert (await ann.ask("PUT", "/networks/office/members", wish, token=key)).status_code == 200


async def test_taking_the_list_away_is_widening_where_a_group_gives_more(offices: World) -> None:
    """Who may configure and no more can't make the group's role count again for somebody whose list kept it from counting."""
    ann, bob = await person(offices, "ann"), await person(offices, "bob")
    await person(offices, "boss", {"office": "owner"})
    await group(offices, "heads", bob.email, office={"role": "owner"})
    for who, permissions in ((ann, SEED), (bob, ["network.view"])):
        wish = {"email": who.email, "role": "owner", "permissions": permissions}
        await offices.call("member_set", "office", api.MemberPut.model_validate(wish))
    gone = await ann.ask("DELETE", f"/networks/office/members/{bob.email}")
    assert (gone.status_code, gone.json()["code"]) == (403, "beyond_own_rights")
    assert (await bob.ask("DELETE", "/networks/office")).status_code == 403


async def test_an_owner_who_may_not_configure_is_none(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "owner"})
    narrowed = {"email": ann.email, "role": "owner", "permissions": ["network.view"]}
    for attempt in (
        ann.ask("PUT", "/networks/office/members", narrowed),
        (await person(offices, "root", admin=True)).ask("PUT", "/networks/office/members", narrowed),
    ):
        got = await attempt
        assert (got.status_code, got.json()["code"]) == (409, "last_owner")
    bob = await person(offices, "bob", {"office": "owner"})
    assert (await ann.ask("PUT", "/networks/office/members", narrowed)).status_code == 200
    assert (await bob.ask("DELETE", f"/networks/office/members/{bob.email}")).json()["code"] == "last_owner"


@pytest.mark.parametrize("how", ["list", "document", "group left", "group deleted", "group's role", "group's list"])
async def test_who_loses_a_permission_loses_what_they_did_with_it(offices: World, how: str) -> None:
    ann = await person(offices, "ann")
    if how in ("list", "document"):
        await person(offices, "boss", {"office": "owner"})
        await offices.call("member_set", "office", api.MemberPut(email=ann.email, role="owner"))
    else:
        await group(offices, "ops", ann.email, office={"role": "owner"})
    made = (await ann.ask("POST", "/networks/office/invites", {"uses": 9})).json()["id"]
    async with ann.watching(network_id="office") as watch:
        listed = {"role": "guest", "permissions": ["client.register"]}
        if how == "list":
            await offices.call("member_set", "office", api.MemberPut.model_validate(listed | {"email": ann.email}))
        elif how == "document":
            wish = accounts.PolicyDocumentPut.model_validate({"networks": {"office": listed}})
            await offices.call("policy_document_set", ann.email, wish)
        elif how == "group left":
            await offices.call("group_remove", "ops", ann.email)
        elif how == "group deleted":
            await offices.call("group_delete", "ops")
        elif how == "group's role":
            await offices.call("group_remove_role", "ops", "office")
        else:
            await offices.call("group_set_role", "ops", "office", api.GivenRole.model_validate(listed))
        assert (await watch.ended())[0] in (4003, 4401)
    assert {i.id: i.state for i in await offices.invites("office")} == {made: "revoked"}
    entry = (await offices.call("audit_list"))[-1]
    assert entry.detail["invites_ended"] == [made]


async def test_an_invite_for_a_machine_of_ones_own_stays_while_it_may(offices: World) -> None:
    ann = await person(offices, "ann", {"office": "member"})
    made = (await ann.ask("POST", "/networks/office/invites", {})).json()["id"]
    for permissions, state in ((["client.register"], "open"), (["network.view"], "revoked")):
        wish = {"email": ann.email, "role": "member", "permissions": permissions}
        await offices.call("member_set", "office", api.MemberPut.model_validate(wish))
        assert {i.id: i.state for i in await offices.invites("office")} == {made: state}


# groups


async def test_a_group_gives_its_users_what_it_has_with_their_own(offices: World) -> None:
    ann, bob = await person(offices, "ann", {"office": "guest"}), await person(offices, "bob")
    await group(offices, "ops", ann.email, bob.user, office={"role": "member"}, lab={"role": "guest"})
    await group(offices, "movers", ann.email, office={"role": "guest", "permissions": ["client.remove"]})
    for who, expected in ((ann, [200, 200, 404]), (bob, [200, 403, 403])):
        assert await statuses(
            who,
            ("GET", "/networks/office/logs", None), ("GET", "/devices", None)
            if who is ann
            else ("POST", "/networks/lab/invites", {}),
            ("DELETE", "/networks/office/clients/none", None) if who is ann else ("DELETE", "/networks/office", None),
        ) == expected  # fmt: skip
    seen = {n["name"] for n in (await bob.ask("GET", "/networks")).json()["networks"]}
    assert seen == {"office", "lab"}
    members = {m.email: m for m in await offices.call("member_list", "office")}
    assert (members[bob.email].role, members[bob.email].own, members[bob.email].groups) == ("member", False, ["ops"])
    assert members[ann.email].role == "guest" and Permission.CLIENT_REMOVE in members[ann.email].effective
    shown = await offices.call("group_show", "OPS")
    assert shown.users == [ann.email, bob.email]
    assert [(r.network_name, r.role) for r in shown.networks] == [("lab", "guest"), ("office", "member")]
    assert {g.name for g in await offices.call("group_list")} == {"ops", "movers"}


async def test_what_is_wrong_with_a_group_is_said(offices: World) -> None:
    ann = await person(offices, "ann")
    await group(offices, "ops")
    await group(offices, "movers")
    for attempt, code in (
        (("group_create", accounts.GroupCreate(name="OPS")), "group_exists"),
        (("group_create", accounts.GroupCreate(name="grp_x")), "bad_name"),
        (("group_set", "ops", accounts.GroupPatch(name="grp_x")), "bad_name"),
        (("group_set", "ops", accounts.GroupPatch(name="MOVERS")), "group_exists"),
        (("group_set", "none", accounts.GroupPatch(description="x")), "group_unknown"),
        (("group_add", "ops", "nobody@example.org"), "user_unknown"),
        (("group_add", "none", ann.email), "group_unknown"),
        (("group_remove", "ops", ann.email), "not_in_group"),
        (("group_remove_role", "ops", "office"), "no_role"),
        (("group_set_role", "ops", "nowhere", api.GivenRole(role="guest")), "network_unknown"),
        (("group_delete", "none"), "group_unknown"),
    ):
        assert (await refused(offices.call(*attempt))).code == code
    for _ in range(2):
        assert (await offices.call("group_add", "ops", ann.email)).users == [ann.email]


async def test_a_role_by_a_group_asks_for_a_second_factor_too(offices: World) -> None:
    import sqlalchemy as sa

    from shadowmesh.controller.authz import lacks_second_factor
    from shadowmesh.controller.store import schema

    ann = await person(offices, "ann")
    query = sa.select(schema.users.c.id).where(lacks_second_factor(["owner"]))
    lacking = lambda: offices.at.context.read(lambda conn: list(conn.execute(query).scalars()))  # noqa: E731
    assert ann.user not in await lacking()
    await group(offices, "ops", ann.email, office={"role": "owner"})
    assert ann.user in await lacking()


async def test_a_network_that_is_deleted_leaves_no_role_behind(offices: World) -> None:
    await group(offices, "ops", office={"role": "owner"})
    await offices.call("network_delete", "office")
    assert (await offices.call("group_show", "ops")).networks == []


# explanations


async def test_why_somebody_may_do_what_is_told(offices: World) -> None:
    ann, bob = await person(offices, "ann", {"office": "owner"}), await person(offices, "bob")
    await group(offices, "ops", bob.email, office={"role": "member"})
    wish = {"email": bob.email, "role": "guest", "permissions": ["network.view", "client.remove"]}
    await offices.call("member_set", "office", api.MemberPut.model_validate(wish))
    mine, theirs = [(await who.ask("GET", f"/networks/office/access?user={bob.email}")).json() for who in (bob, ann)]
    assert mine["permissions"] == theirs["permissions"] and mine["groups"] == ["ops"] and mine["listed"]
    said = {p["permission"]: p for p in mine["permissions"]}
    assert [p for p in said if said[p]["allowed"]] == ["network.view", "client.remove"]
    assert said["client.register"]["given_by"] == [{"kind": "group", "name": "ops", "role": "member"}]
    assert said["client.register"]["taken_by"] == [{"kind": "policy", "name": None, "role": "guest"}]
    assert "group ops" in said["client.register"]["why"] and "last word" in said["client.register"]["why"]
    assert (theirs["user_id"], mine["user_id"]) == (None, bob.user), "of others an owner learns no ids"
    key = (await bob.ask("POST", "/api-keys", {"name": "cam", "scopes": ["network.view"]})).json()
    by_key = [
        (await bob.ask("GET", "/networks/office/access", token=key["key"])).json(),
        (await bob.ask("GET", f"/networks/office/access?key={key['id']}")).json(),
        (await offices.call("access_explain", "office", bob.email, key["id"])).model_dump(mode="json"),
    ]
    for answer in by_key:
        assert answer["api_key"] == "cam"
        assert [p["permission"] for p in answer["permissions"] if p["allowed"]] == ["network.view"]
        (taken,) = [p["taken_by"] for p in answer["permissions"] if p["permission"] == "client.remove"]
        assert taken == [{"kind": "api_key", "name": "cam", "role": None}]


async def test_of_foreign_networks_and_people_nothing_is_explained(offices: World) -> None:
    ann, bob = await person(offices, "ann", {"office": "member"}), await person(offices, "bob", {"lab": "owner"})
    foreign, absent = [await ann.ask("GET", f"/networks/{name}/access") for name in ("lab", "xxx")]
    assert foreign.status_code == absent.status_code == 404 and foreign.text.replace("lab", "xxx") == absent.text
    assert (await ann.ask("GET", f"/networks/office/access?user={bob.email}")).status_code == 403
    root = await person(offices, "root", admin=True)
    of_root = (await bob.ask("GET", f"/networks/lab/access?user={root.email}")).json()
    of_nobody = (await bob.ask("GET", "/networks/lab/access?user=nobody@example.org")).json()
    assert of_root | {"user": ""} == of_nobody | {"user": ""}, "an owner can't tell who administers from who is nobody"
    assert not any(p["allowed"] for p in of_root["permissions"])
    assert (await bob.ask("GET", "/networks/lab/access?user=usr_x")).status_code == 404
    assert (await root.ask("GET", "/networks/lab/access?user=nobody@example.org")).status_code == 404
    assert all(p["allowed"] for p in (await root.ask("GET", "/networks/lab/access")).json()["permissions"])
    key = (await bob.ask("POST", "/api-keys", {})).json()["id"]
    assert (await ann.ask("GET", f"/networks/office/access?key={key}")).json()["code"] == "api_key_unknown"
    assert (await refused(offices.call("access_explain", "lab"))).code == "user_missing"
    await offices.call("user_set", ann.email, accounts.UserPatch(disabled=True))
    said = (await offices.call("access_explain", "office", ann.email)).permissions
    assert not any(p.allowed for p in said)
    assert {s.kind for p in said for s in p.taken_by} == {"disabled"}


async def test_what_is_explained_is_what_happens(offices: World) -> None:
    """For each single permission in a list: the call that takes it is let through exactly when the explanation says so."""
    ann = await person(offices, "ann")
    await person(offices, "boss", {"office": "owner"})
    calls = {
        "network.configure": ("PATCH", "/networks/office", {"description": "x"}),
        "network.invite": ("POST", "/networks/office/invites", {"uses": 2}),
        "network.view": ("GET", "/networks/office", None),
        "client.register": ("POST", "/networks/office/invites", {}),
        "client.remove": ("DELETE", "/networks/office/clients/absent", None),
        "logs.view": ("GET", "/networks/office/logs", None),
        "network.delete": ("DELETE", "/networks/office", None),
    }
    for permissions in itertools.chain(([p] for p in calls if p != "network.delete"), [[], ["network.delete"]]):
        wish = {"email": ann.email, "role": "guest", "permissions": permissions}
        await offices.call("member_set", "office", api.MemberPut.model_validate(wish))
        said = (await ann.ask("GET", "/networks/office/access")).json()["permissions"]
        allowed = {p["permission"] for p in said if p["allowed"]}
        assert allowed == set(permissions)
        for permission, call in calls.items():
            status = (await ann.ask(*call)).status_code
            implied = permission == "client.register" and "network.invite" in allowed
            implied = implied or (permission == "client.remove" and "client.register" in allowed)
            assert (status != 403) == (permission in allowed or implied), (permissions, permission, status)
