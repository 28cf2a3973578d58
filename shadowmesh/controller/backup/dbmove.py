"""Moves a stopped controller to another database, SQLite or PostgreSQL, with all that is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace
from sqlalchemy.engine import URL, Connection

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.backup.backupfile import ChainListener
from shadowmesh.controller.backup.filling import check_known, fill
from shadowmesh.controller.backup.restore import OWN_DATABASE
from shadowmesh.controller.backup.taking import Opened, one_moment, open_directory
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.restoration import forget_nodes
from shadowmesh.controller.settings import DATABASE_PASSWORD_NAME, Timing, only_one, private_files, write_settings
from shadowmesh.controller.store.database import database_url, open_store, without_password
from shadowmesh.controller.store.migrate import revision_of
from shadowmesh.controller.store.nodesthere import others_there
from shadowmesh.controller.store.tablecopy import Record, dump
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.files import remove_private, sync_names, unused, write_private

_FRESH = "controller.db.moving"


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the controller's database is now, and where the one of before was left."""

    to: str
    left: str
    rows: Mapping[str, int]
    audit_entries: int


def move_database(data_dir: Path | None, to: str, *, replace_there: bool = False, config: Path | None = None) -> Moved:
    """Copies everything in one transaction, checks rows and audit log, then has the controller use it from its next start on.

    `to`: postgresql://…, sqlite:///…, or `sqlite`, the file in the data directory. Raises ShadowMeshError: same_database,
    target_not_empty, nodes_running, audit_broken, already_running, and what the databases raise. Nothing has changed then.
    """
    with private_files():
        opened = open_directory(data_dir, config)
        with only_one(opened.where):
            return _move(opened, to, replace_there=replace_there)


def _move(opened: Opened, to: str, *, replace_there: bool) -> Moved:
    where = opened.where
    shown, password = (None, None) if to == OWN_DATABASE else without_password(to)
    target = database_url(shown, where.database, password)
    if (target.host, target.port, target.database, target.query) == (
        opened.url.host,
        opened.url.port,
        opened.url.database,
        opened.url.query,
    ):
        raise ShadowMeshError(
            "same_database", "the controller uses this database already", "give another one", kind=Kind.CONFLICT
        )
    fresh = where.path / _FRESH
    if shown is None:
        _check_own(where.database, replace_there=replace_there)
        _remove(fresh)
        target = URL.create("sqlite", database=str(fresh))
    try:
        rows, entries = _copy(opened, target, replace_there=replace_there)
    except BaseException:
        if shown is None:
            _remove(fresh)
        raise
    if shown is None:
        fresh.replace(where.database)
        sync_names(where.path)
    # From here on the new one holds all; until `controller.json` is written, the old one is used.
    if password is not None:
        write_private(where.keys / DATABASE_PASSWORD_NAME, password.encode() + b"\n")
    write_settings(where.config, replace(where.read(), database_url=shown))
    if password is None:
        remove_private(where.keys / DATABASE_PASSWORD_NAME)
    return Moved(shown or str(where.database), _put_aside(opened), rows, entries)


def _check_own(path: Path, *, replace_there: bool) -> None:
    if path.exists() and not replace_there:
        raise ShadowMeshError(
            "target_not_empty",
            f"{path} is there already; it was left as it is",
            "move it away, or give --replace",
            kind=Kind.CONFLICT,
        )


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _copy(opened: Opened, target: URL, *, replace_there: bool) -> tuple[dict[str, int], int]:
    chain = ChainListener(opened.keys.vault)
    store = open_store(target)
    context = ServiceContext(store, opened.keys, opened.settings, Timing(), utc_now)
    try:
        with one_moment(opened.url) as source:
            if nodes := others_there(source):
                raise ShadowMeshError(
                    "nodes_running",
                    f"{len(nodes)} of the controller's nodes use its database ({', '.join(n.name for n in nodes)})",
                    "stop them first: what they write would be lost",
                    kind=Kind.CONFLICT,
                )
            revision = revision_of(source) or ""
            check_known(revision, "that is newer")
            to = target.get_backend_name()
            rows = fill(
                store.engine,
                revision,
                _listened(source, chain),
                replace=replace_there,
                loaded=lambda: _check(chain),
                finish=lambda conn, _: _note(context, conn, to),
            )
    finally:
        store.close()
    return rows, chain.verdict().entries


def _listened(source: Connection, chain: ChainListener) -> Iterator[Record]:
    for found in dump(source):
        chain.hears(found)
        yield found


def _check(chain: ChainListener) -> None:
    broken = chain.verdict().broken_at
    if broken is not None:
        raise ShadowMeshError(
            "audit_broken",
            f"the audit log isn't whole: entry {broken} was changed or is missing; nothing was changed",
            "see `shadowmesh audit verify`",
            kind=Kind.CONFLICT,
        )


def _note(context: ServiceContext, conn: Connection, to: str) -> None:
    forget_nodes(conn)
    known_by = context.keys.identity.public.fingerprint
    record(context, conn, SYSTEM, "controller.move-database", known_by, after={"database": to})


def _put_aside(opened: Opened) -> str:
    """A SQLite file of before gets another name, so that nobody takes it for the one in use."""
    if opened.url.get_backend_name() != "sqlite":
        return opened.url.render_as_string(hide_password=True)
    old = Path(opened.url.database or "")
    aside = unused(old.with_name(f"{old.name}.moved-{utc_now():%Y%m%dT%H%M%SZ}"))
    for end in ("-wal", "-shm", ""):
        if (journal := old.with_name(old.name + end)).exists():
            journal.rename(aside.with_name(aside.name + end))
    return str(aside)
