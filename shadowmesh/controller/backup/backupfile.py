"""What is in a backup: a manifest, the files of the data directory, all rows of the database, and how many these were.

A stream of JSON lines, deflated, inside a sealed file (`sealedfile`). It is written from one moment of the database and
read once, line by line: a controller of any size fits.
"""

from __future__ import annotations

import base64
import datetime as dt
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh import __version__
from shadowmesh.controller.backup.sealedfile import (
    Locks,
    Openers,
    SealedHeader,
    open_stream,
    read_header,
    seal_stream,
)
from shadowmesh.controller.keyring import KeyRing, Vault
from shadowmesh.controller.service.audit_log import AuditWalk
from shadowmesh.controller.settings import CONFIG_NAME, DATABASE_PASSWORD_NAME, DataDir, Settings
from shadowmesh.controller.store.migrate import revision_of
from shadowmesh.controller.store.tablecopy import Record, TableHead, dump
from shadowmesh.model.codec import Struct, from_builtins, from_json, to_builtins, to_json
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.keys import Secret

_FORM = "shadowmesh.controller-backup/1"
_PIECE = 64 * 1024
_LONGEST_LINE = 64 * 1024 * 1024


class AuditEnd(Struct, frozen=True, kw_only=True):
    """The newest entry of the audit log: its number and hash."""

    seq: int
    hash: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup is of."""

    form: str = _FORM
    version: str  # of shadowmesh, that wrote it
    revision: str  # of the database
    made_at: dt.datetime
    fingerprint: str
    public_urls: tuple[str, ...]
    database: str  # sqlite or postgresql
    audit: AuditEnd


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """Whether the audit log that went by was whole. `broken_at`: the first entry that isn't as it was written."""

    entries: int
    broken_at: int | None


class ChainListener:
    """Checks the audit log in records that go by."""

    def __init__(self, vault: Vault) -> None:
        self._walk = AuditWalk(vault)
        self._columns: tuple[str, ...] = ()
        self._table = ""
        self._broken: int | None = None
        self._end: Mapping[str, Any] | None = None

    def hears(self, record: Record) -> None:
        if isinstance(record, TableHead):
            self._table, self._columns = record.table, record.columns
        elif self._table == "audit_head":
            self._end = dict(zip(self._columns, record, strict=True))
        elif self._table == "audit" and self._broken is None and not self._takes(record):
            self._broken = self._walk.entries + 1

    def _takes(self, record: list[Any]) -> bool:
        entry = dict(zip(self._columns, record, strict=True))
        try:
            entry["at"] = dt.datetime.fromisoformat(entry["at"])
            return self._walk.takes(entry)
        except (ValueError, TypeError, AttributeError):  # who writes to the database may write nonsense
            return False

    def verdict(self) -> ChainVerdict:
        walk, broken = self._walk, self._broken
        if broken is None and (self._end is None or (self._end["seq"], self._end["hash"]) != (walk.entries, walk.head)):
            broken = walk.entries + 1
        return ChainVerdict(walk.entries, broken)


# writing


@dataclass(frozen=True, slots=True)
class BackupWritten:
    """What a backup holds."""

    manifest: Manifest
    rows: Mapping[str, int]
    chain: ChainVerdict


@dataclass(frozen=True, slots=True)
class BackupSource:
    """Where a backup is taken of. `settings` and `password` (the database's): as they are in force."""

    where: DataDir
    settings: Settings
    keys: KeyRing
    password: Secret | None = None


def write_backup(
    conn: Connection, source: BackupSource, into: IO[bytes], locks: Locks, now: dt.datetime
) -> BackupWritten:
    """A backup of what the connection's transaction sees and of the directory's files. Raises OSError, and as reading does."""
    settings, keys = source.settings, source.keys
    chain, rows = ChainListener(keys.vault), dict[str, int]()
    end = conn.execute(sa.text("SELECT seq, hash FROM audit_head")).one()
    manifest = Manifest(
        version=__version__,
        revision=revision_of(conn) or "",
        made_at=now,
        fingerprint=keys.identity.public.fingerprint,
        public_urls=settings.public_urls,
        database=conn.dialect.name,
        audit=AuditEnd(seq=end.seq, hash=end.hash),
    )

    def heard() -> Iterator[Record]:
        for found in dump(conn):
            chain.hears(found)
            yield found

    def lines() -> Iterator[Any]:
        yield to_builtins(manifest)
        for name, content in sorted(directory_files(source).items()):
            yield {"file": name, "b64": base64.b64encode(content).decode()}
        for line in record_lines(heard()):
            if isinstance(line, dict) and "end" in line:
                rows.update(line["end"])
            yield line

    for piece in seal_stream(_deflated(lines()), locks):
        into.write(piece)
    return BackupWritten(manifest, rows, chain.verdict())


def record_lines(records: Iterable[Record]) -> Iterator[Any]:
    """The records as they are written, and after them how many there were of each table."""
    rows, table = dict[str, int](), ""
    for record in records:
        if isinstance(record, TableHead):
            table, rows[record.table] = record.table, 0
            yield {"table": record.table, "columns": record.columns}
        else:
            rows[table] += 1
            yield record
    yield {"end": rows}


def directory_files(source: BackupSource) -> dict[str, bytes]:
    """What a backup keeps of a data directory, by names relative to it; settings as they are in force, wherever they were said."""
    where = source.where
    found = {f"keys/{name}.key": base64.b64encode(secret.reveal()) for name, secret in source.keys.secrets().items()}
    if source.password is not None:
        found[f"keys/{DATABASE_PASSWORD_NAME}"] = source.password.reveal()
    found[CONFIG_NAME] = to_json(source.settings)
    kept = (where.path / name for name in ("ca.key", "ca.pem"))
    return found | {path.name: path.read_bytes() for path in kept if path.exists()}


def _deflated(lines: Iterable[Any]) -> Iterator[bytes]:
    packer = zlib.compressobj(6)
    waiting = bytearray()
    for line in lines:
        waiting += msgspec.json.encode(line) + b"\n"
        if len(waiting) >= _PIECE:
            yield packer.compress(bytes(waiting))
            waiting.clear()
    yield packer.compress(bytes(waiting)) + packer.flush()


# reading


def backup_unusable(what: str) -> ShadowMeshError:
    """Authentic, and yet not what a backup is."""
    return ShadowMeshError("backup_unusable", what, "take another backup; nothing was changed")


@dataclass(slots=True)
class Contents:
    """A backup that is being read: manifest and files are there, the records come once.

    `rows` is complete, and all is known to be there, when `records` has ended.
    """

    manifest: Manifest
    files: dict[str, bytes]
    lines: Iterator[Any]  # what follows the files, as it is written
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> KeyRing:
        """Raises ShadowMeshError(backup_unusable)."""
        try:
            found = KeyRing.of(
                {
                    name.removeprefix("keys/").removesuffix(".key"): Secret(base64.b64decode(raw))
                    for name, raw in self.files.items()
                    if name.endswith(".key") and name.startswith("keys/")
                }
            )
        except (KeyError, ValueError) as e:
            raise backup_unusable("the backup lacks keys of its controller") from e
        if found.identity.public.fingerprint != self.manifest.fingerprint:
            raise backup_unusable("the backup's keys aren't those of the controller that it is of")
        return found

    @property
    def settings(self) -> Settings:
        """Raises ShadowMeshError(backup_unusable)."""
        try:
            return from_json(self.files[CONFIG_NAME], Settings)
        except (KeyError, MalformedError) as e:
            raise backup_unusable(f"the backup lacks a {CONFIG_NAME} that can be read") from e

    def records(self) -> Iterator[Record]:
        """All rows. Raises ShadowMeshError: backup_damaged, backup_truncated, backup_unusable."""
        table = ""
        for line in self.lines:
            if isinstance(line, list):
                self.rows[table] += 1
                yield line
            elif "table" in line:
                table = line["table"]
                self.rows[table] = 0
                yield TableHead(table, tuple(line["columns"]))
            elif line.get("end") == self.rows:
                if next(self.lines, None) is not None:
                    raise backup_unusable("the backup goes on after its end")
                return
            else:
                raise backup_unusable("the backup doesn't have as many rows as it says")
        raise backup_unusable("the backup has no end")


def read_backup(file: IO[bytes], openers: Openers, opened: tuple[SealedHeader, bytes] | None = None) -> Contents:
    """Opens a backup up to its first table. `opened`: its header, if that was read.

    Raises ShadowMeshError: as `sealedfile` does, and backup_unusable, backup_newer.
    """
    header, raw = read_header(file) if opened is None else opened
    lines = _inflated(open_stream(file, header, raw, openers))
    first = next(lines, None)
    if not isinstance(first, dict) or first.get("form") != _FORM:
        raise ShadowMeshError(
            "backup_newer", "the backup has a form that this version doesn't know", "upgrade shadowmesh"
        )
    try:
        contents = Contents(from_builtins(first, Manifest), {}, iter(()))
        for line in lines:
            if not (isinstance(line, dict) and "file" in line):
                contents.lines = _with_first(line, lines)
                break
            contents.files[line["file"]] = base64.b64decode(line["b64"])
    except (MalformedError, ValueError, KeyError) as e:
        raise backup_unusable("the backup can't be understood") from e
    return contents


def _with_first(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _inflated(pieces: Iterator[bytes]) -> Iterator[Any]:
    unpacker = zlib.decompressobj()
    waiting = b""
    try:
        for piece in pieces:
            left = piece
            while left:
                waiting += unpacker.decompress(left, _PIECE)
                left = unpacker.unconsumed_tail
                *whole, waiting = waiting.split(b"\n")
                for line in whole:
                    yield msgspec.json.decode(line)
                if len(waiting) > _LONGEST_LINE:
                    raise backup_unusable("the backup has a line that is longer than any that is written")
        *whole, waiting = (waiting + unpacker.flush()).split(b"\n")
        for line in whole:
            yield msgspec.json.decode(line)
        if waiting or not unpacker.eof:
            raise backup_unusable("the backup has no end")
    except (zlib.error, msgspec.DecodeError) as e:
        raise backup_unusable("the backup can't be understood") from e
