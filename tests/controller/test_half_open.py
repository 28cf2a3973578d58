"""Strangers who begin connections and leave them: everybody else notices nothing, and what was held is given back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from freeport import free_port
from halfopen import KINDS, HalfOpen, Kind, sources

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.edge import connections, server
from shadowmesh.controller.settings import Timing
from shadowmesh.serving.admission import Admission

if TYPE_CHECKING:
    from tests.controller.conftest import World

pytestmark = pytest.mark.slow

SHORT = Timing(
    presence_gather=0.02,
    housekeeping=0.1,
    shutdown_grace=1.0,
    tls_handshake=1.0,
    request_head=1.0,
    request_body=1.0,
    hello=0.5,
    write_stall=0.5,
)


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[Admission]:
    """Those of the controllers that are made from now on."""
    made: list[Admission] = []

    class Noted(Admission):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(server, "Admission", Noted)
    return made


@pytest.fixture
def timing(admissions: list[Admission]) -> Timing:
    return SHORT


@pytest.fixture
def port(world: World) -> int:
    return int(world.url.rpartition(":")[2])


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    headers = {"Authorization": f"Bearer {world.first.api_key}"}
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, headers=headers, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_what_is_left_half_open_is_closed_and_disturbs_nobody(
    world: World,
    http: httpx.AsyncClient,
    port: int,
    admissions: list[Admission],
    kind: Kind,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await world.network()
    device = await world.member()
    (admission,) = admissions
    before = admission.held
    async with HalfOpen(port, kind, 60, sources()) as held:
        for _ in range(5):
            assert (await http.get("/api/v1/networks")).status_code == 200
        await world.call("client_set", "office", "laptop", tags=["while-held"])
        await device.until_map(lambda m: m.members[0].tags == ("while-held",))
        async with asyncio.timeout(20):
            if kind.reads:
                await held.all_ended()
            while admission.held > before + 1:  # the honest client's own  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0.02)
    assert admission.unproven <= 1
    assert "Traceback" not in capfd.readouterr().err


async def test_a_site_that_comes_back_at_once_passes_while_strangers_hold_all_there_is(
    world: World, port: int, admissions: list[Admission], monkeypatch: pytest.MonkeyPatch
) -> None:
    (admission,) = admissions
    admission.most_unproven, admission.most_of_source = 100, 75
    monkeypatch.setattr("shadowmesh.serving.admission._YOUNG", 0.0)  # strangers' connections are old at once
    await world.network()
    invite = await world.invite(uses=20)
    async with HalfOpen(port, KINDS[0], 200, sources()):
        assert admission.unproven == 100
        site = [world.device() for _ in range(20)]  # all from one address
        await asyncio.gather(*(device.join(invite.invite) for device in site))
        await asyncio.gather(*(device.connect() for device in site))
        await asyncio.gather(*(device.settled() for device in site))
        assert admission.unproven <= 101


def held_by(ref: weakref.ref[Any]) -> dict[str, Any]:
    """What it still holds, if it is there."""
    there = ref()
    return {} if there is None else vars(there)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if b"Upgrade" in kind.first], ids=str)
async def test_a_websocket_that_ended_leaves_nothing_to_the_collector(
    world: World, port: int, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []

    class Noted(connections.Messages):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.extend((weakref.ref(self), weakref.ref(self.conn)))

    monkeypatch.setattr(connections, "Messages", Noted)
    gc.disable()
    try:
        async with HalfOpen(port, kind, 5, sources()) as held, asyncio.timeout(20):
            await held.all_ended()
        with suppress(TimeoutError):
            async with asyncio.timeout(45):  # TLS may wait 30 s for the other side's goodbye
                while any(map(held_by, made)):  # noqa: ASYNC110 - no event tells of it
                    await asyncio.sleep(0.01)
        left = [what for ref in made if (what := held_by(ref))]
        assert not left, left
    finally:
        gc.enable()
    assert len(made) == 10


async def test_who_is_known_may_send_more_than_a_stranger(world: World, http: httpx.AsyncClient) -> None:
    long = {"name": "x", "subnet": "10.0.0.0/24", "description": " " * 100_000}
    known = await http.post("/api/v1/networks", json=long)
    assert known.status_code == 422, "it was read"
    stranger = await http.post("/api/v1/networks", json=long, headers={"Authorization": "Bearer sk_nobody"})
    assert (stranger.status_code, stranger.json()["code"]) == (401, "not_signed_in")


PROCESS = """
import resource, sys
from pathlib import Path
from shadowmesh.controller.run import RunOptions, run
run(RunOptions(Path(sys.argv[1]), listen=sys.argv[2], ready=lambda: print(resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)))
"""


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 300))


@pytest.fixture
def cramped(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A controller whose soft limit of descriptors is 128, the hard one 300."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(data_dir), f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=few_files,
    )
    yield process, port
    process.kill()
    process.communicate()


async def test_more_connections_than_descriptors(cramped: tuple[subprocess.Popen[str], int]) -> None:
    process, port = cramped
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "(300, 300)\n", "the soft limit was raised"
    async with HalfOpen(port, KINDS[0], 600, itertools.cycle(["127.0.0.1"])), httpx.AsyncClient(verify=False) as http:
        for _ in range(20):
            answer = await http.get(f"https://127.0.0.1:{port}/healthz", headers={"Connection": "close"})
            assert answer.status_code == 200
    process.terminate()
    _, errors = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    assert len(errors.splitlines()) < 10 and "Traceback" not in errors, errors
