"""What the tests of backups share: a backup's bytes, what is in it, and a restore of it."""

from __future__ import annotations

import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from shadowmesh.controller.backup import filling
from shadowmesh.controller.backup.backupfile import Contents, read_backup
from shadowmesh.controller.backup.restore import RestoreOptions, RestoreReport, restore
from shadowmesh.controller.backup.sealedfile import Locks, Openers, parse_identity, parse_recipient
from shadowmesh.controller.backup.taking import Opened, back_up, one_moment, open_directory
from shadowmesh.controller.settings import DataDir
from shadowmesh.controller.store.database import database_url
from shadowmesh.controller.store.tablecopy import TableHead, dump

# The same in every process; spares the tests Argon2id.
RECIPIENT = "smbr1_NYBy1jZYgNGu6jKa35EhODhR7SGijjt16WXQ0s0WYlQ"
IDENTITY = "smbi1_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8"
LOCKS = Locks(recipients=(parse_recipient(RECIPIENT),))
OPENERS = Openers(identities=(parse_identity(IDENTITY),))


def backup_of(data_dir: Path) -> bytes:
    into = io.BytesIO()
    back_up(open_directory(data_dir), into, LOCKS)
    return into.getvalue()


def contents_of(file: bytes) -> Contents:
    return read_backup(io.BytesIO(file), OPENERS)


def put_back(file: bytes, data_dir: Path, **options: Any) -> RestoreReport:
    return restore(contents_of(file), RestoreOptions(data_dir, **options))


def rows_of(opened: Opened) -> dict[str, list[Any]]:
    """All rows by table, in an order that doesn't depend on the database's collation."""
    found: dict[str, list[Any]] = {}
    table = ""
    with one_moment(opened.url) as conn:
        for record in dump(conn):
            if isinstance(record, TableHead):
                table = record.table
                found[table] = []
            else:
                found[table].append(record)
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def database_of(data_dir: Path, url: str | None = None) -> Opened:
    """The database of a directory, or another one of the same controller."""
    opened = open_directory(data_dir)
    if url is None:
        return opened
    return Opened(opened.where, opened.settings, opened.keys, database_url(url, DataDir(data_dir).database))


def everything(directory: Path) -> dict[str, bytes]:
    """All files below a directory, to compare."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def killed_at(rename: int, file: bytes, source: Path, where: Path) -> int:
    """A restore over a copy of a directory, killed before that rename (the first is 0). Returns how many it did, if it wasn't.

    Forks: for processes without threads.
    """
    shutil.copytree(source, where)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        calls, real = 0, os.rename

        def counted(*arguments: Any, **options: Any) -> None:
            nonlocal calls
            if calls == rename:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            real(*arguments, **options)

        os.rename = os.replace = counted  # type: ignore[assignment]
        try:
            put_back(file, where, replace=True)
            os.write(writing, str(calls).encode())
        finally:
            os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) is (rename >= 0)
    with os.fdopen(reading) as answer:
        return int(answer.read() or 0)


def killed_before_commit(file: bytes, data_dir: Path, url: str) -> None:
    """A restore into PostgreSQL that is killed when all rows are in."""
    filling.counted = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]
    put_back(file, data_dir, replace=True, database_url=url)
