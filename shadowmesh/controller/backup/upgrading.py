"""Upgrading a controller's database: what it takes, the copy before it, and which nodes may go on meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import URL, Connection

from shadowmesh import __version__
from shadowmesh.controller.backup.backupfile import write_backup
from shadowmesh.controller.backup.sealedfile import Locks
from shadowmesh.controller.backup.taking import Opened, one_moment, open_directory
from shadowmesh.controller.settings import only_one, private_files
from shadowmesh.controller.store.database import make_engine
from shadowmesh.controller.store.migrate import Step, migrate, pending, revision_of, steps, works_with
from shadowmesh.controller.store.nodesthere import NodeThere, others_there
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.files import sync_names, written_private

log = structlog.get_logger("shadowmesh.controller")

_KEPT = 3  # copies of before an upgrade: the newest ones


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What bringing the database to this version takes. `refusal`: why it can't be done now; None: it can, or needs nothing."""

    version: str
    found: str | None  # the database's schema
    wanted: str  # this version's
    missing: tuple[Step, ...]
    nodes: tuple[NodeThere, ...]  # the others that use the database now
    older_nodes_go_on: bool
    copy: str | None  # where the copy of before will be; None: none is needed
    refusal: ShadowMeshError | None


def plan_upgrade(opened: Opened) -> UpgradePlan:
    """Looks, and changes nothing. Raises ShadowMeshError(storage_failed)."""
    with one_moment(opened.url) as conn:
        return _plan(conn, opened)


def _plan(conn: Connection, opened: Opened) -> UpgradePlan:
    found, missing, nodes = revision_of(conn), tuple(pending(conn)), tuple(others_there(conn))
    known = [step.revision for step in steps()]
    newer = found is not None and found not in known
    go_on = works_with(conn) if newer else all(step.older_nodes_go_on for step in missing)
    copy = _copy_path(opened, known[-1]) if missing and found is not None else None
    refusal: ShadowMeshError | None = None
    if newer and not go_on:
        refusal = ShadowMeshError(
            "database_newer",
            f"the database was made by a newer version of shadowmesh (schema {found}), with which this one can't work",
            "upgrade this node",
        )
    elif missing and nodes and not go_on:
        needs = next(step for step in missing if not step.older_nodes_go_on)
        refusal = ShadowMeshError(
            "nodes_running",
            f"{_named(nodes)} can't go on beside this version: schema {needs.revision} ({needs.what.rstrip('.')})"
            " changes what they rely on",
            "stop all nodes, then start the upgraded ones; the mesh goes on meanwhile",
            kind=Kind.CONFLICT,
        )
    elif copy is not None and (lacking := _lacking(opened, copy)):
        refusal = ShadowMeshError(
            "disk_full",
            f"there is no room in {copy.parent} for a copy of the database before its upgrade",
            f"free {lacking} MB",
        )
    shown = None if copy is None else str(copy)
    return UpgradePlan(__version__, found, known[-1], missing, nodes, go_on, shown, refusal)


def _named(nodes: tuple[NodeThere, ...]) -> str:
    return ", ".join(f"{node.name} ({node.version})" for node in nodes)


def _copy_path(opened: Opened, revision: str) -> Path:
    if opened.url.get_backend_name() == "sqlite":
        database = Path(opened.url.database or "")
        return database.with_name(f"{database.name}.before-{revision}")
    return opened.where.path / f"database.before-{revision}"


def _lacking(opened: Opened, copy: Path) -> int:
    """Megabytes (10^6 bytes) that are missing; of PostgreSQL's size nothing is known here."""
    if opened.url.get_backend_name() != "sqlite":
        return 0
    database = Path(opened.url.database or "")
    size = sum(p.stat().st_size for p in (database, database.with_name(database.name + "-wal")) if p.exists())
    free = shutil.disk_usage(copy.parent).free
    return 0 if free > 2 * size else (2 * size - free) // 1_000_000 + 1


def upgrade(data_dir: Path | None, config: Path | None = None) -> UpgradePlan:
    """Brings the database of a stopped node to this version, after a copy of it. Raises what `prepare_upgrade` does."""
    with private_files():
        opened = open_directory(data_dir, config)
        with only_one(opened.where):
            return prepare_upgrade(opened)


def prepare_upgrade(opened: Opened) -> UpgradePlan:
    """As `upgrade`, for who holds the directory's lock: what a node does before it serves.

    Raises ShadowMeshError: database_newer, nodes_running, disk_full, storage_failed. Nothing has changed then.
    """
    plan = plan_upgrade(opened)
    if plan.refusal is not None:
        raise plan.refusal
    if plan.copy is not None:
        _copy(opened, Path(plan.copy))
        log.info("database copied before its upgrade", copy=plan.copy, schema=plan.found, to=plan.wanted)
    engine = make_engine(opened.url)
    try:
        migrate(engine)
    finally:
        engine.dispose()
    if plan.copy is not None:
        _forget_old(Path(plan.copy))
    return plan


def _copy(opened: Opened, path: Path) -> None:
    try:
        if opened.url.get_backend_name() == "sqlite":
            _copy_sqlite(opened.url, path)
        else:  # opened by the keys in this directory: `controller restore` takes it there
            with written_private(path) as file, one_moment(opened.url) as conn:
                write_backup(conn, opened.source, file, Locks(vault=opened.keys.vault), utc_now())
    except (OSError, sqlite3.Error) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise ShadowMeshError(
            "no_copy",
            f"the database couldn't be copied to {path} before its upgrade ({reason}); it was left as it is",
            "free some space, and start again",
        ) from e


def _copy_sqlite(url: URL, path: Path) -> None:
    """By SQLite itself: a plain copy lacks what is in the journal."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(str(url.database))) as source,
            contextlib.closing(sqlite3.connect(fresh)) as target,
        ):
            target.execute("PRAGMA synchronous=FULL")
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def _forget_old(newest: Path) -> None:
    stem = newest.name.rpartition("-")[0]
    copies = sorted(newest.parent.glob(f"{stem}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in copies[_KEPT:]:
        with contextlib.suppress(OSError):
            old.unlink()


def check_owner(opened: Opened) -> None:
    """Raises ShadowMeshError: database_damaged, wrong_database, storage_failed; before anything is written."""
    query = sa.text("SELECT value FROM meta WHERE key = 'fingerprint'")
    with one_moment(opened.url) as conn:
        owner = conn.execute(query).scalar() if sa.inspect(conn).has_table("meta") else None
    if owner is None:
        raise ShadowMeshError(
            "database_damaged",
            "the database holds no controller; it was left as it is",
            "put it back from a backup, or correct --database-url",
            kind=Kind.FAILED,
        )
    if owner != opened.keys.identity.public.fingerprint:
        raise ShadowMeshError(
            "wrong_database",
            "this database belongs to a controller with another identity key; it was left as it is",
            "put keys and database of one controller together",
        )
