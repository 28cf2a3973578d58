"""A machine that is given a controller, a network and something to sign in with enrols itself, once."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemonkit import Controller, _made_before, controller, until

from shadowmesh.client_api.clientcertificate import new_key, renewal, signing_request
from shadowmesh.client_api.ownenrolment import ApiKeySignIn, CertificateSignIn, JwtSignIn, OwnEnrolment
from shadowmesh.daemon.selfenrolment import SelfEnrolment, TokenFile, keep_certificate
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as found:
        await found.network("office")
        yield found


async def key(there: Controller, *scopes: str, networks: list[str] | None = None) -> ApiKeySignIn:
    wish = accounts.ApiKeyCreate(name="machines", scopes=[api.Permission(s) for s in scopes], networks=networks)
    return ApiKeySignIn(Secret((await there.call("api_key_create", wish)).key.encode()))


async def wish(there: Controller, sign_in: Any = None, **more: Any) -> OwnEnrolment:
    network = (await there.call("network_show", "office")).network_id
    given = sign_in or await key(there, "client.register", networks=["office"])
    return OwnEnrolment(
        **({"url": there.url, "network": network, "sign_in": given, "fingerprint": there.fingerprint} | more)
    )


async def test_a_machine_enrols_itself_once_and_a_restart_finds_it_enrolled(there: Controller) -> None:
    a = await there.machine("a", own=await wish(there, name="server-1"))
    await until(lambda: a.daemon.networks and a.network().connected)
    assert a.network().record.client_name == "server-1"
    first = a.network().record.client_id
    await a.restart()
    await until(lambda: a.network().connected)
    (client,) = await there.call("client_list", "office")
    assert client.client_id == first == a.network().record.client_id
    made = [i for i in await there.call("invite_list", "office") if not i.standing]
    assert len(made) == 1, "no second invite was made"
    assert not (await a.status()).warnings


async def test_the_network_may_be_named(there: Controller) -> None:
    a = await there.machine("a", own=await wish(there, network="office"))
    await until(lambda: a.daemon.networks and a.network().connected)


async def test_what_the_controller_refuses_is_said_and_tried_again(there: Controller) -> None:
    for scopes, networks, word in (
        (("network.view",), None, "client.register"),
        (("client.register",), ["other"], "there is no network"),
    ):
        if networks:
            await there.network("other", subnet="10.43.0.0/24")
        name = f"m{len(there.lan.machines)}"
        a = await there.machine(name, own=await wish(there, await key(there, *scopes, networks=networks)))

        await until(lambda a=a: _trouble(a) is not None)
        (warning,) = (await a.status()).warnings
        assert "can't be enrolled" in warning and word in warning
        assert not a.daemon.networks


async def test_a_machine_that_was_removed_is_not_brought_back_by_a_restart(there: Controller) -> None:
    a = await there.machine("a", own=await wish(there))
    await until(lambda: a.daemon.networks and a.network().connected)
    await there.call("client_remove", "office", a.network().record.client_id)
    await until(lambda: not a.daemon.networks)
    await a.restart()
    await until(lambda: a.daemon.former)
    assert await there.call("client_list", "office") == []
    assert any("no member of" in w and "shadowmesh leave office" in w for w in (await a.status()).warnings)


async def test_a_controller_that_is_away_is_tried_until_it_is_there(there: Controller) -> None:
    tries = []

    async def enrol(_: OwnEnrolment) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ShadowMeshError("controller_unreachable", "away", kind=Kind.UNREACHABLE)

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    own = SelfEnrolment(await wish(there), list, list, enrol, lambda: None, sleep)
    await own.run()
    assert len(tries) == 4 and own.trouble is None
    assert slept == sorted(slept) and slept[-1] <= 60.0


async def test_a_used_invite_is_not_asked_for_again(there: Controller) -> None:
    seen = []

    async def enrol(asked: OwnEnrolment) -> None:
        seen.append(asked.again)
        if len(seen) < 3:
            raise ShadowMeshError("invite_used_up" if len(seen) == 1 else "busy", "no", kind=Kind.CONFLICT)

    async def sleep(_: float) -> None: ...

    await SelfEnrolment(await wish(there), list, list, enrol, lambda: None, sleep).run()
    assert seen[0] != seen[1] == seen[2], "another invite after a used one, the same one else"


async def test_a_session_enrols_by_its_access_token_and_by_its_refresh_token(there: Controller, tmp_path: Path) -> None:
    made = await there.call("user_create", accounts.UserCreate(email="ops@example.org", admin=True))
    login = accounts.Login(email=made.email, password=made.password, new_password="a long enough password")
    session = await there.at.signing_in.login(login, "192.0.2.7")
    a = await there.machine("a", own=await wish(there, JwtSignIn(Secret(session.access_token.encode()))))
    await until(lambda: a.daemon.networks and a.network().connected)
    refresh = JwtSignIn(Secret(session.refresh_token.encode()), f"{there.url}/api/v1/auth/refresh")
    b = await there.machine("b", own=await wish(there, refresh))
    await until(lambda: b.daemon.networks and b.network().connected)
    kept = (b.directory / "session.json").stat()
    assert kept.st_mode & 0o777 == 0o600
    assert session.refresh_token not in (b.directory / "session.json").read_text()
    # the token that was given is used up: what came back for it is what counts from now on
    there.clock.ahead = dt.timedelta(minutes=2)
    await there.call("client_remove", "office", b.network().record.client_id)
    await until(lambda: not b.daemon.networks)
    await b.client.call("leave", network="office")
    await b.restart()
    await until(lambda: b.daemon.networks and b.network().connected)


async def test_the_controller_is_trusted_by_ca_file_or_fingerprint_and_not_without(
    there: Controller, tmp_path: Path
) -> None:
    good = await wish(there, fingerprint=None, ca_file=there.data_dir / "ca.pem")
    a = await there.machine("a", own=good)
    await until(lambda: a.daemon.networks and a.network().connected)
    _made_before("other", tmp_path / "other")
    other = tmp_path / "other" / "ca.pem"
    for name, bad, word in (
        ("b", replace(good, ca_file=None), "controller.fingerprint"),
        ("c", replace(good, ca_file=other), "controller.fingerprint"),
        ("d", replace(good, ca_file=None, fingerprint="sha256:" + 64 * "0"), "not the controller that was meant"),
    ):
        machine = await there.machine(name, own=bad)
        await until(lambda machine=machine: _trouble(machine) is not None)
        assert word in str(_trouble(machine)), name
        assert not machine.daemon.networks


async def certificate(there: Controller, directory: Path, *, network: str = "office") -> tuple[str, CertificateSignIn]:
    """A key's id, and files with a certificate of it."""
    made = await there.call(
        "api_key_create",
        accounts.ApiKeyCreate(name="m", scopes=[api.Permission("client.register")], networks=[network]),
    )
    private = new_key()
    signed = await there.call("api_key_certificate", made.id, signing_request(private))
    files = CertificateSignIn(directory / "client.crt", directory / "client.key")
    files.cert_file.write_text(signed.certificate)
    files.key_file.write_bytes(private.reveal())
    return made.id, files


async def test_a_certificate_enrols_as_its_key_does_until_that_is_revoked(there: Controller, tmp_path: Path) -> None:
    key_id, files = await certificate(there, tmp_path)
    a = await there.machine("a", own=await wish(there, files))
    await until(lambda: a.daemon.networks and a.network().connected)
    await there.call("api_key_revoke", key_id)
    b = await there.machine("b", own=await wish(there, files))
    await until(lambda: _trouble(b) is not None)
    assert "not valid" in str(_trouble(b)) and not b.daemon.networks


async def test_a_certificate_is_renewed_by_itself_before_it_ends(there: Controller, tmp_path: Path) -> None:
    """Of a controller whose clock is 62 days behind: what it signs now has passed two thirds of its life."""
    there.clock.ahead = -dt.timedelta(days=62)
    _, files = await certificate(there, tmp_path)
    there.clock.ahead = dt.timedelta()
    before, (identity, due) = files.cert_file.read_text(), renewal(files.cert_file, dt.datetime.now(dt.UTC))
    assert due < 0
    slept: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        slept.put_nowait(seconds)
        await asyncio.Event().wait()

    a = await there.machine("a")
    keeping = asyncio.create_task(keep_certificate(await wish(there, files), files, a.daemon.connect, sleep))
    async with asyncio.timeout(20):
        assert 0 < await slept.get() <= 6 * 3600
    keeping.cancel()
    assert files.cert_file.read_text() != before
    assert files.cert_file.stat().st_mode & 0o777 == 0o600
    same, due = renewal(files.cert_file, dt.datetime.now(dt.UTC))
    assert same == identity and due > 50 * 86400
    b = await there.machine("b", own=await wish(there, files))
    await until(lambda: b.daemon.networks and b.network().connected)


def _trouble(machine: Any) -> str | None:
    return machine.methods.self_enrolment.trouble  # type: ignore[no-any-return]


def test_the_newest_refresh_token_is_that_of_the_session_that_is_configured(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path)
    assert tokens.successor("a") is None
    tokens.keep("a", "2")
    tokens.keep("a", "3")
    assert TokenFile(tmp_path).successor("a") == "3"
    tokens.keep("b", "1")
    assert tokens.successor("a") is None, "of a session that is configured no more nothing is kept"
