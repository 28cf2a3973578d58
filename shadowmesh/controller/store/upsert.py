"""Rows that are there or not yet, written by one statement on both databases.

Thousands of rows may come at once, so their values are made ready column by column, and the driver gets the statement as text:
SQLAlchemy's own way of running it costs each row more than the database does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect

from shadowmesh.controller.store.schema import Moment


def upsert(
    conn: Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    added: Collection[str] = (),
    kept: Mapping[str, str] = {},
) -> None:
    """Each row, all with the same columns, takes the place of the one with its primary key. `added`: numbers that are added to those
    that are there. `kept`: columns that stay as they are while another column does."""
    if not rows:
        return
    dialect = conn.dialect
    statement = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)
    new = statement.excluded
    values: dict[str, Any] = {c.name: new[c.name] for c in table.c if not c.primary_key}
    values |= {name: table.c[name] + new[name] for name in added}
    values |= {
        name: sa.case((table.c[other] == new[other], table.c[name]), else_=new[name]) for name, other in kept.items()
    }
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)
    compiled = statement.compile(dialect=dialect, column_keys=list(rows[0]))
    names = list(compiled.positiontup or compiled.params)
    ready = zip(*(_ready(table.c[name], [row[name] for row in rows], dialect) for name in names), strict=True)
    conn.exec_driver_sql(
        str(compiled), list(ready) if compiled.positiontup else [dict(zip(names, r, strict=True)) for r in ready]
    )


def _ready(column: sa.Column[Any], values: list[Any], dialect: Dialect) -> list[Any]:
    """The values as the driver takes them."""
    process: Callable[[Any], Any] | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    if process is None:
        return values
    return list(map(cache(process) if isinstance(column.type, Moment) else process, values))  # many have one moment
