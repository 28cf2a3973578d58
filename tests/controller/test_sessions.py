"""Sessions of people: what a refresh token gives, once and a moment longer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def sign_in(world: World) -> api.Session:
    first = world.first
    wish = api.Login(email=first.admin_email, password=first.admin_password, new_password="correct horse")
    return await world.at.sessions.login(wish, "192.0.2.1")


async def code_of(attempt: Any) -> str:
    with pytest.raises(ShadowMeshError) as caught:
        await attempt
    return caught.value.code


async def test_a_refresh_token_used_twice_in_a_moment_gives_the_same_successor(world: World) -> None:
    first = await sign_in(world)
    refresh = world.at.sessions.refresh
    together = await asyncio.gather(*(refresh(first.refresh_token) for _ in range(10)))
    assert len({session.refresh_token for session in together}) == 1
    world.clock.advance(seconds=20)
    again = await refresh(first.refresh_token)
    assert again.refresh_token == together[0].refresh_token != first.refresh_token
    assert (await refresh(again.refresh_token)).refresh_token not in (first.refresh_token, again.refresh_token)


async def test_one_used_again_later_was_stolen_and_ends_its_family(world: World) -> None:
    first = await sign_in(world)
    refresh = world.at.sessions.refresh
    second = await refresh(first.refresh_token)
    third = await refresh(second.refresh_token)
    world.clock.advance(seconds=31)
    assert await code_of(refresh(first.refresh_token)) == "session_expired"
    assert await code_of(refresh(third.refresh_token)) == "session_expired", "all of the family end"
    assert any(entry.action == "auth.refresh-reused" for entry in await world.call("audit_list"))
