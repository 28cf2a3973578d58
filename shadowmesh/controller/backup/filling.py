"""Filling an empty database from another one's records, in one transaction: all of it is there, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.controller.store.migrate import bring, check_owners, steps, without_cascades
from shadowmesh.controller.store.nodesthere import others_there
from shadowmesh.controller.store.tablecopy import Record, counted, load, reflected
from shadowmesh.model.errors import Kind, ShadowMeshError

_REVISIONS = "alembic_version"


def check_known(revision: str, version: str) -> None:
    """Raises ShadowMeshError(backup_newer) for a schema that this version doesn't know."""
    known = [step.revision for step in steps()]
    if revision not in known:
        raise ShadowMeshError(
            "backup_newer",
            f"it was made by shadowmesh {version} (schema {revision}), and this version knows up to schema {known[-1]}",
            f"use shadowmesh {version} or a newer one",
        )


def highest_generation(conn: Connection) -> int:
    """Of the networks in a database that may be none of ours, 0 then."""
    if not sa.inspect(conn).has_table(schema.networks.name):
        return 0
    return int(conn.execute(sa.text("SELECT max(generation) FROM networks")).scalar() or 0)


def check_target(conn: Connection, *, replace: bool) -> None:
    """Raises ShadowMeshError: target_not_empty (without `replace`), nodes_running (CONFLICT)."""
    names = set(sa.inspect(conn).get_table_names()) & {*schema.metadata.tables, _REVISIONS}
    if names and not replace:
        raise ShadowMeshError(
            "target_not_empty",
            "there is a controller in the target database already; it was left as it is",
            "give an empty database, or --replace to put this one in its place",
            kind=Kind.CONFLICT,
        )
    if names and (nodes := others_there(conn)):
        raise ShadowMeshError(
            "nodes_running",
            f"{len(nodes)} of the controller's nodes use the target database ({', '.join(n.name for n in nodes)})",
            "stop them first",
            kind=Kind.CONFLICT,
        )


def fill(
    engine: Engine,
    revision: str,
    records: Iterable[Record],
    *,
    replace: bool,
    loaded: Callable[[], None],
    finish: Callable[[Connection, int], None],
) -> dict[str, int]:
    """Returns the rows of each table, as many as were counted in the database.

    `loaded` is called when all records were taken in: what it raises undoes everything. `finish`: is given the connection,
    with the newest schema, and the highest generation of what was replaced.
    """
    try:
        with without_cascades(engine) as conn, conn.begin():
            check_target(conn, replace=replace)
            generation = highest_generation(conn)
            _drop(conn)
            bring(conn, revision)
            rows = load(conn, records)
            loaded()
            found = counted(conn, rows)
            if found != rows:
                wrong = next(name for name in rows if found[name] != rows[name])
                raise ShadowMeshError(
                    "rows_missing",
                    f"the database holds {found[wrong]} rows in {wrong} instead of {rows[wrong]}; nothing was kept",
                    "look at the database's log",
                )
            bring(conn)
            finish(conn, generation)
            check_owners(conn)
            return rows
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e


def _drop(conn: Connection) -> None:
    """Our tables; others in the same database stay."""
    for table in reversed(reflected(conn).sorted_tables):
        if table.name in schema.metadata.tables:
            table.drop(conn)
    conn.exec_driver_sql(f"DROP TABLE IF EXISTS {_REVISIONS}")
