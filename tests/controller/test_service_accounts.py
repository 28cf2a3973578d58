"""Service accounts: what programs sign in as. They have API keys, and no other way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from people import person

from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def service(world: World, **more: bool) -> accounts.UserCreated:
    wish = accounts.UserCreate(email="backup@example.org", kind="service", **more)
    made = await world.call("user_create", wish)
    assert isinstance(made, accounts.UserCreated) and made.password is None
    return made


async def code_of(world: World, method: str, *arguments: object) -> str:
    with pytest.raises(ShadowMeshError) as caught:
        await world.call(method, *arguments)
    return caught.value.code


async def test_its_keys_are_made_by_an_administrator_and_have_its_rights(world: World) -> None:
    await world.network()
    made = await service(world)
    await world.call("member_set", "office", api.MemberPut(email=made.email, role="guest"))
    root, ann = await person(world, "root", admin=True), await person(world, "ann", {"office": "owner"})
    key = (await root.ask("POST", "/api-keys", {"user": made.email, "name": "nightly"})).json()
    assert key["user"] == made.email
    seen = await root.ask("GET", "/networks", token=key["key"])
    assert [n["name"] for n in seen.json()["networks"]] == ["office"]
    assert (await root.ask("PATCH", "/networks/office", {"description": "theirs"}, token=key["key"])).status_code == 403
    assert (await ann.ask("POST", "/api-keys", {"user": made.email})).status_code == 403
    person_s = await root.ask("POST", "/api-keys", {"user": ann.email})
    assert (person_s.status_code, person_s.json()["code"]) == (409, "not_a_service"), "nobody gets a key of a person"


async def test_it_has_no_password_and_gets_none(world: World) -> None:
    made = await service(world)
    assert await code_of(world, "user_reset_password", made.email) == "service_account"
    for password in ("x", "", "None"):
        with pytest.raises(ShadowMeshError) as caught:
            wish = accounts.Login.model_construct(
                email=made.email, password=password, new_password=None, device_token=None
            )
            await world.at.signing_in.login(wish, "192.0.2.7")
        assert caught.value.code == "bad_credentials", "as for nobody"


async def test_it_is_not_whom_a_controller_or_a_network_is_left_to(world: World) -> None:
    await world.network()
    made = await service(world, admin=True)
    assert await code_of(world, "user_set", world.first.admin_email, accounts.UserPatch(disabled=True)) == "last_admin"
    ann = await person(world, "ann", {"office": "owner"})
    await world.call("member_set", "office", api.MemberPut(email=made.email, role="owner"))
    assert await code_of(world, "member_remove", "office", ann.email) == "last_owner"


async def test_its_keys_end_with_the_key_that_made_them(world: World) -> None:
    await world.network()
    made = await service(world)
    await world.call("member_set", "office", api.MemberPut(email=made.email, role="guest"))
    root = await person(world, "root", admin=True)
    parent = (await root.ask("POST", "/api-keys", {})).json()
    child = (await root.ask("POST", "/api-keys", {"user": made.email}, token=parent["key"])).json()
    async with root.watching(token=child["key"], network_id="office") as watch:
        await root.ask("DELETE", f"/api-keys/{parent['id']}")
        assert await watch.ended() == (4401, "not_signed_in")
    assert (await root.ask("GET", "/networks", token=child["key"])).status_code == 401
