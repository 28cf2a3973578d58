"""Rows of networks: one that is alive, and its next serial."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.store import schema


def living_network(conn: Connection, ref: str, *, lock: bool = False) -> Row[Any] | None:
    """The network with this id, None once it is deleted.

    `lock`: others' changes to it wait until the transaction ends (PostgreSQL; SQLite has one writer).
    """
    t = schema.networks
    query = sa.select(t).where(t.c.ref == ref, t.c.deleted_at.is_(None))
    return conn.execute(query.with_for_update() if lock else query).first()


def bump(conn: Connection, ref: str) -> int:
    """The network's next serial; the row stays locked until the transaction ends, so serials follow commits."""
    t = schema.networks
    query = t.update().where(t.c.ref == ref).values(serial=t.c.serial + 1).returning(t.c.serial)
    return int(conn.execute(query).scalar_one())
