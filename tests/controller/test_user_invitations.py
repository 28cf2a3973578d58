"""Invitations for people: good once, for a while, and as long as who made them may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa
from people import person, web

from shadowmesh.controller.store import schema
from shadowmesh.model import accounts

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def invited(world: World, email: str = "new@example.org", **more: Any) -> accounts.UserInvitationCreated:
    made = await world.call("user_invite", accounts.UserInvite(email=email, **more))
    assert isinstance(made, accounts.UserInvitationCreated)
    return made


async def accepted(world: World, token: str, password: str = "a password of hers") -> httpx.Response:
    async with web(world) as client:
        return await client.post("/api/v1/auth/accept-invitation", json={"token": token, "password": password})


async def code_of(world: World, token: str, **more: str) -> str:
    return str((await accepted(world, token, **more)).json()["code"])


async def test_who_accepts_is_signed_in_with_the_role_and_a_password_of_their_own(world: World) -> None:
    await world.network()
    made = await invited(world, network="office", network_role="owner")
    assert (made.fingerprint, made.url) == (world.fingerprint, world.url)
    answer = await accepted(world, made.token)
    assert answer.status_code == 200, answer.text
    async with web(world) as client:
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        assert (await client.patch("/api/v1/networks/office", json={"description": "hers"})).status_code == 200
    session = await world.at.signing_in.login(
        accounts.Login(email=made.email, password="a password of hers"), "192.0.2.7"
    )
    assert session.user == answer.json()["user"]
    entries = [(e.action, e.actor) for e in await world.call("audit_list") if e.target == made.email][:4]
    assert entries == [
        ("user.invite", "local"), ("user.add", made.email), ("member.set", made.email), ("auth.login", made.email)
    ]  # fmt: skip


async def test_it_is_good_once_also_for_two_at_the_same_moment(world: World) -> None:
    made = await invited(world, role="admin")
    together = await asyncio.gather(*(accepted(world, made.token) for _ in range(3)))
    assert sorted(a.status_code for a in together) == [200, 403, 403]
    assert await code_of(world, made.token) == "invitation_invalid"
    assert [u.admin for u in await world.call("user_list") if u.email == made.email] == [True]


async def test_it_runs_out_is_revoked_and_ends_with_its_makers_rights(world: World) -> None:
    old, taken_back = (
        await invited(world, "a@example.org"),
        await invited(world, "b@example.org", expires_in=90 * 86400),
    )
    root = await person(world, "root", admin=True)
    wish = {"email": "c@example.org", "expires_in": 90 * 86400}
    theirs = (await root.ask("POST", "/users/invitations", wish)).json()
    await world.call("user_invitation_revoke", taken_back.id)
    listed = await world.call("user_invitations")
    assert [i.id for i in listed] == [old.id, theirs["id"]] and "token" not in listed[0].model_dump()
    await world.call("user_set", root.email, accounts.UserPatch(admin=False))
    world.clock.advance(days=7, seconds=1)
    for token in (old.token, taken_back.token, theirs["token"], "smu_x", old.token[:-1]):
        assert await code_of(world, token) == "invitation_invalid"
    assert await world.call("user_invitations") == []


async def test_a_weak_password_uses_nothing_up(world: World) -> None:
    made = await invited(world)
    assert await code_of(world, made.token, password="password123") == "weak_password"
    assert (await accepted(world, made.token)).status_code == 200


async def test_whose_address_is_taken_is_not_invited_and_the_token_is_kept_hashed(world: World) -> None:
    ann = await person(world, "ann", admin=True)
    twice = await ann.ask("POST", "/users/invitations", {"email": ann.email})
    assert (twice.status_code, twice.json()["code"]) == (409, "user_exists")
    made = await invited(world)
    await world.call("user_create", accounts.UserCreate(email=made.email))
    assert await code_of(world, made.token) == "user_exists"
    rows = await world.at.context.read(lambda conn: conn.execute(sa.select(schema.user_invitations)).all())
    assert made.token not in str(rows) and made.token not in str(await world.call("audit_list"))


async def test_guesses_are_limited(world: World) -> None:
    made = await invited(world)
    codes = [await code_of(world, f"smu_{n}") for n in range(14)]
    assert codes[:10] == ["invitation_invalid"] * 10 and "rate_limited" in codes[10:]
    world.clock.advance(minutes=5)
    assert (await accepted(world, made.token)).status_code == 200


async def test_a_network_that_is_gone_keeps_nobody_out(world: World) -> None:
    await world.network()
    made = await invited(world, network="office", network_role="guest")
    await world.call("network_delete", "office")
    assert (await accepted(world, made.token)).status_code == 200
    root = await person(world, "root", admin=True)
    half = await root.ask("POST", "/users/invitations", {"email": "x@example.org", "network_role": "guest"})
    assert half.status_code == 422
