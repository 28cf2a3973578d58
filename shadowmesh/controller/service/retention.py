"""Deletes what has run out of logs, reports and events, a little at a time, so that nobody else waits for it.

Each piece is a transaction of its own, followed by a rest of some times as long as it took: others' transactions, which
on SQLite go through the same writer, have theirs in between, and a database that is busy is left alone for longer.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema

CHUNK = 500  # rows that are deleted in one transaction
_REST = 4.0  # as often as the time that a piece took


async def forget_old(context: ServiceContext) -> int:
    """The number of rows that were deleted."""
    now, logs, told, sums = context.now(), schema.connection_logs, schema.controller_logs, schema.traffic
    oldest = now - dt.timedelta(days=context.settings.log_retention_days)
    c, pairs, health, events = schema.clients, schema.pairs, schema.health, schema.events
    members = sa.select(c.c.id).where(c.c.state == "approved")
    stale = now - dt.timedelta(seconds=context.timing.report_life)
    count = 0
    for table, gone in (
        (logs, logs.c.timestamp < oldest),
        (told, told.c.timestamp < oldest),
        (sums, sums.c.hour < oldest),
        (schema.usage_hours, schema.usage_hours.c.hour < oldest),
        (events, events.c.at < now - dt.timedelta(seconds=context.timing.event_life)),
        (pairs, sa.or_(pairs.c.client_id.not_in(members), pairs.c.peer_id.not_in(members))),
        (pairs, pairs.c.client_id.in_(sa.select(health.c.client_id).where(health.c.at < stale))),
        (health, health.c.client_id.not_in(members)),
    ):
        count += await _delete(context, table, gone)
    return count


async def _delete(context: ServiceContext, table: sa.Table, gone: sa.ColumnElement[bool]) -> int:
    count = 0
    while True:
        began = time.monotonic()
        deleted = await context.write(partial(_delete_some, table=table, gone=gone))
        count += deleted
        if deleted < CHUNK:
            return count
        await asyncio.sleep(_REST * (time.monotonic() - began))


def _delete_some(conn: Connection, table: sa.Table, gone: sa.ColumnElement[bool]) -> int:
    key = list(table.primary_key)
    some = sa.select(*key).where(gone).limit(CHUNK)
    return conn.execute(table.delete().where(sa.tuple_(*key).in_(some))).rowcount
