"""Taking a backup of the controller in a directory, whether it runs or not."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from shadowmesh.config.resolving import Flag, Given
from shadowmesh.config.roles import require_secrets, resolve_controller
from shadowmesh.controller.backup.backupfile import BackupSource, BackupWritten, write_backup
from shadowmesh.controller.backup.sealedfile import Locks
from shadowmesh.controller.configured import configured, kept_values
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.settings import DataDir, Settings, Timing
from shadowmesh.controller.store.database import StorageFailed, database_url, make_engine
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.serving.files import written_private


@dataclass(frozen=True, slots=True)
class Opened:
    """A controller's directory, with what it is told by a configuration, as far as it is needed to read its database."""

    where: DataDir
    settings: Settings
    keys: KeyRing
    url: URL
    password: Secret | None = None

    @property
    def source(self) -> BackupSource:
        return BackupSource(self.where, self.settings, self.keys, self.password)


def open_directory(data_dir: Path | None, config: Path | None = None) -> Opened:
    """As `controller run` would find it: with the file `config`, and the environment.

    Raises ShadowMeshError as `resolve_controller`, `DataDir.read` and `KeyRing.load` do, and database_missing.
    """
    flags = {} if data_dir is None else {"controller.data_dir": Flag(data_dir, "--data-dir", checked=True)}
    where = DataDir(resolve_controller(config, Given(flags)).config.controller.data_dir)
    kept = where.read()
    found = resolve_controller(config, Given(flags, kept=kept_values(where, kept), kept_in=str(where.config)))
    require_secrets(found)
    told = configured(found, kept, Timing())
    password = None if told.database_password is None else told.database_password.reveal().decode()
    url = database_url(told.settings.database_url, where.database, password)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise ShadowMeshError(
            "database_missing", f"{url.database} is missing", "put it back from a backup", kind=Kind.FAILED
        )
    return Opened(where, told.settings, KeyRing.load(where.keys), url, told.database_password)


@contextlib.contextmanager
def one_moment(url: URL) -> Iterator[Connection]:
    """A connection that sees the database as it is at one moment, whoever writes meanwhile. Raises StorageFailed."""
    engine = make_engine(url, read_only=True)
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.connect() as conn:
            seen = conn.execution_options(**options) if url.get_backend_name() == "postgresql" else conn
            with seen.begin():
                yield seen
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e
    finally:
        engine.dispose()


def back_up(opened: Opened, into: IO[bytes], locks: Locks, now: dt.datetime | None = None) -> BackupWritten:
    """Raises ShadowMeshError: storage_failed; OSError."""
    with one_moment(opened.url) as conn:
        return write_backup(conn, opened.source, into, locks, now or utc_now())


def back_up_to(opened: Opened, path: Path, locks: Locks, *, overwrite: bool) -> BackupWritten:
    """As `back_up`, into a file of mode 0600 that is there whole or not at all. Raises also file_exists, cannot_write."""
    if path.exists() and not overwrite:
        raise ShadowMeshError(
            "file_exists",
            f"{path} is there already; it was left as it is",
            "give another name, or --overwrite",
            kind=Kind.CONFLICT,
        )
    try:
        with written_private(path) as file:
            return back_up(opened, file, locks)
    except OSError as e:
        raise ShadowMeshError(
            "cannot_write",
            f"{path} can't be written ({e.strerror})",
            "make that directory" if isinstance(e, FileNotFoundError) else "free some space, or choose another place",
            kind=Kind.NOT_ALLOWED if isinstance(e, PermissionError) else Kind.FAILED,
        ) from e
