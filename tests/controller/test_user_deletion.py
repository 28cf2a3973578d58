"""Deleting a user: what is theirs goes to somebody or keeps them, all else ends at once, and what they did stays told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from people import Person, person, signed_in

from shadowmesh.controller.store import schema
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.receivers import WebhookCreate

if TYPE_CHECKING:
    from tests.controller.conftest import World

HOOK = "https://1.1.1.1/x"


async def deleted(who: Person, user: Person, give_to: Person | None = None) -> tuple[int, dict[str, object]]:
    query = "" if give_to is None else f"?give_to={give_to.email}"
    answer = await who.ask("DELETE", f"/users/{user.email}{query}")
    return answer.status_code, answer.json()


async def test_all_that_is_a_users_own_ends_at_once_and_the_audit_log_keeps_them(world: World) -> None:
    await world.network()
    root = await person(world, "root", admin=True)
    anna = await person(world, "anna", {"office": "member"})
    await world.call("group_create", accounts.GroupCreate(name="ops"))
    await world.call("group_add", "ops", anna.email)
    key = (await anna.ask("POST", "/api-keys", {})).json()
    # what an administrator makes, who is none any more, ends by that; so she is one until the end
    await world.call("user_set", anna.email, accounts.UserPatch(admin=True))
    invite = (await anna.ask("POST", "/networks/office/invites", {})).json()["id"]
    token = (await anna.ask("POST", "/relays/tokens", {})).json()["id"]
    guest = (await anna.ask("POST", "/users/invitations", {"email": "guest@example.org"})).json()["id"]
    hook = (await anna.ask("POST", "/webhooks", {"url": HOOK})).json()["id"]
    async with anna.watching(network_id="office") as watch:
        status, said = await deleted(root, anna)
        assert status == 200, said
        assert (await watch.ended())[1] in ("not_signed_in", "not_allowed")
    assert said["memberships_ended"] == 1 and said["api_keys_ended"] == [key["id"]]
    assert (said["invites_ended"], said["relay_tokens_ended"]) == ([invite], [token])
    assert (said["invitations_ended"], said["sinks_ended"]) == ([guest], [hook])
    assert said["sessions_ended"] == [anna.session.session]
    assert (await anna.ask("GET", "/whoami")).status_code == 401
    assert (await anna.ask("GET", "/whoami", token=key["key"])).status_code == 401
    assert anna.email not in {user.email for user in await world.call("user_list")}
    assert [m for m in await world.call("member_list", "office") if m.email == anna.email] == []
    assert (await world.call("group_show", "ops")).users == []
    entries = (await root.ask("GET", "/audit")).json()["items"]
    assert {e["action"] for e in entries if e["actor"] == anna.email} >= {"invite.create", "webhook.create"}
    (entry,) = [e for e in entries if e["action"] == "user.delete"]
    assert (entry["actor"], entry["target"], entry["detail"]["sinks_ended"]) == (root.email, anna.email, [hook])
    assert (await root.ask("GET", "/audit/verify")).json()["ok"] is True


async def test_who_comes_again_under_the_same_address_has_nothing_of_before(world: World) -> None:
    await world.network()
    root, anna = await person(world, "root", admin=True), await person(world, "anna", {"office": "guest"})
    assert (await deleted(root, anna))[0] == 200
    made = await world.call("user_create", accounts.UserCreate(email=anna.email))
    again = await signed_in(world, made, "another password of anna")
    assert (await again.ask("GET", "/networks")).json()["networks"] == []
    assert (await again.ask("GET", "/api-keys")).json()["items"] == []


async def test_who_owns_networks_or_machines_stays_until_they_are_given_to_somebody(world: World) -> None:
    root = await person(world, "root", admin=True)
    anna, bob = await person(world, "anna", admin=True), await person(world, "bob")
    for name, subnet in (("alpha", "10.61.0.0/24"), ("beta", "10.62.0.0/24")):
        assert (await anna.ask("POST", "/networks", {"name": name, "subnet": subnet})).status_code == 201
    await world.call("user_set", anna.email, accounts.UserPatch(admin=False))
    await world.network("lent", "10.63.0.0/24")  # she is its last owner, and it is called as somebody else says
    await world.call("member_set", "lent", api.MemberPut(email=anna.email, role="owner"))
    invite = (await anna.ask("POST", "/networks/alpha/invites", {})).json()["invite"]
    await world.device().join(invite, name="laptop")
    hook = await anna.ask("POST", "/networks/alpha/webhooks", {"url": HOOK})
    status, said = await deleted(root, anna)
    assert (status, said["code"]) == (409, "user_has_networks")
    assert all(name in str(said["detail"]) for name in ("alpha", "beta", "lent")) and "--give-to" in str(said["remedy"])
    assert (await anna.ask("GET", "/whoami")).status_code == 200, "nothing of it was done"
    status, said = await deleted(root, anna, bob)
    assert status == 200 and (sorted(said["networks"]), said["clients"]) == (["alpha", "beta", "lent"], 1)
    mine = (await bob.ask("GET", "/networks")).json()["networks"]
    assert sorted(n["name"] for n in mine) == ["alpha", "beta", "lent"]
    (client,) = (await bob.ask("GET", "/networks/alpha/clients")).json()["clients"]
    assert (client["name"], client["owner"]) == ("laptop", bob.user)
    (sink,) = (await bob.ask("GET", "/webhooks")).json()["items"]
    assert (sink["id"], sink["state"], sink["created_by"]) == (hook.json()["id"], "ok", bob.email)
    assert (await bob.ask("PATCH", "/networks/lent", {"description": "his"})).status_code == 200


async def test_machines_alone_keep_a_user_too(world: World) -> None:
    await world.network()
    root, anna = await person(world, "root", admin=True), await person(world, "anna", {"office": "member"})
    invite = (await anna.ask("POST", "/networks/office/invites", {})).json()["invite"]
    await world.device().join(invite, name="laptop")
    status, said = await deleted(root, anna)
    assert (status, said["code"]) == (409, "user_has_clients") and "office (1)" in str(said["detail"])
    await world.call("client_remove", "office", "laptop")
    assert (await deleted(root, anna))[0] == 200


async def test_nobody_gets_two_networks_of_one_name(world: World) -> None:
    root, anna, bob = [await person(world, name, admin=True) for name in ("root", "anna", "bob")]
    for n, (who, name) in enumerate(((anna, "Home"), (bob, "home"))):
        answer = await who.ask("POST", "/networks", {"name": name, "subnet": f"10.6{n}.0.0/24"})
        assert answer.status_code == 201
    status, said = await deleted(root, anna, bob)
    assert (status, said["code"]) == (409, "network_exists") and "Home" in str(said["detail"])
    assert {user.email for user in await world.call("user_list")} >= {anna.email, bob.email}


async def test_the_last_administrator_stays_and_of_two_who_delete_each_other_one_does(world: World) -> None:
    (first,) = [user for user in await world.call("user_list") if user.admin]
    with pytest.raises(ShadowMeshError) as e:
        await world.call("user_delete", first.email)
    assert e.value.code == "last_admin"
    root, anna = await person(world, "root", admin=True), await person(world, "anna", admin=True)
    assert (await deleted(root, anna, anna))[1]["code"] == "bad_heir"
    await world.call("user_delete", first.email)
    statuses = [status for status, _ in await asyncio.gather(deleted(root, anna), deleted(anna, root))]
    assert sorted(statuses)[0] == 200 and sorted(statuses)[1] in (401, 403, 404, 409), statuses
    assert len([user for user in await world.call("user_list") if user.admin]) == 1


async def test_who_is_not_there_and_who_was_disabled_get_nothing(world: World) -> None:
    root, anna, bob = await person(world, "root", admin=True), await person(world, "anna"), await person(world, "bob")
    assert (await root.ask("DELETE", "/users/nobody@example.org")).status_code == 404
    assert (await root.ask("DELETE", f"/users/{anna.email}?give_to=nobody@example.org")).status_code == 404
    await world.call("user_set", bob.email, accounts.UserPatch(disabled=True))
    assert (await deleted(root, anna, bob))[1]["code"] == "bad_heir"
    assert (await deleted(root, bob))[0] == 200, "who was disabled before can be deleted"


async def test_an_invitation_to_the_address_ends_with_the_user(world: World) -> None:
    invited = await world.call("user_invite", accounts.UserInvite(email="anna@example.org"))
    root, anna = await person(world, "root", admin=True), await person(world, "anna")
    _, said = await deleted(root, anna)
    assert said["invitations_ended"] == [invited.id]
    assert await world.call("user_invitations") == []


async def test_no_row_is_left_that_means_them(world: World) -> None:
    await world.network()
    root, anna = await person(world, "root", admin=True), await person(world, "anna", {"office": "owner"})
    await anna.ask("POST", "/api-keys", {})
    await world.call("webhook_create", WebhookCreate(url=HOOK), "office")
    status, said = await deleted(root, anna, root)
    assert status == 200, said
    kept = {"audit", "revocations", "invites", "user_invitations", "usage_hours", "usage_days"}  # what happened
    found = []
    for table in schema.metadata.sorted_tables:
        for column in table.columns:
            if (
                table.name in kept
                or not isinstance(column.type, sa.String)
                or (column.primary_key and table.name == "audit")
            ):
                continue
            same = sa.select(sa.func.count()).select_from(table).where(column.in_([anna.user, anna.email]))
            if await world.at.context.read(lambda conn, same=same: conn.execute(same).scalar_one()):  # type: ignore[misc]
                found.append(f"{table.name}.{column.name}")
    assert found == []
