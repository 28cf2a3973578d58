"""Numbers in the order of commits: who has read up to one of them misses none below it, whichever controller wrote it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema

REVOCATIONS, EVENTS = "revocations", "events"


def take(conn: Connection, counter: str, count: int = 1) -> int:
    """The first of the next `count` numbers. Others who want one wait until the transaction ends."""
    c = schema.counters
    last = c.update().where(c.c.name == counter).values(value=c.c.value + count).returning(c.c.value)
    return int(conn.execute(last).scalar_one()) - count + 1


def newest(conn: Connection, counter: str) -> int:
    """The last number that was taken, 0 if none was."""
    c = schema.counters
    return int(conn.execute(sa.select(c.c.value).where(c.c.name == counter)).scalar_one())
