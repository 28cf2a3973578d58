"""`/readyz` tells a load balancer whether this controller can do its work, and nobody why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.service import readiness
from shadowmesh.controller.store.database import StorageFailed

if TYPE_CHECKING:
    from tests.controller.conftest import World

SECRET = "connection to server at db.internal failed"


@pytest.fixture
async def stranger(world: World) -> AsyncIterator[httpx.AsyncClient]:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, trust_env=False) as client:
        yield client


async def told(stranger: httpx.AsyncClient, world: World) -> int:
    world.at.readiness._known_at = float("-inf")
    answer = await stranger.get("/readyz")
    assert SECRET not in answer.text
    return answer.status_code


async def test_a_full_disk_is_not_ready(
    world: World, stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(readiness.log, "warning", lambda event, **fields: logged.append(f"{event}: {fields['why']}"))
    monkeypatch.setattr(readiness.log, "info", logged.append)
    assert await told(stranger, world) == 200
    with monkeypatch.context() as full:
        full.setattr(readiness, "_room", lambda directory: 4096)
        assert await told(stranger, world) == 503
        assert await told(stranger, world) == 503
    assert await told(stranger, world) == 200
    assert logged == ["not ready: the disk has 4 KiB left", "ready again"]


async def test_a_database_that_cannot_be_written_is_not_ready(
    world: World, stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: Any) -> Any:
        raise StorageFailed(sa.exc.OperationalError("x", {}, Exception(SECRET)))

    monkeypatch.setattr(world.at.context.store, "write", fails)
    assert await told(stranger, world) == 503
    key = {"Authorization": f"Bearer {world.first.api_key}"}
    answer = await stranger.post("/api/v1/networks", json={"name": "x", "subnet": "10.0.0.0/24"}, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
    assert SECRET not in answer.text, "where the database is, is nobody's business"


async def test_a_database_that_hangs_is_not_ready(
    world: World, stranger: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(readiness, "_PATIENCE", 0.1)
    monkeypatch.setattr(world.at.context.store, "write", hangs)
    assert await told(stranger, world) == 503


async def test_asking_often_writes_seldom(world: World, stranger: httpx.AsyncClient) -> None:
    await told(stranger, world)
    query = sa.text("select value from meta where key = 'readiness'")

    def written(conn: Any) -> str:
        return str(conn.execute(query).scalar_one())

    first = await world.at.context.read(written)
    for _ in range(20):
        await stranger.get("/readyz")
    assert await world.at.context.read(written) == first
