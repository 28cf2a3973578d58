"""Rows of networks: one that is alive, and its next serial."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.dml import ReturningUpdate

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.notices import tell
from shadowmesh.controller.store.prepared import prepared

MAP, MAPS = "map", "maps"
"""Topics of notices: the named network's map is newer; those of several are."""


@prepared
def _living(ref: str) -> sa.Select[Any]:
    t = schema.networks
    return sa.select(t).where(t.c.ref == ref, t.c.deleted_at.is_(None))


@prepared
def _living_locked(ref: str) -> sa.Select[Any]:
    t = schema.networks
    return sa.select(t).where(t.c.ref == ref, t.c.deleted_at.is_(None)).with_for_update()


@prepared
def _bump(ref: str) -> ReturningUpdate[tuple[int]]:
    t = schema.networks
    return t.update().where(t.c.ref == ref).values(serial=t.c.serial + 1).returning(t.c.serial)


def living_network(conn: Connection, ref: str, *, lock: bool = False) -> Row[Any] | None:
    """The network with this id, None once it is deleted.

    `lock`: others' changes to it wait until the transaction ends (PostgreSQL; SQLite has one writer).
    """
    return conn.execute(*(_living_locked if lock else _living)(ref)).first()


def bump(conn: Connection, ref: str) -> int:
    """The network's next serial; the row stays locked until the transaction ends, so serials follow commits."""
    serial = int(conn.execute(*_bump(ref)).scalar_one())
    tell(conn, MAP, ref)
    return serial


def bump_those(conn: Connection, those: sa.ColumnElement[bool]) -> None:
    """New serials for the living networks of which this condition on `networks` is true."""
    t = schema.networks
    query = t.update().where(those, t.c.deleted_at.is_(None)).values(serial=t.c.serial + 1)
    conn.execute(query)
    tell(conn, MAPS)
