"""Brings a database to this version's schema, and refuses one that a newer version has made.

A step whose module says `OLDER_NODES_GO_ON = True` changes nothing that nodes without it rely on: what they read, write and
tell clients stays right. Where the newest steps are such ones, nodes of the version before serve beside newer ones, and can be
started again; the database says how old a node may be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.model.errors import ShadowMeshError

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x534D4D47  # PostgreSQL: two controllers that start at once migrate one after the other


_OLDEST = "oldest_schema"  # in `meta`: which nodes may serve with a database that is newer than they


@dataclass(frozen=True, slots=True)
class Step:
    """One migration: what it is for, in a line, and whether nodes without it go on beside those that have it."""

    revision: str
    what: str
    older_nodes_go_on: bool


def steps() -> list[Step]:
    """All that this version knows, in order."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return [
        Step(s.revision, (s.doc or "").splitlines()[0], getattr(s.module, "OLDER_NODES_GO_ON", False))
        for s in reversed(list(scripts))
    ]


def revision_of(connection: sa.Connection) -> str | None:
    """The schema that a database has; None: none of ours."""
    return MigrationContext.configure(connection).get_current_revision()


def pending(connection: sa.Connection) -> list[Step]:
    """The steps that the database lacks; none where it is newer than this version."""
    known, found = steps(), revision_of(connection)
    revisions = [step.revision for step in known]
    if found is not None and found not in revisions:
        return []
    return known[revisions.index(found) + 1 :] if found is not None else known


def works_with(connection: sa.Connection) -> bool:
    """Whether a database that a newer version has migrated is one that this version can serve with."""
    if not sa.inspect(connection).has_table(schema.meta.name):
        return False
    t = schema.meta
    noted = connection.execute(sa.select(t.c.value).where(t.c.key == _OLDEST)).scalar() or ""
    oldest, _, of = noted.partition(" ")
    return of == revision_of(connection) and oldest in {step.revision for step in steps()}


def _note_oldest(connection: sa.Connection, known: Sequence[Step]) -> None:
    """The newest step that all nodes need, and the newest one; nothing where they are the same."""
    found, t = revision_of(connection), schema.meta
    done = known[: [step.revision for step in known].index(found or "") + 1]
    needed = [step.revision for step in done if not step.older_nodes_go_on]
    connection.execute(t.delete().where(t.c.key == _OLDEST))
    if needed and needed[-1] != found:
        connection.execute(t.insert().values(key=_OLDEST, value=f"{needed[-1]} {found}"))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@contextlib.contextmanager
def without_cascades(engine: Engine) -> Iterator[sa.Connection]:
    """A connection for steps that change tables.

    SQLite alters a table by copying and dropping it, and to drop one is to delete its rows: with foreign keys on, all that
    belongs to them would go as well. They can be switched between transactions only.
    """
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            yield connection
            return
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            yield connection
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def migrate(engine: Engine, to: str = "head") -> None:
    """All missing steps up to this revision, in one transaction. Raises ShadowMeshError: database_newer, storage_failed."""
    try:
        with without_cascades(engine) as connection, connection.begin():
            bring(connection, to)
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e


def bring(connection: sa.Connection, to: str = "head") -> None:
    """As `migrate`, in the caller's transaction, on a connection of `without_cascades`."""
    config = _config()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    found = revision_of(connection)
    known = steps()
    if found is not None and found not in {step.revision for step in known}:
        if works_with(connection):
            return  # a newer node has migrated it by steps that this version goes on with
        raise ShadowMeshError(
            "database_newer",
            f"the database was made by a newer version of shadowmesh (schema {found}); it was left as it is",
            "upgrade this controller, or restore a backup of the older version",
        )
    config.attributes["connection"] = connection
    if sa.inspect(connection).has_table("node_presences"):  # restores once left those of nodes that are gone
        connection.exec_driver_sql("DELETE FROM node_presences WHERE node_id NOT IN (SELECT id FROM nodes)")
    command.upgrade(config, to)
    check_owners(connection)
    if connection.execute(sa.select(schema.audit_head.c.id)).first() is None:
        connection.execute(schema.audit_head.insert().values(id=1, seq=0, hash="0" * 64))
    _note_oldest(connection, known)


def check_owners(connection: sa.Connection) -> None:
    """On a connection of `without_cascades`, where SQLite itself doesn't look."""
    if connection.dialect.name == "sqlite":
        assert not connection.exec_driver_sql("PRAGMA foreign_key_check").all(), "rows were left without their owner"
