"""Sessions of people: what a refresh token gives, once and a moment longer."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from people import person

from shadowmesh.controller.authz import LOCAL
from shadowmesh.controller.service import authenticators
from shadowmesh.controller.service.limits import TooMany
from shadowmesh.controller.service.passwords import PasswordWorker
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def sign_in(world: World) -> accounts.Session:
    first = world.first
    wish = accounts.Login(email=first.admin_email, password=first.admin_password, new_password="correct horse")
    return await world.at.signing_in.login(wish, "192.0.2.1")


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


@pytest.mark.parametrize("addresses", [1, 60])
async def test_strangers_guesses_keep_the_owner_out_from_nowhere(
    world: World, monkeypatch: pytest.MonkeyPatch, addresses: int
) -> None:
    session = await sign_in(world)
    email = world.first.admin_email
    monkeypatch.setattr(authenticators, "verify_password", lambda stored, password: password == "correct horse")
    codes: set[str] = set()
    for number in range(addresses * 40):
        guess = world.at.signing_in.login(
            accounts.Login(email=email, password=f"{number}"), f"198.51.100.{number % addresses}"
        )
        codes.add(await code_of(guess))
    assert codes == {"bad_credentials", "rate_limited"}
    owner = {"email": email, "password": "correct horse"}
    at_home = await world.at.signing_in.login(accounts.Login(**owner), "192.0.2.1")
    elsewhere = await world.at.signing_in.login(accounts.Login(**owner), "203.0.113.9")
    beside_a_stranger = accounts.Login(**owner, device_token=session.device_token)
    again = await world.at.signing_in.login(beside_a_stranger, "198.51.100.0")
    assert {s.user for s in (at_home, elsewhere, again)} == {session.user}


async def test_a_device_token_is_of_one_user_and_has_its_own_limit(world: World) -> None:
    session = await sign_in(world)
    email, at = world.first.admin_email, world.at.signing_in
    assert session.device_token is not None
    device, _, proof = session.device_token.partition(".")
    other_proof = ("1" if proof[0] == "0" else "0") + proof[1:]
    for number in range(10):  # the source's attempts are used up
        await code_of(at.login(accounts.Login(email=f"nobody{number}@example.org", password="x"), "198.51.100.1"))
    for forged in (f"{device}x.{proof}", f"{device}.{other_proof}", device, ".", "x" * 200):
        wish = accounts.Login(email=email, password="x", device_token=forged)
        assert await code_of(at.login(wish, "198.51.100.1")) == "rate_limited"
    other = accounts.Login(email="nobody@example.org", password="x", device_token=session.device_token)
    assert await code_of(at.login(other, "198.51.100.1")) == "rate_limited"
    mine = accounts.Login(email=email, password="x", device_token=session.device_token)
    codes = [await code_of(at.login(mine, "198.51.100.1")) for _ in range(12)]
    assert codes == ["bad_credentials"] * 10 + ["rate_limited"] * 2, "who stole it can't guess without end"


async def test_a_password_reset_ends_what_the_old_one_gave_to_devices_and_sources(world: World) -> None:
    """Else a thief of the old one keeps attempts of his own at the new one."""
    session = await sign_in(world)
    email, at = world.first.admin_email, world.at.signing_in
    await world.call("user_reset_password", email)
    for number in range(10):  # these sources' attempts are used up
        for source in ("192.0.2.1", "198.51.100.1"):
            await code_of(at.login(accounts.Login(email=f"nobody{number}@example.org", password="x"), source))
    wish = accounts.Login(email=email, password="x", device_token=session.device_token)
    assert await code_of(at.login(wish, "198.51.100.1")) == "rate_limited", "the device"
    assert await code_of(at.login(accounts.Login(email=email, password="x"), "192.0.2.1")) == "rate_limited", (
        "the source"
    )


async def test_passwords_are_checked_one_at_a_time_and_every_source_has_its_turn() -> None:
    worker, order, running = PasswordWorker(), [], 0
    gate = threading.Event()

    def work(name: str) -> str:
        nonlocal running
        running += 1
        assert running == 1
        gate.wait(5)
        order.append(name)
        running -= 1
        return name

    async def ask(source: str, *, known: bool = False) -> str:
        return await worker.run(source, lambda: work(source), known=known)

    asked = [asyncio.create_task(ask("stranger")) for _ in range(9)]
    await asyncio.sleep(0)
    asked += [asyncio.create_task(ask("owner")), asyncio.create_task(ask("at home", known=True))]
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await ask("stranger")
    asked[5].cancel()
    gate.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert order[:4] == ["stranger", "at home", "stranger", "owner"]
    assert order.count("stranger") == 8
    assert await ask("afterwards") == "afterwards"
    worker.close()


async def test_an_api_key_signs_in_where_the_database_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: Any) -> Any:
        raise StorageFailed(sa.exc.OperationalError("x", {}, Exception("attempt to write a readonly database")))

    keys, key = world.at.api_keys, world.first.api_key
    with monkeypatch.context() as broken:
        broken.setattr(world.at.context.store, "write", fails)
        for _ in range(3):
            assert (await keys.principal(key)) is not None
        with pytest.raises(StorageFailed):
            await keys.note_used()
    await keys.note_used()
    (kept,) = await world.at.context.read(
        lambda conn: conn.execute(sa.select(schema.api_keys.c.last_used)).scalars().all()
    )
    assert kept is not None, "what couldn't be noted is noted later"


async def test_when_an_api_key_was_used_is_written_for_many_uses_at_once(world: World) -> None:
    writes = 0
    write = world.at.context.store.write

    async def counted(tx: Any) -> Any:
        nonlocal writes
        writes += "LastUses" in tx.__qualname__
        return await write(tx)

    with patch.object(world.at.context.store, "write", counted):
        for _ in range(5):
            world.clock.advance(minutes=2)
            await world.at.api_keys.principal(world.first.api_key)
        assert writes == 0
        (shown,) = await world.at.api_keys.list(LOCAL)
        assert shown.last_used is not None and world.clock() - shown.last_used < dt.timedelta(minutes=1)
        await world.at.api_keys.note_used()
        await world.at.api_keys.note_used()
        assert writes == 1
    (listed,) = await world.at.api_keys.list(LOCAL)
    assert listed.last_used == shown.last_used


async def test_sessions_are_listed_with_where_and_what_and_the_one_that_asks(world: World) -> None:
    ann = await person(world, "ann")
    wish = {"email": ann.email, "password": ann.password, "client_name": "laptop"}
    again = (await ann.ask("POST", "/auth/login", wish)).json()
    (first, second) = (await ann.ask("GET", "/sessions")).json()["items"]
    assert (first["source"], first["client"], first["current"]) == ("192.0.2.7", "", True)
    assert (second["source"], second["client"], second["current"]) == ("127.0.0.1", "laptop", False)
    assert second["id"] == again["session"] and {s["user"] for s in (first, second)} == {ann.email}
    seen = world.clock()
    world.clock.advance(minutes=5)
    await ann.ask("GET", "/whoami", token=again["access_token"])
    await world.at.sessions.note_used()
    used = {s.id: s.last_used for s in await world.call("session_list", ann.email)}
    assert used[second["id"]] > seen + dt.timedelta(minutes=4) > used[first["id"]]
    other = (await ann.ask("POST", "/auth/login", {"email": ann.email, "password": ann.password})).json()["session"]
    by_agent = {s.id: s.client for s in await world.call("session_list", ann.email)}[other]
    assert by_agent.startswith("python-httpx/")


async def test_ending_a_session_ends_its_tokens_and_its_sockets_and_no_others(world: World) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "member"})
    wish = {"email": ann.email, "password": ann.password}
    stolen = (await ann.ask("POST", "/auth/login", wish)).json()
    async with ann.watching(token=stolen["access_token"]) as theirs, ann.watching() as hers:
        assert (await ann.ask("DELETE", f"/sessions/{stolen['session']}")).status_code == 204
        assert await theirs.ended() == (4401, "not_signed_in")
        await world.call("network_set", "office", api.NetworkPatch(description="touched"))
        await hers.until("network_changed", change="set")
    assert (await ann.ask("GET", "/whoami", token=stolen["access_token"])).status_code == 401
    assert await code_of(world.at.sessions.refresh(stolen["refresh_token"])) == "session_expired"
    (entry,) = [e for e in await world.call("audit_list") if e.action == "auth.end-session"]
    assert (entry.actor, entry.target, entry.detail["session"]) == (ann.email, ann.email, stolen["session"])


async def test_anothers_session_is_none_but_for_administrators(world: World) -> None:
    ann, bob, root = [await person(world, name, admin=name == "root") for name in ("ann", "bob", "root")]
    theirs = ann.session.session
    other, absent = [await bob.ask("DELETE", f"/sessions/{name}") for name in (theirs, "ses_nobody")]
    assert other.status_code == 404 and other.text == absent.text.replace("ses_nobody", theirs)
    assert (await bob.ask("GET", f"/sessions?user={ann.email}")).status_code == 403
    key = (await ann.ask("POST", "/api-keys", {"scopes": ["network.view"]})).json()["key"]
    assert (await ann.ask("GET", "/sessions", token=key)).json()["items"] == []
    assert (await ann.ask("DELETE", f"/sessions/{theirs}", token=key)).status_code == 404, (
        "a key with limits isn't for it"
    )
    listed = (await root.ask("GET", f"/sessions?user={ann.email}")).json()["items"]
    assert [s["id"] for s in listed] == [theirs]
    assert (await root.ask("DELETE", f"/sessions/{theirs}")).status_code == 204
    assert (await ann.ask("GET", "/whoami")).status_code == 401


async def test_a_session_goes_on_as_long_as_it_is_used(world: World) -> None:
    session = await sign_in(world)
    for _ in range(3):
        world.clock.advance(days=20)
        session = await world.at.sessions.refresh(session.refresh_token)
    await world.at.tidy()
    assert await world.at.sessions.principal(session.access_token) is not None
    world.clock.advance(days=31)
    await world.at.tidy()
    assert await code_of(world.at.sessions.refresh(session.refresh_token)) == "session_expired"
    assert await world.call("session_list") == []
