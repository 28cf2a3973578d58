"""Rows of a whole database as records that are the same for SQLite and PostgreSQL, whatever its revision.

Columns are read from the database itself, so a database that an older version made is copied as it is. A record is a list of
JSON values: bytes are `{"b64": …}`, moments RFC 3339 text in UTC with microseconds, JSON columns their text as it stands.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.model.errors import ShadowMeshError

_AT_ONCE = 500
_REVISIONS = "alembic_version"


@dataclass(frozen=True, slots=True)
class TableHead:
    """The records that follow are of this table."""

    table: str
    columns: tuple[str, ...]


Record = TableHead | list[Any]


def reflected(conn: Connection) -> sa.MetaData:
    """The tables as the database has them, without Alembic's own."""
    found = sa.MetaData()
    found.reflect(conn)
    if _REVISIONS in found.tables:
        found.remove(found.tables[_REVISIONS])
    return found


def dump(conn: Connection) -> Iterator[Record]:
    """All rows, owners before what belongs to them; in the order of their primary keys. In the caller's transaction, which
    has to see one moment (SQLite: any; PostgreSQL: REPEATABLE READ)."""
    for table in reflected(conn).sorted_tables:
        yield TableHead(str(table.name), tuple(str(c.name) for c in table.c))
        columns = [sa.cast(c, sa.Text).label(c.name) if isinstance(c.type, sa.JSON) else c for c in table.c]
        query = sa.select(*columns).order_by(*table.primary_key)
        for row in conn.execute(query.execution_options(yield_per=_AT_ONCE)):
            yield [_plain(value) for value in row]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="microseconds")
    return value


def load(conn: Connection, records: Iterable[Record]) -> dict[str, int]:
    """Puts the records in place of what is in the tables; returns how many rows each table got.

    The database has the revision that they are of. Raises ShadowMeshError(wrong_schema) where a table or column is unknown.
    """
    tables = reflected(conn)
    for table in reversed(tables.sorted_tables):
        conn.execute(table.delete())
    counts: dict[str, int] = {}
    rows: list[list[Any]] = []
    head: TableHead | None = None
    for record in records:
        if isinstance(record, TableHead):
            _insert(conn, head, rows)
            rows, head = [], record
            known = tables.tables.get(record.table)
            if known is None or not set(record.columns) <= set(known.c.keys()):
                raise ShadowMeshError(
                    "wrong_schema",
                    f"there is no such table as {record.table} of the source in this version's database",
                    "use the version of shadowmesh that wrote it",
                )
            counts[record.table] = 0
            continue
        assert head is not None
        rows.append(record)
        counts[head.table] += 1
        if len(rows) >= _AT_ONCE:
            _insert(conn, head, rows)
            rows = []
    _insert(conn, head, rows)
    return counts


def _insert(conn: Connection, head: TableHead | None, rows: Sequence[list[Any]]) -> None:
    if head is None or not rows:
        return
    # By names from the reflected schema. Values go as they are, so that the database gives them its own types.
    quote = conn.dialect.identifier_preparer.quote
    names = ", ".join(quote(name) for name in head.columns)
    marks = ", ".join(f":c{i}" for i in range(len(head.columns)))
    statement = sa.text(f"INSERT INTO {quote(head.table)} ({names}) VALUES ({marks})")  # noqa: S608
    values = [{f"c{i}": _value(value) for i, value in enumerate(row)} for row in rows]
    conn.execute(statement, values)


def _value(plain: Any) -> Any:
    return base64.b64decode(plain["b64"]) if isinstance(plain, dict) else plain


def counted(conn: Connection, tables: Iterable[str]) -> dict[str, int]:
    """How many rows are in these tables."""
    found = reflected(conn).tables
    return {
        name: int(conn.execute(sa.select(sa.func.count()).select_from(found[name])).scalar_one()) for name in tables
    }
