"""A copy of a SQLite database, as it is made before an upgrade, read as a backup: keys and settings are the directory's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from shadowmesh.controller.backup.backupfile import (
    AuditEnd,
    BackupSource,
    Contents,
    Manifest,
    directory_files,
    record_lines,
)
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.settings import DataDir
from shadowmesh.controller.store.migrate import revision_of
from shadowmesh.controller.store.tablecopy import dump
from shadowmesh.model.errors import ShadowMeshError

SQLITE_MAGIC = b"SQLite format 3\0"


def read_sqlite_copy(path: Path, data_dir: Path) -> Contents:
    """Raises ShadowMeshError: backup_damaged, and as reading the directory does."""
    where = DataDir(data_dir)
    settings, keys = where.read(), KeyRing.load(where.keys)
    engine = sa.create_engine(  # as it is: nothing is written beside it, and its journal mode stays
        URL.create("sqlite", database=f"file:{path}", query={"mode": "ro", "immutable": "1", "uri": "true"})
    )
    try:
        with engine.connect() as conn:
            end = conn.execute(sa.text("SELECT seq, hash FROM audit_head")).one()
            manifest = Manifest(
                version="of that time",
                revision=revision_of(conn) or "",
                made_at=dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC),
                fingerprint=keys.identity.public.fingerprint,
                public_urls=settings.public_urls,
                database="sqlite",
                audit=AuditEnd(seq=end.seq, hash=end.hash),
            )
    except (sa.exc.DBAPIError, sa.exc.NoResultFound, OSError) as e:
        raise _damaged(path) from e
    finally:
        engine.dispose()
    return Contents(manifest, directory_files(BackupSource(where, settings, keys)), lines=_lines(engine, path))


def _lines(engine: Engine, path: Path) -> Iterator[Any]:
    try:
        with engine.connect() as conn:
            yield from record_lines(dump(conn))
    except sa.exc.DBAPIError as e:
        raise _damaged(path) from e
    finally:
        engine.dispose()


def _damaged(path: Path) -> ShadowMeshError:
    return ShadowMeshError(
        "backup_damaged", f"{path} is a database that can't be read, or no controller's", "take another copy"
    )
