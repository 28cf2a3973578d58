"""Rights end when they end: on open connections, for every credential, on every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from people import person, signed_in, web

from shadowmesh.controller.authz import Permission, Principal
from shadowmesh.controller.service import api_keys, authenticators
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def refused(attempt: Any) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as caught:
        await attempt
    return caught.value


async def touch(world: World, network: str = "office") -> None:
    """Something that subscribers of the network hear of."""
    await world.call("network_set", network, api.NetworkPatch(description="touched"))


async def test_a_removed_members_subscription_ends_before_the_next_event(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "guest"})
    async with ann.watching(network_id="office") as watch:
        await touch(world)
        await watch.until("network_changed", change="set")
        await world.call("member_remove", "office", ann.email)
        await world.call("network_set", "office", api.NetworkPatch(description="secret"))
        heard = len(watch.told)
        assert await watch.ended() == (4003, "network_unknown")
        assert [m["type"] for m in watch.told[heard:]] == ["error"]


async def test_a_subscription_to_everything_follows_what_one_may_see(world: World) -> None:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    ann = await person(world, "ann", {"office": "guest"})
    async with ann.watching() as watch:
        await touch(world, "lab")
        await world.call("member_set", "lab", api.MemberPut(email=ann.email, role="member"))
        await world.call("member_remove", "office", ann.email)
        await touch(world, "office")
        await touch(world, "lab")
        lab = await world.call("network_show", "lab")
        await watch.until("network_changed", change="set")
        assert {m["network_id"] for m in watch.told if m["type"] == "network_changed"} == {lab.network_id}
        assert len([m for m in watch.told if m["type"] == "network_changed"]) == 1, "what came before is not told"


async def test_a_disabled_users_socket_closes(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    async with ann.watching() as all_of_it, ann.watching(network_id="office") as one:
        await world.call("user_set", ann.email, accounts.UserPatch(disabled=True))
        assert await all_of_it.ended() == (4401, "not_signed_in")
        assert await one.ended() == (4401, "not_signed_in")


async def test_an_expired_tokens_socket_ends(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    key = (await ann.ask("POST", "/api-keys", {"expires_in": 60})).json()["key"]
    async with ann.watching(token=key) as by_key, ann.watching() as by_token:
        world.clock.advance(seconds=61)
        assert await by_key.ended() == (4401, "not_signed_in")
        await touch(world)
        await by_token.until("network_changed")
        world.clock.advance(minutes=10)
        assert await by_token.ended() == (4401, "not_signed_in")


async def test_an_administrator_who_is_one_no_longer_hears_of_their_own_networks_only(world: World) -> None:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    root = await person(world, "root", {"lab": "guest"}, admin=True)
    async with root.watching() as watch:
        await touch(world, "office")
        await watch.until("network_changed", change="set")
        await world.call("user_set", root.email, accounts.UserPatch(admin=False))
        await touch(world, "office")
        await touch(world, "lab")
        lab = await world.call("network_show", "lab")
        assert (await watch.until("network_changed", change="set"))["network_id"] == lab.network_id


async def test_signing_out_ends_the_access_token_too(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    async with ann.watching() as watch:
        await ann.ask("POST", "/auth/logout", {"refresh_token": ann.session.refresh_token})
        assert await watch.ended() == (4401, "not_signed_in")
    assert (await ann.ask("GET", "/networks")).status_code == 401


async def test_a_password_reset_ends_all_that_was_given_out_before(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    key = (await ann.ask("POST", "/api-keys", {"name": "backup"})).json()["key"]
    assert (await ann.ask("GET", "/networks", token=key)).status_code == 200
    async with ann.watching() as by_token, ann.watching(token=key) as by_key:
        made = await world.call("user_reset_password", ann.email)
        assert await by_token.ended() == (4401, "not_signed_in")
        assert await by_key.ended() == (4401, "not_signed_in")
    for token in (ann.token, key):
        assert (await ann.ask("GET", "/networks", token=token)).status_code == 401
    assert (await ann.ask("POST", "/auth/refresh", {"refresh_token": ann.session.refresh_token})).status_code == 401
    again = await signed_in(world, made, "another password")
    assert (await again.ask("GET", "/networks")).status_code == 200
    assert (await again.ask("GET", "/api-keys")).json()["items"] == []


async def test_a_login_that_a_reset_overtakes_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await person(world, "ann")
    verify = authenticators.hash_password  # called after the old password was found right

    def reset_meanwhile(password: str) -> str:
        with world.at.context.store.engine.begin() as conn:
            conn.execute(schema.users.update().values(password_hash="reset", must_change=True))
        return verify(password)

    monkeypatch.setattr(authenticators, "hash_password", reset_meanwhile)
    wish = accounts.Login(email=ann.email, password=ann.password, new_password="one more password")
    assert (await refused(world.at.signing_in.login(wish, "192.0.2.7"))).code == "bad_credentials"


async def test_a_new_password_of_ones_own_ends_other_sessions_and_keeps_keys(world: World) -> None:
    ann = await person(world, "ann")
    key = (await ann.ask("POST", "/api-keys", {})).json()["key"]
    wish = {"email": ann.email, "password": ann.password, "new_password": "a fresh password"}
    fresh = (await ann.ask("POST", "/auth/login", wish)).json()["access_token"]
    assert [(await ann.ask("GET", "/whoami", token=t)).status_code for t in (ann.token, fresh, key)] == [401, 200, 200]


async def test_a_network_that_has_owners_keeps_one(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "owner"})
    alone = [
        await ann.ask("DELETE", f"/networks/office/members/{ann.user}"),
        await ann.ask("PUT", "/networks/office/members", {"email": ann.email, "role": "member"}),
    ]
    assert [(a.status_code, a.json()["code"]) for a in alone] == [(409, "last_owner")] * 2
    bob = await person(world, "bob", {"office": "owner"})
    assert (await ann.ask("DELETE", f"/networks/office/members/{ann.email}")).status_code == 204
    assert (await bob.ask("DELETE", f"/networks/office/members/{bob.email}")).status_code == 409


async def test_who_may_no_longer_invite_leaves_no_open_invite_behind(world: World) -> None:
    await world.network()
    ann, bob, eve = [await person(world, name, {"office": "owner"}) for name in ("ann", "bob", "eve")]
    theirs = [(await p.ask("POST", "/networks/office/invites", {"uses": 9})).json()["id"] for p in (ann, bob, eve)]
    ours = (await world.invite()).id
    await world.call("member_remove", "office", ann.email)
    await world.call("member_set", "office", api.MemberPut(email=bob.email, role="member"))
    await world.call("user_set", eve.email, accounts.UserPatch(disabled=True))
    states = {i.id: i.state for i in await world.invites("office")}
    assert states == dict.fromkeys(theirs, "revoked") | {ours: "open"}


async def test_who_is_no_administrator_any_more_leaves_no_way_in_behind(world: World) -> None:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    root = await person(world, "root", {"lab": "owner"}, admin=True)
    made = {n: (await root.ask("POST", f"/networks/{n}/invites", {})).json()["id"] for n in ("office", "lab")}
    by_key = (await root.ask("POST", "/api-keys", {"name": "100%"})).json()["key"]
    tokens = [(await root.ask("POST", "/relays/tokens", {}, token=t)).json()["id"] for t in (root.token, by_key)]
    ours = await world.call("relay_token")
    await world.call("user_set", root.email, accounts.UserPatch(admin=False))
    assert [(await world.invites(n))[0].state for n in ("office", "lab")] == ["revoked", "open"]
    t = schema.relay_tokens
    left = await world.at.context.read(lambda c: dict(c.execute(sa.select(t.c.id, t.c.uses_left)).all()))  # type: ignore[arg-type]
    assert left == dict.fromkeys(tokens, 0) | {ours.id: 1}
    assert made["lab"]


async def test_an_earlier_answer_is_not_given_again_to_who_may_not_ask_any_more(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "owner"})
    await person(world, "bob", {"office": "owner"})
    async with web(world) as client:
        client.headers.update({"Authorization": f"Bearer {ann.token}", "Idempotency-Key": "one"})
        made = [await client.post("/api/v1/networks/office/invites", json={}) for _ in range(2)]
        assert made[0].json() == made[1].json() and made[0].status_code == 201
        await world.call("member_remove", "office", ann.email)
        assert (await client.post("/api/v1/networks/office/invites", json={})).status_code == 404


@pytest.mark.parametrize(
    ("verb", "needed"),
    [
        ("approve", Permission.NETWORK_INVITE),
        ("deny", Permission.NETWORK_INVITE),
        ("set", Permission.NETWORK_CONFIGURE),
        ("remove", Permission.CLIENT_REMOVE),
    ],
)
async def test_what_is_done_to_a_client_needs_its_own_permission(world: World, verb: str, needed: Permission) -> None:
    await world.network(approval=True)
    await world.device().join((await world.invite()).invite)
    more = {"set": [api.ClientPatch(name="desk")]}.get(verb, [])
    act = getattr(world.at.clients, verb)
    without = Principal("ann", "usr_x", admin=True, scopes=frozenset(Permission) - {needed})
    assert (await refused(act(without, "office", "laptop", *more))).code == "not_allowed"
    await act(Principal("ann", "usr_x", admin=True, scopes=frozenset({needed})), "office", "laptop", *more)


async def test_a_member_brings_in_and_takes_out_a_machine_of_their_own(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    for more in ({"uses": 2}, {"ip": "10.42.0.9"}, {"tags": ["server"]}, {"expires_in": 30 * 86400}):
        answer = await ann.ask("POST", "/networks/office/invites", more)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), more
    await world.invite()
    made = (await ann.ask("POST", "/networks/office/invites", {"client_name": "notebook"})).json()
    assert [i["id"] for i in (await ann.ask("GET", "/networks/office/invites")).json()["items"]] == [made["id"]]
    await world.device().join(made["invite"])
    assert (await world.call("client_show", "office", "notebook")).owner == ann.user
    await world.device().join((await world.invite()).invite)
    other = await ann.ask("DELETE", "/networks/office/clients/laptop")
    assert (other.status_code, other.json()["code"]) == (403, "not_allowed")
    assert (await ann.ask("DELETE", "/networks/office/clients/notebook")).status_code == 204
    guest = await person(world, "bob", {"office": "guest"})
    assert (await guest.ask("POST", "/networks/office/invites", {})).status_code == 403


async def test_the_log_is_for_who_may_read_it(world: World) -> None:
    await world.network()
    guest = await person(world, "gus", {"office": "guest"})
    member = await person(world, "meg", {"office": "member"})
    await touch(world)
    async with guest.watching(network_id="office", since=0) as watch:
        await watch.until("network_changed", change="set")  # what a short absence missed
    assert (await guest.ask("GET", "/events?network=office")).status_code == 403
    assert (await guest.ask("GET", "/events")).json()["items"] == []
    assert (await member.ask("GET", "/events?network=office")).json()["items"]
    world.clock.advance(minutes=9)
    guest = await signed_in(world, await world.call("user_reset_password", guest.email), "one more password")
    world.clock.advance(minutes=2)
    async with guest.watching(network_id="office", since=0) as watch:
        await world.call("network_set", "office", api.NetworkPatch(p2p_enabled=False))
        await watch.until("network_changed", change="set")
        assert len(watch.told) == 2, "the week before is the log's"


async def test_what_was_missed_comes_whole_though_rights_change_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    for _ in range(3):
        await touch(world)
    await world.at.events.flush()
    ann = await person(world, "ann", {"office": "member"})
    since, asked = world.at.events.since, []

    async def doubted(*args: Any) -> Any:
        found = await since(*args)
        if not asked:
            world.at.watchers.changed(ann.user)
        asked.append(args)
        return found

    monkeypatch.setattr(world.at.events, "since", doubted)
    async with ann.watching(since=0) as watch:
        for _ in range(3):
            await watch.until("network_changed", change="set")


async def test_an_owner_nobody_can_sign_in_as_is_none_to_who_may_know(world: World) -> None:
    """An administrator leaves no network to someone disabled or to nobody; an owner can't tell one address from another."""
    await world.network()
    ann, bob = await person(world, "ann", {"office": "owner"}), await person(world, "bob", {"office": "owner"})
    await world.call("user_set", bob.email, accounts.UserPatch(disabled=True))
    ghost = {"email": "nobody@example.org", "role": "owner"}
    assert (await ann.ask("PUT", "/networks/office/members", ghost)).status_code == 200
    for attempt in (
        world.call("member_remove", "office", ann.email),
        world.call("member_set", "office", api.MemberPut(email=ann.email, role="guest")),
    ):
        with pytest.raises(ShadowMeshError) as caught:
            await attempt
        assert caught.value.code == "last_owner"
    assert (await ann.ask("DELETE", f"/networks/office/members/{bob.email}")).status_code == 204
    assert (await ann.ask("DELETE", f"/networks/office/members/{ann.email}")).status_code == 204, (
        "as if it were someone"
    )


async def test_a_key_made_with_a_key_ends_with_it(world: World) -> None:
    ann = await person(world, "ann")
    parent = (await ann.ask("POST", "/api-keys", {"expires_in": 3600})).json()
    made, token = [], parent["key"]
    for wish in ({}, {"expires_in": 86400}, {"expires_in": 60}):
        made.append((await ann.ask("POST", "/api-keys", wish, token=token)).json())
        token = made[0]["key"]  # of the third generation
    ends = [key["expires_at"] for key in made]
    assert ends[:2] == [parent["expires_at"]] * 2 and ends[2] < parent["expires_at"]
    assert (await ann.ask("DELETE", f"/api-keys/{parent['id']}")).status_code == 204
    assert [(await ann.ask("GET", "/whoami", token=key["key"])).status_code for key in made] == [401] * 3


async def test_there_is_an_end_to_one_users_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MOST_KEYS", 2)
    ann = await person(world, "ann")
    made = [await ann.ask("POST", "/api-keys", {"expires_in": 60}) for _ in range(3)]
    assert [m.status_code for m in made] == [201, 201, 409] and made[2].json()["code"] == "api_keys_full"
    world.clock.advance(seconds=61)
    assert (await ann.ask("POST", "/api-keys", {})).status_code == 201, "those that ran out don't count"


async def test_the_map_of_a_network_deleted_meanwhile_is_not_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    root = await person(world, "root", admin=True)
    show = world.at.networks.show

    async def deleted_then(*args: Any) -> Any:
        found = await show(*args)
        await world.call("network_delete", "office")
        return found

    monkeypatch.setattr(world.at.networks, "show", deleted_then)
    answer = await root.ask("GET", "/networks/office/map")
    assert (answer.status_code, answer.json()["code"]) == (404, "network_unknown")


@pytest.mark.parametrize(
    "email",
    ["jos\u00e9@example.org", "jose\u0301@example.org", "\u0130@example.org", "sales/emea@example.org", "a%2fb@example.org",
     "x" * 64 + "@" + "y" * 255, "o" * 64 + "@" + "\u0958" * 255],
    ids=["composed", "decomposed", "longer in lower case", "slash", "percent", "longest", "longer when composed"],
)  # fmt: skip
async def test_whatever_address_is_given_a_role_it_can_be_taken_away(world: World, email: str) -> None:
    await world.network()
    owner = await person(world, "olga", {"office": "owner"})
    put = await owner.ask("PUT", "/networks/office/members", {"email": email, "role": "guest"})
    assert put.status_code == 200, put.text
    for named in {email, put.json()["email"]}:
        await owner.ask("PUT", "/networks/office/members", {"email": email, "role": "guest"})
        gone = await owner.ask("DELETE", f"/networks/office/members/{quote(named, safe='')}")
        assert gone.status_code == 204, gone.text
    left = await owner.ask("GET", "/networks/office/members")
    assert [m["email"] for m in left.json()["items"]] == [owner.email]


async def test_one_address_is_one_user_however_its_accents_are_written(world: World) -> None:
    """Keyboards and file systems differ in it, and nobody sees it."""
    await world.network()
    made = await world.call("user_create", accounts.UserCreate(email="Jose\u0301/x@example.org"))
    with pytest.raises(ShadowMeshError) as refused:
        await world.call("user_create", accounts.UserCreate(email="jos\u00e9/x@example.org"))
    assert refused.value.code == "user_exists"
    await world.call("member_set", "office", api.MemberPut(email="jos\u00e9/x@example.org", role="member"))
    for name in ("jose\u0301/x@example.org", "JOS\u00c9/X@example.org", made.id):
        assert (await world.call("user_set", name, accounts.UserPatch(disabled=False))).id == made.id
        assert (await world.call("user_reset_password", name)).id == made.id
    await world.call("member_remove", "office", "jose\u0301/x@example.org")
    assert await world.call("member_list", "office") == []
