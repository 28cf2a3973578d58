"""The kept login, used by several commands at once."""

from __future__ import annotations

import asyncio
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from people import person

from shadowmesh.client_api import logins, signin
from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.logins import SavedLogin
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World

pytestmark = pytest.mark.usefixtures("login_home")


async def sign_in(world: World) -> None:
    first = world.first
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    options = {"email": first.admin_email, "password": first.admin_password}
    await asyncio.to_thread(signin.login, contact, **options, new_password="correct horse")


async def test_commands_that_started_together_renew_once(world: World) -> None:
    await sign_in(world)
    commands = [ControllerClient.saved() for _ in range(4)]
    world.clock.advance(minutes=11)  # the access token has run out
    names = [await asyncio.to_thread(lambda c=command: c.whoami().name) for command in commands]
    assert names == [world.first.admin_email] * 4
    world.clock.advance(minutes=11)
    with ControllerClient.saved() as later:
        assert await asyncio.to_thread(lambda: later.whoami().admin), "the session goes on"


async def test_commands_at_the_same_moment_stay_signed_in(world: World) -> None:
    await sign_in(world)

    def command(_: int) -> str:
        with ControllerClient.saved() as client:
            return client.whoami().name

    for _ in range(3):
        world.clock.advance(minutes=11)
        with ThreadPoolExecutor(8) as together:
            names = await asyncio.gather(*(asyncio.wrap_future(together.submit(command, i)) for i in range(8)))
        assert names == [world.first.admin_email] * 8


async def test_who_has_signed_out_meanwhile_is_not_signed_in_again(world: World) -> None:
    await sign_in(world)
    with ControllerClient.saved() as running:
        await asyncio.to_thread(signin.logout)
        world.clock.advance(minutes=11)
        with pytest.raises(ShadowMeshError) as caught:
            await asyncio.to_thread(running.whoami)
    assert caught.value.code == "not_signed_in" and not logins.login_path().exists()


async def test_a_place_that_cannot_be_written_is_named(world: World, login_home: Path) -> None:
    await asyncio.to_thread(login_home.write_text, "a file where the directory should be")
    with pytest.raises(ShadowMeshError) as caught:
        await sign_in(world)
    assert caught.value.code == "login_not_kept" and str(login_home) in caught.value.what


async def test_what_proves_that_one_signed_in_here_before_outlives_signing_out(world: World, login_home: Path) -> None:
    await sign_in(world)
    await asyncio.to_thread(signin.logout)
    for number in range(40):  # a stranger beside us, behind the same address
        with pytest.raises(ShadowMeshError):
            await world.at.signing_in.login(
                accounts.Login(email=world.first.admin_email, password=f"{number}"), "127.0.0.1"
            )
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    options = {"email": world.first.admin_email.upper(), "password": "correct horse"}
    assert (await asyncio.to_thread(signin.login, contact, **options)).admin
    kept = login_home / "shadowmesh" / "devices.json"
    assert stat.S_IMODE((await asyncio.to_thread(kept.stat)).st_mode) == 0o600


def saved(n: int, token: str = "t") -> SavedLogin:
    return SavedLogin(url=f"https://controller-{n}:8443", token=token, refresh_token="r", identity="{}")


def test_further_logins_stand_beside_that_of_commands(login_home: Path) -> None:
    one, two = saved(1), saved(2)
    with logins.locked():
        logins.keep_beside(one)
        logins.keep_beside(two)
    assert logins.load() == one and logins.known() == [one, two] and logins.find(two.url) == two
    with logins.locked():
        logins.keep_beside(saved(2, "newer"))
        logins.keep_beside(saved(1, "newer"))
    assert [login.token for login in logins.known()] == ["newer", "newer"] and logins.load().url == one.url
    with logins.locked():
        logins.keep(two)  # a command signs in there: it is once
    assert logins.known() == [two] and logins.find(one.url) is None
    assert {p.stat().st_mode & 0o777 for p in logins.login_path().parent.glob("*.json")} == {0o600}


def test_a_login_beside_is_forgotten_by_its_url_alone(login_home: Path) -> None:
    one, two = saved(1), saved(2)
    with logins.locked():
        logins.keep_beside(one)
        logins.keep_beside(two)
        logins.forget(two.url)
        logins.forget("https://nobody:1")
        assert logins.known() == [one]
        logins.keep_beside(two)
        logins.forget(one.url)
    assert logins.known() == [two] and not logins.login_path().exists()


async def test_a_login_beside_renews_itself_where_it_stands(world: World, login_home: Path) -> None:
    with logins.locked():
        logins.keep(saved(1))
    ann = await person(world, "ann")
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    sign_in = {"email": ann.email, "password": ann.password, "beside": True}
    await asyncio.to_thread(lambda: signin.login(contact, **sign_in))
    assert logins.load() == saved(1)
    kept = logins.find(world.url)
    assert kept is not None
    with logins.locked():
        logins.keep_beside(kept.model_copy(update={"token": "worn out"}))

    def ask() -> str:
        with ControllerClient.saved(world.url) as client:
            return client.whoami().name

    assert await asyncio.to_thread(ask) == ann.email
    renewed = logins.find(world.url)
    assert renewed is not None and renewed.token not in ("worn out", kept.token) and logins.load() == saved(1)
