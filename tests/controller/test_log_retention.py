"""Ten million lines of a log run out, and nobody who uses the controller notices that they are deleted."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from people import Person, person, web
from test_reports import client_id, mesh

from shadowmesh.controller.service.retention import forget_old
from shadowmesh.controller.store import schema

if TYPE_CHECKING:
    import httpx

    from tests.controller.conftest import World

ROWS = 10_000_000
QUIET = 60.0  # seconds of measuring before
PACE = 0.02  # seconds between two requests


async def fill(world: World, name: str, ref: str, rows: int) -> None:
    """So many lines of 91 to 191 days ago, oldest first, as they would have come."""
    begin = world.at.context.now() - dt.timedelta(days=191)
    step = 100 * 86400.0 / rows

    def insert(conn: sa.Connection, first: int, count: int) -> None:
        conn.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) "
            "INSERT INTO connection_logs (log_id, network_ref, client_id, remote_peer_id, event_type, connection_type, "
            "reason, latency_ms, timestamp) SELECT i + 1, ?, ?, 'cli_peer', 'upgrade_p2p', 'p2p', 'direct.punched', 9.5, "
            "strftime('%Y-%m-%dT%H:%M:%f', ?, '+' || (i * ?) || ' seconds') || '000+00:00' FROM n",
            (first, first + count, ref, name, begin.strftime("%Y-%m-%d %H:%M:%S"), step),
        )

    for first in range(0, rows, 100_000):
        await world.at.context.write(lambda conn, first=first: insert(conn, first, min(100_000, rows - first)))  # type: ignore[misc]
    counters = schema.counters
    moved = counters.update().where(counters.c.name == "connection_logs").values(value=rows)
    await world.at.context.write(lambda conn: conn.execute(moved))


async def latencies(client: httpx.AsyncClient, who: Person, until: Callable[[], bool]) -> list[float]:
    """Seconds of requests one after another, some that read, some that write, until it is so."""
    headers, found, count = {"Authorization": f"Bearer {who.token}"}, [], 0
    while not until():
        count += 1
        began = time.perf_counter()
        if count % 4:
            answer = await client.get("/api/v1/networks", headers=headers)
        else:
            body = {"description": f"{count}"}
            answer = await client.patch("/api/v1/networks/office", json=body, headers=headers)
        found.append(time.perf_counter() - began)
        assert answer.status_code == 200
        await asyncio.sleep(PACE)
    return found


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


@pytest.mark.prove
@pytest.mark.timeout(7200)
async def test_ten_million_lines_are_deleted_unnoticed(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    (a,) = await mesh(world, "a")
    ref = a.map.head.network_ref
    who = await person(world, "root", admin=True)
    await fill(world, client_id(a), ref, ROWS)
    who = await person(world, "later", admin=True)  # the first one's token has run out
    async with web(world) as client:
        end = time.monotonic() + QUIET
        quiet = p99(await latencies(client, who, lambda: time.monotonic() > end))
        began = time.monotonic()
        deleting = asyncio.create_task(forget_old(world.at.context))
        busy: list[float] = []
        while not deleting.done():
            turn = time.monotonic() + 120.0
            who = await person(world, f"p{len(busy)}", admin=True)
            busy += await latencies(client, who, lambda turn=turn: deleting.done() or time.monotonic() > turn)  # type: ignore[misc]
        took = time.monotonic() - began
    assert await deleting >= ROWS
    t = schema.connection_logs
    assert (
        await world.at.context.read(lambda conn: conn.execute(sa.select(sa.func.count()).select_from(t)).scalar()) == 0
    )
    record_property("p99 quiet", f"{quiet * 1000:.1f} ms")
    record_property("p99 while it deletes", f"{p99(busy) * 1000:.1f} ms")
    record_property("rows a second", f"{ROWS / took:.0f}")
    assert p99(busy) <= 2 * quiet
