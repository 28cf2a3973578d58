"""A database that restarts, or fails over to its standby: controllers and devices find their way back by themselves."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import httpx
import pytest
import sqlalchemy as sa
from freeport import free_port
from pgserver import Server

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.initialise import InitResult
from shadowmesh.controller.service import readiness
from shadowmesh.controller.settings import Timing
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import database_url, make_engine
from shadowmesh.controller.store.migrate import migrate
from shadowmesh.model.errors import ShadowMeshError
from tests.controller.conftest import Clock, World, node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    """A primary and its standby."""
    base = Path("/tmp") / f"shadowmesh-failover-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(mode=0o755)
    first, second = Server(base / "1", port=free_port()), Server(base / "2", port=free_port())
    first.init()
    first.start()
    second.follow(first)
    second.start()
    yield first, second
    for server in (second, first):
        if (server.base / "data" / "postmaster.pid").exists():
            server.stop()
    shutil.rmtree(base)


@pytest.fixture
async def world(pair: tuple[Server, Server], template: tuple[Path, InitResult], tmp_path: Path) -> AsyncIterator[World]:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in pair)
    url = database_url(f"postgresql://shadowmesh@{hosts}/postgres", tmp_path)
    engine = make_engine(url)
    migrate(engine)
    engine.dispose()
    timing = Timing(presence_gather=0.02, join_gather=0.02, follow=0.2, shutdown_grace=1.0)
    with patch.object(readiness, "_FRESH", 0.0):
        async with node(tmp_path / "node", template, url, timing, Clock()) as found:
            yield found


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.1)


async def test_a_database_that_restarts_is_missed_and_found_again(pair: tuple[Server, Server], world: World) -> None:
    await world.network()
    device = await world.member(name="before")
    assert await world.at.readiness.ready()
    await asyncio.to_thread(pair[0].stop)
    assert not await world.at.readiness.ready()
    with pytest.raises(ShadowMeshError) as refused:
        await world.network("meanwhile", "10.43.0.0/24")
    assert refused.value.code == "storage_failed"
    assert device.link is not None and device.link.connected, "who is connected stays"
    await asyncio.to_thread(pair[0].start)
    await until(world.at.readiness.ready)
    await world.network("after", "10.44.0.0/24")
    assert [n.name for n in await world.call("network_list")] == ["after", "office"]
    await world.member(name="later")
    await device.until_map(lambda m: len(m.members) == 2)


@pytest.mark.prove
async def test_a_database_that_is_away_for_a_minute_under_use_is_waited_for_by_nobody(
    pair: tuple[Server, Server], world: World
) -> None:
    """Each request is answered meanwhile, /readyz says no, what was said to be done is there, and all goes on by itself."""
    await world.network()
    device = await world.member(name="before")
    made, failed, longest, over = [], 0, 0.0, asyncio.Event()

    async def use(user: int) -> None:
        nonlocal failed, longest
        number = 0
        while not over.is_set():
            name, number, began = f"net-{user}-{number}", number + 1, time.monotonic()
            try:
                await world.network(name, f"10.{100 + user}.{number % 250}.0/24")
                made.append(name)
                await world.call("network_delete", name)
            except ShadowMeshError as e:
                assert e.code in ("storage_failed", "storage_in_doubt"), e
                failed += 1
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.05)  # the pace of somebody who uses it

    users = [asyncio.create_task(use(user)) for user in range(4)]
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, trust_env=False, timeout=20) as client:
        await until(lambda: _true(len(made) > 4))
        await asyncio.to_thread(pair[0].stop)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
            await asyncio.sleep(1)
        assert device.link is not None and device.link.connected
        assert failed > 4 and not any(user.done() for user in users)
        before = len(made)
        await asyncio.to_thread(pair[0].start)
        began = time.monotonic()
        await until(lambda: _true(len(made) > before + 4))
        recovered = time.monotonic() - began
        assert (await client.get("/readyz")).status_code == 200
    over.set()
    await asyncio.gather(*users)
    print(f"\nfailed {failed}, the longest request took {longest:.1f} s, works again after {recovered:.1f} s")
    assert longest < 12 and recovered < 10
    await world.member(name="later")
    await device.until_map(lambda m: len(m.members) == 2)
    assert (await world.call("audit_verify")).ok
    t = schema.audit
    query = sa.select(t.c.target).where(t.c.action == "network.create")
    assert set(made) <= set(await world.at.context.read(lambda conn: conn.execute(query).scalars().all()))


async def _true(found: bool) -> bool:
    return found


async def test_a_standby_that_takes_over_is_used(pair: tuple[Server, Server], world: World) -> None:
    await world.network()
    device = await world.member(name="before")
    first, second = pair

    async def followed() -> bool:
        """The standby has all of it."""
        return await world.at.context.read(
            lambda conn: bool(
                conn.exec_driver_sql(
                    "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"
                ).scalar()
            )
        )

    await until(followed)
    await asyncio.to_thread(first.stop)
    await asyncio.to_thread(second.promote)
    await until(world.at.readiness.ready)
    assert [n.name for n in await world.call("network_list")] == ["office"]
    await world.member(name="later")
    await device.until_map(lambda m: len(m.members) == 2)
    assert (await world.call("audit_verify")).ok
