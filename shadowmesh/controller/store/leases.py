"""What one node of several does: it holds a lease, by name, as long as it says so again and again.

By the database's clock: that of one node may differ from another's, and be set back. (SQLite's is that of its one node.)
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema
from shadowmesh.model.clock import utc_now


def database_now(conn: Connection) -> dt.datetime:
    """PostgreSQL's clock, or this process' where the database is its own."""
    if conn.dialect.name == "sqlite":
        return utc_now()
    found: dt.datetime = conn.execute(sa.select(sa.func.clock_timestamp(type_=schema.Moment()))).scalar_one()
    return found


def hold(conn: Connection, name: str, holder: str, lasts: dt.timedelta) -> bool:
    """Whether `holder` has it, from now on for so long. Two that want it at one moment: one gets it (the other may see a lost race)."""
    t, now = schema.leases, database_now(conn)
    until = now + lasts
    mine = sa.or_(t.c.holder == holder, t.c.until <= now)
    if conn.execute(t.update().where(t.c.name == name, mine).values(holder=holder, until=until)).rowcount:
        return True
    if conn.execute(sa.select(t.c.name).where(t.c.name == name)).first() is not None:
        return False
    conn.execute(t.insert().values(name=name, holder=holder, until=until))
    return True


def held(name: str, holder: str) -> sa.ColumnElement[bool]:
    """A condition: `holder` was the last to get it."""
    t = schema.leases
    return sa.exists().where(t.c.name == name, t.c.holder == holder)


def release(conn: Connection, name: str, holder: str) -> None:
    t = schema.leases
    conn.execute(t.delete().where(t.c.name == name, t.c.holder == holder))
