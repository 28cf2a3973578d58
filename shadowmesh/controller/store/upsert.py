"""Rows that are there or not yet, written by one statement on both databases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection


def upsert(
    conn: Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    added: Collection[str] = (),
    kept: Mapping[str, str] = {},
) -> None:
    """Each row takes the place of the one with its primary key. `added`: numbers that are added to those that are there.
    `kept`: columns that stay as they are while another column does."""
    if not rows:
        return
    statement = (postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert)(table)
    new = statement.excluded
    values: dict[str, Any] = {c.name: new[c.name] for c in table.c if not c.primary_key}
    values |= {name: table.c[name] + new[name] for name in added}
    values |= {
        name: sa.case((table.c[other] == new[other], table.c[name]), else_=new[name]) for name, other in kept.items()
    }
    conn.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values), rows)
