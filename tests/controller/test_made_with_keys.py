"""What was made with an API key ends with it; a network's own code is shown again, and made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from people import Person, person
from test_relays import register

from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.protocol.signing import Signer

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def made(who: Person, token: str) -> dict[str, Any]:
    """An invite, a relay token and an invitation of somebody, by this token."""
    found = {}
    for what, path, body in (
        ("invite", "/networks/office/invites", {"uses": 3}),
        ("token", "/relays/tokens", {"uses": 3}),
        ("invitation", "/users/invitations", {"email": f"x{len(token)}{token[-4:]}@example.org".lower()}),
    ):
        answer = await who.ask("POST", path, body, token=token)
        assert answer.status_code == 201, answer.text
        found[what] = answer.json()
    return found


@pytest.mark.parametrize("how", ["revoked", "the key that it was made with revoked", "password reset"])
async def test_what_was_made_with_a_key_ends_with_it(world: World, how: str) -> None:
    await world.network()
    root = await person(world, "root", admin=True)
    parent = (await root.ask("POST", "/api-keys", {"name": "parent"})).json()
    key = (await root.ask("POST", "/api-keys", {"name": "child"}, token=parent["key"])).json()
    by_key, by_session = await made(root, key["key"]), await made(root, root.token)
    registered = await register(world, Signer.generate(), by_key["token"]["token"])
    assert registered.status_code == 200
    if how == "password reset":
        await world.call("user_reset_password", root.email)
    else:
        gone = key if how == "revoked" else parent
        assert (await root.ask("DELETE", f"/api-keys/{gone['id']}")).status_code == 204
    states = {i.id: i.state for i in await world.invites()}
    assert states == {by_key["invite"]["id"]: "revoked", by_session["invite"]["id"]: "open"}
    with pytest.raises(ShadowMeshError) as refused:
        await world.device().join(by_key["invite"]["invite"])
    assert refused.value.code == "invite_revoked"
    assert (await register(world, Signer.generate(), by_key["token"]["token"])).json()["code"] == "relay_token_expired"
    assert (await register(world, Signer.generate(), by_session["token"]["token"])).status_code == 200
    assert [r.id for r in await world.call("relay_list")], "the relay that came by it before is one still"
    left = {i.id for i in await world.call("user_invitations")}
    assert left == {by_session["invitation"]["id"]}
    entry = next(
        e for e in reversed(await world.call("audit_list")) if e.action in ("api-key.revoke", "user.reset-password")
    )
    assert entry.detail["invites_ended"] == [by_key["invite"]["id"]]
    assert entry.detail["relay_tokens_ended"] == [by_key["token"]["id"]]
    assert entry.detail["invitations_ended"] == [by_key["invitation"]["id"]]


async def test_a_networks_code_is_shown_again_and_made_anew(world: World) -> None:
    first = (await world.network()).invitation_code
    shown = await world.call("code_show", "office")
    assert (shown.invitation_code, shown.state, shown.approval) == (first, "open", True)
    fresh = await world.call("code_regenerate", "office")
    assert fresh.invitation_code != first and (await world.call("code_show", "office")) == fresh
    states = {i.id: i.state for i in await world.call("invite_list", "office") if i.standing}
    assert states == {shown.invite_id: "revoked", fresh.invite_id: "open"}
    with pytest.raises(ShadowMeshError) as refused:
        await world.device().join(first)
    assert refused.value.code == "invite_revoked"
    joined = await world.device().join(fresh.invitation_code)
    assert joined.map is None, "who comes by it waits for approval"
    entry = next(e for e in reversed(await world.call("audit_list")) if e.action == "network.regenerate-code")
    assert (entry.detail["before"], entry.detail["after"]) == (
        {"invites": [shown.invite_id]},
        {"invites": [fresh.invite_id]},
    )
    assert fresh.invitation_code not in str(entry.detail)
    seen = [e for e in await world.call("audit_list") if e.action == "network.show-code"]
    assert [(e.target, e.detail["invite"]) for e in seen] == [("office", shown.invite_id), ("office", fresh.invite_id)]
    assert fresh.invitation_code not in str([e.detail for e in seen])
    await world.call("invite_revoke", "office", fresh.invite_id)
    with pytest.raises(ShadowMeshError) as gone:
        await world.call("code_show", "office")
    assert gone.value.code == "code_unknown" and "--regenerate" in gone.value.remedy
    assert (await world.call("code_regenerate", "office")).state == "open"


async def test_the_code_of_who_may_invite_no_more_ends_and_another_owner_makes_a_new_one(world: World) -> None:
    await world.network()
    ann, bob = await person(world, "ann", {"office": "owner"}), await person(world, "bob", {"office": "owner"})
    mine = (await ann.ask("POST", "/networks/office/code")).json()
    assert (await bob.ask("GET", "/networks/office/code")).json() == mine
    await world.call("member_set", "office", api.MemberPut(email=ann.email, role="member"))
    assert (await bob.ask("GET", "/networks/office/code")).json()["code"] == "code_unknown"
    assert (await bob.ask("POST", "/networks/office/code")).status_code == 200


async def test_a_key_that_runs_out_leaves_what_it_made(world: World) -> None:
    """Its time was set when it was made; an invite has a time of its own. Only what is taken away takes more with it."""
    await world.network()
    ann = await person(world, "ann", {"office": "owner"})
    key = (await ann.ask("POST", "/api-keys", {"expires_in": 60})).json()["key"]
    await ann.ask("POST", "/networks/office/invites", {}, token=key)
    world.clock.advance(minutes=2)
    assert [i.state for i in await world.invites()] == ["open"]
    i = schema.invites
    assert await world.at.context.read(
        lambda conn: conn.execute(sa.select(i.c.made_by).where(i.c.made_by.is_not(None))).scalar()
    )
