"""What a controller's configuration says, it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from freeport import free_port
from people import person

from shadowmesh.config.resolving import Flag, Given
from shadowmesh.config.roles import resolve_controller
from shadowmesh.controller import pki
from shadowmesh.controller.configured import configured, kept_values
from shadowmesh.controller.initialise import InitResult
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.process import serving
from shadowmesh.controller.settings import DataDir, Timing
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import database_url
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.api import NetworkCreate, NetworkPatch
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from tests.controller.conftest import FAST, Clock, World

pytestmark = pytest.mark.whole

Start = Callable[..., contextlib.AbstractAsyncContextManager[World]]


@pytest.fixture
def run(data_dir: Path, template: tuple[Path, InitResult]) -> Start:
    """Runs the controller of the data directory with these settings; again and again, on the same port."""
    port, clock = free_port(), Clock()

    @contextlib.asynccontextmanager
    async def go(timing: Timing = FAST, **said: Any) -> AsyncIterator[World]:
        where, url = DataDir(data_dir), f"https://127.0.0.1:{port}"
        told = {"controller.public_urls": url, "controller.listen_address": f"127.0.0.1:{port}"} | {
            path.replace("__", "."): text for path, text in said.items()
        }
        flags = {path: Flag(text, f"--set {path}") for path, text in told.items()}
        given = Given(flags, {}, kept=kept_values(where, where.read()))
        ready = configured(resolve_controller(None, given), where.read(), timing)
        if pki.needs_renewal(where.path, ready.settings, utc_now()):
            pki.make_server_certificate(where.path, ready.settings, utc_now())
        keys = KeyRing.load(where.keys)
        if ready.jwt_secret is not None:
            keys = keys.with_session_secret(ready.jwt_secret)
        database = database_url(None, where.database)
        async with serving(where, ready.settings, keys, database, ready.timing, clock) as at:
            world = World(at, url, data_dir, template[1], clock)
            yield world
            for device in world.devices:
                await device.close()

    return go


async def refused(what: Any) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as caught:
        await what
    return caught.value


# networks


async def test_a_user_owns_no_more_networks_than_one_may(run: Start) -> None:
    async with run(networks__max_per_user="2") as world:
        anna, bob = await person(world, "anna", admin=True), await person(world, "bob", admin=True)
        for name in ("a", "b"):
            assert (await anna.ask("POST", "/networks", {"name": name})).status_code == 201
        answer = await anna.ask("POST", "/networks", {"name": "c"})
        assert (answer.status_code, answer.json()["code"]) == (409, "network_limit")
        assert "2 networks" in answer.json()["detail"] and "max_per_user" in answer.json()["remedy"]
        assert (await bob.ask("POST", "/networks", {"name": "c"})).status_code == 201, "it is counted for each user"
        assert (await anna.ask("DELETE", "/networks/a")).status_code == 204
        assert (await anna.ask("POST", "/networks", {"name": "d"})).status_code == 201
        for name in ("x", "y", "z"):
            await world.call("network_create", NetworkCreate(name=name))  # at the controller's own socket is no user
    async with run() as world:
        await world.call("network_list")


async def test_of_networks_made_at_once_no_more_than_one_may_are_made(run: Start) -> None:
    async with run(networks__max_per_user="1") as world:
        anna = await person(world, "anna", admin=True)
        answers = await asyncio.gather(*(anna.ask("POST", "/networks", {"name": f"n{i}"}) for i in range(4)))
        assert sorted(a.status_code for a in answers) == [201, 409, 409, 409]


async def test_an_owner_of_as_many_as_one_may_takes_no_other_by_renaming(run: Start) -> None:
    async with run(networks__max_per_user="0") as world:
        await world.network("office")
        owner = await person(world, "olga", {"office": "owner"})
        answer = await owner.ask("PATCH", "/networks/office", {"name": "mine"})
        assert (answer.status_code, answer.json()["code"]) == (409, "network_limit")


async def test_a_network_without_a_subnet_takes_the_next_of_the_pool(run: Start) -> None:
    async with run(networks__default_subnet="172.20.4.0/23") as world:
        made = [await world.call("network_create", NetworkCreate(name=n)) for n in ("a", "b")]
        assert [n.subnet for n in made] == ["172.20.4.0/24", "172.20.5.0/24"]
        error = await refused(world.call("network_create", NetworkCreate(name="c")))
        assert (error.code, error.kind) == ("no_free_subnet", Kind.CONFLICT)


# sessions


async def test_a_session_that_isnt_used_ends(run: Start) -> None:
    async with run(authentication__session_timeout="1h") as world:
        anna = await person(world, "anna")
        assert (await anna.ask("GET", "/whoami")).status_code == 200
        world.clock.advance(minutes=50)
        answer = await anna.ask("POST", "/auth/refresh", {"refresh_token": anna.session.refresh_token})
        assert answer.status_code == 200, "used within the hour"
        token = answer.json()["access_token"]
        world.clock.advance(minutes=61)
        again = await anna.ask("POST", "/auth/refresh", {"refresh_token": answer.json()["refresh_token"]})
        assert (again.status_code, again.json()["code"]) == (401, "session_expired")
        assert (await anna.ask("GET", "/whoami", token=token)).status_code == 401


async def test_an_access_token_lasts_no_longer_than_a_session(run: Start) -> None:
    async with run(authentication__session_timeout="30s") as world:
        anna = await person(world, "anna")
        assert anna.session.expires_in == 30
        world.clock.advance(seconds=31)
        assert (await anna.ask("GET", "/whoami")).status_code == 401


async def test_sessions_of_before_end_by_the_new_time(run: Start) -> None:
    async with run() as world:
        anna = await person(world, "anna")
    async with run(authentication__session_timeout="1h") as world:
        anna.world = world
        world.clock.advance(minutes=61)
        answer = await anna.ask("POST", "/auth/refresh", {"refresh_token": anna.session.refresh_token})
        assert answer.json()["code"] == "session_expired"


async def test_another_jwt_secret_ends_access_tokens_and_the_same_keeps_them(run: Start) -> None:
    async with run(authentication__jwt_secret="one") as world:
        anna = await person(world, "anna")
    for secret, status in (("one", 200), ("two", 401)):
        async with run(authentication__jwt_secret=secret) as world:
            anna.world = world
            assert (await anna.ask("GET", "/whoami")).status_code == status
    async with run() as world:
        anna.world = world
        assert (await anna.ask("GET", "/whoami")).status_code == 401


# what clients are told


async def test_clients_are_told_of_stun_servers_and_that_nobody_goes_direct(run: Start) -> None:
    async with run(p2p__stun_servers="stun:192.0.2.9:3478, stun:stun.example.org") as world:
        await world.network()
        device = await world.member()
        assert SockAddr("192.0.2.9", 3478) in device.map.head.stun
        assert SockAddr("127.0.0.1", int(world.url.rpartition(":")[2])) == device.map.head.stun[0], "ours first"
        assert device.map.head.stun_names == ("stun.example.org:3478",) and device.map.head.p2p
        before = device.map.serial
    async with run(p2p__enabled="false") as world:
        device.world = world
        await device.connect(maps=(device.map,))
        told = await device.until_map(lambda m: m.serial > before)
        assert not told.head.p2p and told.head.stun_names == () and SockAddr("192.0.2.9", 3478) not in told.head.stun


async def add_relays(world: World) -> None:
    def add(conn: Any) -> None:
        for ref, url in (("rly_a", "ws://one.example:9545"), ("rly_b", "ws://two.example:9545")):
            conn.execute(
                schema.relays.insert().values(
                    id=ref, name=ref, key=ref.encode().ljust(32), url=url, udp=None, region="", version="1",
                    draining=False, created_at=world.clock(),
                )
            )  # fmt: skip

    await world.at.context.write(add)


async def test_without_relays_clients_are_told_of_the_fallback_alone(run: Start) -> None:
    async with run() as world:
        await world.network()
        await add_relays(world)
    for said, expected in (
        ({}, ["ws://one.example:9545", "ws://two.example:9545"]),
        ({"relay__enabled": "false"}, []),
        ({"relay__enabled": "false", "relay__fallback_relay": "ws://two.example:9545"}, ["ws://two.example:9545"]),
        ({"relay__enabled": "false", "relay__fallback_relay": "ws://three.example:9545"}, []),
        ({"relay__fallback_relay": "ws://two.example:9545"}, ["ws://one.example:9545", "ws://two.example:9545"]),
    ):
        async with run(**said) as world:
            device = world.device()
            await device.join((await world.invite()).invite)
            await (await device.connect()).settled()
            assert [r.url for r in device.map.head.relays] == expected, said
            admin = await person(world, f"admin{len(expected)}{len(said)}", admin=True)
            client = device.map.members[-1].client_id
            endpoints = (await admin.ask("GET", f"/networks/office/peers/{client}")).json()["endpoints"]
            assert {e["address"] for e in endpoints if e["type"] == "relay"} == set(expected[:1])


async def test_a_network_can_still_forbid_what_the_controller_allows(run: Start) -> None:
    async with run(p2p__enabled="true") as world:
        await world.network()
        await world.call("network_set", "office", NetworkPatch(p2p_enabled=False))
        assert not (await world.member()).map.head.p2p


async def test_what_is_set_differently_is_in_the_audit_log(run: Start) -> None:
    async with run(networks__max_per_user="3"):
        pass
    async with run(networks__max_per_user="4", logging__retention_days="7") as world:
        entries = await world.call("audit_list")
        last = [e for e in entries if e.action == "controller.settings"][-1]
        assert (
            last.detail["after"]["max_networks_per_user"] == 4 and last.detail["before"]["max_networks_per_user"] == 3
        )
        assert last.detail["after"]["log_retention_days"] == 7


# the process


def controller(tmp_path: Path, config: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SHADOWMESH")}
    return subprocess.Popen(
        [sys.executable, "-m", "shadowmesh", "controller", "run", "--config", str(config), *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=kept | environment, cwd=tmp_path,
    )  # fmt: skip


def until_line(process: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    for line in process.stderr:
        lines.append(json.loads(line) if line.startswith("{") else {"event": line})
        if event in lines[-1]["event"]:
            return lines
    raise AssertionError(lines)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    port = free_port()
    path = tmp_path / "controller-config.yaml"
    path.write_text(
        f"controller:\n  listen_address: 127.0.0.1:{port}\n  public_urls: ['https://127.0.0.1:{port}']\n"
        f"  data_dir: {tmp_path / 'made'}\n  admin_email: ops@example.org\nlogging: {{level: info}}\n"
    )
    return path


def ask(tmp_path: Path, config: Path, body: dict[str, Any]) -> httpx.Response:
    url = config.read_text().partition("['")[2].partition("'")[0]
    trust = ssl.create_default_context(cafile=tmp_path / "made" / "ca.pem")
    return httpx.post(f"{url}/api/v1/auth/login", json=body, verify=trust, trust_env=False)


def test_a_file_is_enough_for_a_controller_and_its_password_is_in_no_log(tmp_path: Path, config: Path) -> None:
    process = controller(tmp_path, config)
    try:
        lines = until_line(process, "controller ready")
        made = tmp_path / "made" / "first-administrator"
        email, password = made.read_text().split()
        assert made.stat().st_mode & 0o777 == 0o600 and email == "ops@example.org"
        assert password not in json.dumps(lines) and str(made) in json.dumps(lines)
        answer = ask(tmp_path, config, {"email": email, "password": password, "new_password": "quite another one"})
        assert answer.status_code == 200, answer.text
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
    process = controller(tmp_path, config)  # and again: nothing is made anew
    try:
        until_line(process, "controller ready")
        assert ask(tmp_path, config, {"email": email, "password": "quite another one"}).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def test_the_first_password_may_be_given(tmp_path: Path, config: Path) -> None:
    process = controller(tmp_path, config, SHADOWMESH_CONTROLLER_ADMIN_PASSWORD="given by somebody")
    try:
        until_line(process, "controller ready")
        assert not (tmp_path / "made" / "first-administrator").exists()
        body = {"email": "ops@example.org", "password": "given by somebody", "new_password": "quite another one"}
        assert ask(tmp_path, config, body).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def test_the_level_says_what_is_logged(tmp_path: Path, config: Path) -> None:
    process = controller(tmp_path, config, "--log-level", "error", "--set", "relay.fallback_relay=ws://x.example:9545")
    url = config.read_text().partition("['")[2].partition("'")[0]
    try:
        for _ in range(600):
            with contextlib.suppress(OSError, httpx.HTTPError, ssl.SSLError):
                trust = ssl.create_default_context(cafile=tmp_path / "made" / "ca.pem")
                if httpx.get(f"{url}/healthz", verify=trust, trust_env=False).status_code == 200:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
                break
    finally:
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=15)
    assert logged == "", "neither that it is ready, nor that the fallback relay is unknown"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("  moode: local\n", ["controller.moode", "controller.mode", ":6:"]),
        ("  tls: {cert_file: /nonexistent/a, key_file: /nonexistent/b}\n", ["/nonexistent/a"]),
        ("database: {host: h, password: FROM_ENV_OR_SECRET}\n", ["database.password", "SHADOWMESH_DATABASE_PASSWORD"]),
    ],
)
def test_what_keeps_it_from_starting_is_one_line_and_nothing_is_made(
    tmp_path: Path, config: Path, change: str, words: list[str]
) -> None:
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join([*lines[:5], change, *lines[5:]]))
    process = controller(tmp_path, config)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    (line,) = said.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert not (tmp_path / "made" / "controller.json").exists()


def test_the_specified_database_section_is_where_the_controller_keeps_everything(
    postgres: str, tmp_path: Path, config: Path
) -> None:
    directory = postgres.partition("host=")[2]
    subprocess.run(
        [sys.executable, "-c", "import psycopg,sys; psycopg.connect(sys.argv[1], autocommit=True).execute('CREATE DATABASE shadowmesh_controller')", postgres],
        check=True,
    )  # fmt: skip
    config.write_text(
        config.read_text() + f"database:\n  host: {directory}\n  port: 5432\n  name: shadowmesh_controller\n"
        "  user: shadowmesh\n  password: FROM_ENV_OR_SECRET\n"
    )
    process = controller(tmp_path, config, SHADOWMESH_DATABASE_PASSWORD="not asked for by trust")
    try:
        until_line(process, "controller ready")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
    assert not (tmp_path / "made" / "controller.db").exists()
    count = (
        "import psycopg,sys; print(psycopg.connect(sys.argv[1]).execute('SELECT count(*) FROM users').fetchone()[0])"
    )
    where = postgres.replace("/postgres?", "/shadowmesh_controller?")
    done = subprocess.run([sys.executable, "-c", count, where], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "1"
    for path in (tmp_path / "made").rglob("*"):
        if path.is_file():
            assert b"not asked for by trust" not in path.read_bytes(), path
