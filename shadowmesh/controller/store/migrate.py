"""Brings a database to this version's schema, and refuses one that a newer version has made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@contextlib.contextmanager
def _without_cascades(engine: Engine) -> Iterator[sa.Connection]:
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
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    try:
        with _without_cascades(engine) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            found = MigrationContext.configure(connection).get_current_revision()
            if found is not None and found not in {step.revision for step in scripts.walk_revisions()}:
                raise ShadowMeshError(
                    "database_newer",
                    f"the database was made by a newer version of shadowmesh (schema {found}); it was left as it is",
                    "upgrade this controller, or restore a backup of the older version",
                )
            config.attributes["connection"] = connection
            command.upgrade(config, to)
            if engine.dialect.name == "sqlite":
                assert not connection.exec_driver_sql("PRAGMA foreign_key_check").all(), (
                    "a step left rows without owner"
                )
            if connection.execute(sa.select(schema.audit_head.c.id)).first() is None:
                connection.execute(schema.audit_head.insert().values(id=1, seq=0, hash="0" * 64))
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e
