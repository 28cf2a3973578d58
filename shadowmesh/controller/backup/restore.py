"""Puts a backup in place: everything is made and checked beside what is there, then takes its place.

Killed at any moment, what was there is still there, or all of the new is; a restore that was killed between its last
renames is finished by the next one.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import URL, Connection

from shadowmesh.controller import pki
from shadowmesh.controller.backup.backupfile import ChainListener, ChainVerdict, Contents, backup_unusable
from shadowmesh.controller.backup.filling import check_known, check_target, fill, highest_generation
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.restoration import Restored, after_restore
from shadowmesh.controller.settings import (
    CONFIG_NAME,
    DATABASE_NAME,
    DATABASE_PASSWORD_NAME,
    DataDir,
    Settings,
    Timing,
    only_one,
    private_files,
    write_settings,
)
from shadowmesh.controller.store.database import (
    StorageFailed,
    database_url,
    make_engine,
    open_store,
    without_password,
)
from shadowmesh.controller.store.tablecopy import Record, TableHead
from shadowmesh.model.clock import utc_now
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.serving.files import sync_names, unused, write_private

OWN_DATABASE = "sqlite"  # as a database URL: the file in the data directory
_STAGING = ".restore-"
_READY = "ready"
# In the order in which they are taken away; the first one makes a directory a controller's, and is put there last.
_PARTS = (
    CONFIG_NAME, DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", "keys", "ca.key", "ca.pem", "server.pem",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """`database_url`: None, as the backup says; `sqlite`, the file in the data directory. `replace`: what is there goes aside
    (a PostgreSQL database: away)."""

    data_dir: Path
    database_url: str | None = None
    replace: bool = False
    dry_run: bool = False
    accept_broken_audit: bool = False


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored, or would be."""

    dry_run: bool
    made_at: dt.datetime
    made_by: str
    fingerprint: str
    public_urls: tuple[str, ...]
    schema_revision: str
    database: str
    rows: Mapping[str, int]
    audit_entries: int
    audit_broken_at: int | None
    kept: str | None  # where what was there is now
    restored: Restored | None  # None: a dry run
    tls_cert: str | None  # the operator's own certificate, which isn't in the backup


class _Ready(Struct, frozen=True, kw_only=True):
    """A staging directory that is complete: what is in it, and where what was there goes."""

    parts: tuple[str, ...]
    keep: str | None


def restore(contents: Contents, options: RestoreOptions) -> RestoreReport:
    """Restores what `read_backup` or `read_sqlite_copy` opened.

    Raises ShadowMeshError: backup_damaged, backup_truncated, backup_unusable, backup_newer, audit_broken, other_controller,
    target_not_empty, nodes_running, already_running, and what the database raises. Nothing has changed then.
    """
    check_known(contents.manifest.revision, contents.manifest.version)
    keys = contents.keys
    where = DataDir(options.data_dir)
    settings, password = _target(contents, options.database_url)
    with private_files():
        if options.dry_run:
            return _dry_run(contents, keys, where, settings, password, options)
        try:
            where.path.mkdir(parents=True, exist_ok=True)
            if not any(where.path.iterdir()):
                where.path.chmod(0o700)
            with only_one(where):
                finish_interrupted(where)
                return _restore(contents, keys, where, settings, password, options)
        except OSError as e:
            raise ShadowMeshError(
                "cannot_write",
                f"{where.path} can't be written ({e.strerror})",
                "free some space, choose another --data-dir, or run as a user who may",
                kind=Kind.NOT_ALLOWED if isinstance(e, PermissionError) else Kind.FAILED,
            ) from e


def _target(contents: Contents, wanted: str | None) -> tuple[Settings, str | None]:
    """The settings as they will be, and the database's password."""
    settings = contents.settings
    if wanted is None:
        kept = contents.files.get(f"keys/{DATABASE_PASSWORD_NAME}")
        return settings, None if kept is None else kept.decode().strip()
    if wanted == OWN_DATABASE:
        return replace(settings, database_url=None), None
    shown, password = without_password(wanted)
    return replace(settings, database_url=shown), password


def _check_directory(where: DataDir, keys: KeyRing, *, replace: bool) -> None:
    """Raises ShadowMeshError: target_not_empty, other_controller (CONFLICT)."""
    found = [name for name in _PARTS if (where.path / name).exists()]
    if found and not replace:
        raise ShadowMeshError(
            "target_not_empty",
            f"{where.path} holds a controller already ({', '.join(found)}); it was left as it is",
            "choose another --data-dir, or give --replace, which keeps what is there beside what is restored",
            kind=Kind.CONFLICT,
        )
    try:
        there = KeyRing.load(where.keys).identity.public.fingerprint
    except ShadowMeshError:
        return  # keys that can't be read are nobody's
    if there != keys.identity.public.fingerprint:
        raise ShadowMeshError(
            "other_controller",
            f"the backup is of another controller than the one in {where.path} ({there}); that was left as it is",
            "choose another --data-dir",
            kind=Kind.CONFLICT,
        )


def _check_chain(chain: ChainVerdict, *, accept: bool) -> None:
    if chain.broken_at is not None and not accept:
        raise ShadowMeshError(
            "audit_broken",
            f"the backup's audit log isn't whole: entry {chain.broken_at} was changed or is missing; nothing was changed",
            "take an older backup, or give --accept-broken-audit",
            kind=Kind.CONFLICT,
        )


def _checked(contents: Contents, chain: ChainListener) -> Iterator[Record]:
    """The records, looked at as they go by."""
    head = TableHead("", ())
    for record in contents.records():
        chain.hears(record)
        if isinstance(record, TableHead):
            head = record
        elif head.table == "meta":
            entry = dict(zip(head.columns, record, strict=True))
            if entry["key"] == "fingerprint" and entry["value"] != contents.manifest.fingerprint:
                raise backup_unusable("the backup's database is another controller's than its keys")
        yield record


def _report(
    contents: Contents, settings: Settings, chain: ChainVerdict, kept: str | None, restored: Restored | None
) -> RestoreReport:
    manifest = contents.manifest
    return RestoreReport(
        dry_run=restored is None,
        made_at=manifest.made_at,
        made_by=manifest.version,
        fingerprint=manifest.fingerprint,
        public_urls=settings.public_urls,
        schema_revision=manifest.revision,
        database=OWN_DATABASE if settings.database_url is None else settings.database_url,
        rows=dict(contents.rows),
        audit_entries=chain.entries,
        audit_broken_at=chain.broken_at,
        kept=kept,
        restored=restored,
        tls_cert=settings.tls_cert,
    )


def _dry_run(
    contents: Contents, keys: KeyRing, where: DataDir, settings: Settings, password: str | None, options: RestoreOptions
) -> RestoreReport:
    _check_directory(where, keys, replace=options.replace)
    if settings.database_url is not None:
        url = database_url(settings.database_url, where.database, password)
        if url.get_backend_name() == "postgresql" or Path(url.database or "").exists():
            engine = make_engine(url, read_only=True)
            try:
                with engine.connect() as conn:
                    check_target(conn, replace=options.replace)
            except sa.exc.DBAPIError as e:
                raise StorageFailed(e) from e
            finally:
                engine.dispose()
    chain = ChainListener(keys.vault)
    for _ in _checked(contents, chain):
        pass
    _check_chain(chain.verdict(), accept=options.accept_broken_audit)
    there = any((where.path / name).exists() for name in _PARTS)
    return _report(contents, settings, chain.verdict(), str(where.path / _keep_name(where)) if there else None, None)


def _restore(
    contents: Contents, keys: KeyRing, where: DataDir, settings: Settings, password: str | None, options: RestoreOptions
) -> RestoreReport:
    _check_directory(where, keys, replace=options.replace)
    for left in where.path.glob(f"{_STAGING}*"):
        shutil.rmtree(left)
    staging = DataDir(where.path / f"{_STAGING}{secrets.token_hex(4)}")
    staging.path.mkdir(0o700)
    chain = ChainListener(keys.vault)
    restored: Restored | None = None
    try:
        _put_files(contents, keys, staging, settings, password)
        above = _generation_there(where)
        url = database_url(settings.database_url, staging.database, password)
        store = open_store(url)
        context = ServiceContext(store, keys, settings, Timing(), utc_now)

        def finish(conn: Connection, generation: int) -> None:
            nonlocal restored
            manifest = contents.manifest
            restored = after_restore(context, conn, manifest.made_at, manifest.version, max(above, generation))

        try:
            fill(
                store.engine,
                contents.manifest.revision,
                _checked(contents, chain),
                replace=options.replace,
                loaded=lambda: _check_chain(chain.verdict(), accept=options.accept_broken_audit),
                finish=finish,
            )
        finally:
            store.close()
        kept = _swap(where, staging)
    except BaseException:
        if not (staging.path / _READY).exists():  # else the next restore finishes it
            shutil.rmtree(staging.path, ignore_errors=True)
        raise
    return _report(contents, settings, chain.verdict(), kept, restored)


def _put_files(contents: Contents, keys: KeyRing, staging: DataDir, settings: Settings, password: str | None) -> None:
    keys.save(staging.keys)
    if password is not None:
        write_private(staging.keys / DATABASE_PASSWORD_NAME, password.encode() + b"\n")
    for name in ("ca.key", "ca.pem"):
        if name in contents.files:
            write_private(staging.path / name, contents.files[name])
    if settings.tls_cert is None:
        pki.make_server_certificate(staging.path, settings, utc_now())
    write_settings(staging.config, settings)


def _generation_there(where: DataDir) -> int:
    """The highest generation in the directory's own database, as far as it can be read."""
    if not where.database.exists():
        return 0
    engine = make_engine(URL.create("sqlite", database=str(where.database)), read_only=True)
    try:
        with engine.connect() as conn:
            return highest_generation(conn)
    except sa.exc.DBAPIError:
        return 0  # what is damaged is why it is restored
    finally:
        engine.dispose()


# the last step: from beside to in place


def _keep_name(where: DataDir) -> str:
    return unused(where.path / f"before-restore-{utc_now():%Y%m%dT%H%M%SZ}").name


def _swap(where: DataDir, staging: DataDir) -> str | None:
    _give_to_owner(where.path, staging.path)
    there = any((where.path / name).exists() for name in _PARTS)
    parts = tuple(name for name in _PARTS if (staging.path / name).exists())
    ready = _Ready(parts=parts, keep=_keep_name(where) if there else None)
    for directory in (staging.keys, staging.path):
        sync_names(directory)
    write_private(staging.path / _READY, to_json(ready))
    return _finish(where, staging.path, ready)


def finish_interrupted(where: DataDir) -> None:
    """Finishes a restore that was killed while it put its parts in place. Raises OSError."""
    for staging in where.path.glob(f"{_STAGING}*"):
        try:
            ready = from_json((staging / _READY).read_bytes(), _Ready)
        except (OSError, MalformedError):
            continue  # it hadn't begun to
        _finish(where, staging, ready)


def _finish(where: DataDir, staging: Path, ready: _Ready) -> str | None:
    """May be done again, from wherever it stopped."""
    keep = None if ready.keep is None else where.path / ready.keep
    if keep is not None:
        keep.mkdir(0o700, exist_ok=True)
        _give_to_owner(where.path, keep)
        for name in _PARTS:
            in_place = name in ready.parts and not (staging / name).exists()
            if not in_place and (where.path / name).exists():
                (where.path / name).rename(keep / name)
        sync_names(keep)
    for name in reversed(_PARTS):
        if name in ready.parts and (staging / name).exists():
            (staging / name).rename(where.path / name)
    sync_names(where.path)
    shutil.rmtree(staging)
    return None if keep is None else str(keep)


def _give_to_owner(directory: Path, what: Path) -> None:
    """Root restores for the user whose directory it is."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in (what, *what.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
