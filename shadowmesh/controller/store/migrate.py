"""Brings a database to this version's schema, and refuses one that a newer version has made."""

from __future__ import annotations

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


def migrate(engine: Engine) -> None:
    """All missing steps, in one transaction. Raises ShadowMeshError: database_newer, storage_failed."""
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    try:
        with engine.begin() as connection:
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
            command.upgrade(config, "head")
            if connection.execute(sa.select(schema.audit_head.c.id)).first() is None:
                connection.execute(schema.audit_head.insert().values(id=1, seq=0, hash="0" * 64))
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e
