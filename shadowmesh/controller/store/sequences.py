"""Numbers in the order of commits: who has read up to one of them misses none below it, whichever controller wrote it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import ReturningUpdate

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.notices import tell
from shadowmesh.controller.store.prepared import prepared

REVOCATIONS, EVENTS, CONNECTION_LOGS = "revocations", "events", "connection_logs"
FOLLOWED = frozenset({REVOCATIONS, EVENTS})
"""What other controllers act on: a notice of the counter's name tells them."""


@prepared
def _take(counter: str, count: int) -> ReturningUpdate[tuple[int]]:
    c = schema.counters
    return c.update().where(c.c.name == counter).values(value=c.c.value + count).returning(c.c.value)


def take(conn: Connection, counter: str, count: int = 1) -> int:
    """The first of the next `count` numbers. Others who want one wait until the transaction ends."""
    if counter in FOLLOWED:
        tell(conn, counter)
    return int(conn.execute(*_take(counter, count)).scalar_one()) - count + 1


def newest(conn: Connection, counter: str) -> int:
    """The last number that was taken, 0 if none was."""
    c = schema.counters
    return int(conn.execute(sa.select(c.c.value).where(c.c.name == counter)).scalar_one())
