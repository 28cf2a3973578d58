"""What the daemon keeps on disk: `STATE_DIR/state.db`, one SQLite file, 0600, every change a transaction.

Maps, which the controller can send again, lie beside it in `STATE_DIR/maps`, a log for each network. The directory is
0711 (others reach the socket, not the files). A lock file holds out a second daemon.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from shadowmesh.daemon.maplog import MapLog
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.devicelink import KEPT_CHECKPOINTS, AuditCheckpoint, MapUpdate
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import NetworkID, SealingPublicKey, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.sealing import SECRET_SIZE
from shadowmesh.protocol.signing import IdentityDocument
from shadowmesh.serving.files import sync_names

FORMAT = 1
_DATABASE = "state.db"
_MAPS = "maps"
_CURRENT = "current"
_SQLITE_LEAST = 512  # bytes of the smallest database that SQLite writes
_LATEST = 2.0**40  # Unix time, far beyond any clock
_LITTLE = 64 * 1024  # bytes free on a disk: less is none
_BUSY_AT_START, _BUSY = 5000, 100  # milliseconds to wait for another process that holds the database


Ending = Literal["removed", "refused", "expired", "left"]


class ControllerRecord(Struct, frozen=True, kw_only=True):
    """How to reach and verify the controller of a network."""

    fingerprint: str
    identity: IdentityDocument  # as checked by the fingerprint
    clock_offset: float = 0.0  # controller's wall clock minus ours, seconds


class NetworkRecord(Struct, frozen=True, kw_only=True):
    """One network that this machine joined; its secrets are columns of their own."""

    network_id: NetworkID
    ref: NetworkRef
    name: str
    client_id: ClientID
    client_name: str = ""  # what this machine is called in it
    ip: str
    wanted: bool = True  # `down` clears it
    approved: bool = True
    controller: ControllerRecord
    netns: str | None = None  # the network namespace that it is put into
    nth: int = 0  # those with a lower number were joined before


class FormerNetwork(Struct, frozen=True, kw_only=True):
    """A membership that has ended. One that ended by others' will is shown to people until they `leave` it; one that
    was left is kept until its controller has been told."""

    record: NetworkRecord
    state: Ending
    what: str = ""  # one sentence
    at: float = 0.0  # Unix time by the controller's clock
    wg_key: WireGuardPublicKey | None = None  # of the membership: one made since has another


class NetworkSecrets:
    """The private keys of one network's membership."""

    __slots__ = ("sealing_private", "sealing_public", "wg_private")

    def __init__(self, wg_private: Secret, sealing_private: Secret, sealing_public: SealingPublicKey) -> None:
        self.wg_private = wg_private
        self.sealing_private = sealing_private
        self.sealing_public = sealing_public


_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device (id INTEGER PRIMARY KEY CHECK (id = 1), private_key BLOB NOT NULL, port INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS networks (
  network_id BLOB PRIMARY KEY, record BLOB NOT NULL,
  wg_private BLOB NOT NULL, sealing_private BLOB NOT NULL, sealing_public BLOB NOT NULL,
  relay_token TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epoch_keys (
  network_id BLOB NOT NULL REFERENCES networks(network_id) ON DELETE CASCADE,
  epoch INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY (network_id, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS former (network_id BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS enrolments (
  invite_hash BLOB PRIMARY KEY, wg_private BLOB NOT NULL, sealing_private BLOB NOT NULL, sealing_public BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (
  fingerprint TEXT NOT NULL, commitment TEXT NOT NULL, at REAL NOT NULL, checkpoint BLOB NOT NULL,
  PRIMARY KEY (fingerprint, commitment)) WITHOUT ROWID;
"""


class State:
    """The open state of one daemon. Methods are transactions; they raise ShadowMeshError where a person can help."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mutex = threading.RLock()  # a join enrols in a worker thread
        self._lock = _lock_directory(directory)
        fresh = not (directory / _DATABASE).exists()
        try:
            self._db = _open(directory)
        except BaseException:
            os.close(self._lock)
            raise
        self._maps: dict[NetworkID, MapLog] = {}
        if fresh:
            self.mark_current()

    def close(self) -> None:
        with self._mutex:
            self._db.close()
        os.close(self._lock)

    # whether the maps in it are the newest that this machine was told: a file, since taking one away works on a full disk

    @property
    def is_current(self) -> bool:
        return (self.directory / _CURRENT).exists()

    def mark_current(self) -> None:
        """All that was told is saved."""
        if not self.is_current:
            with suppress(OSError):
                (self.directory / _CURRENT).touch(0o600)

    def mark_behind(self) -> None:
        """Something that was told couldn't be saved: to be known after a restart, whatever else fails."""
        if self.is_current:
            with suppress(OSError):
                (self.directory / _CURRENT).unlink()
                sync_names(self.directory)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            try:
                with self._db:
                    yield self._db
            except sqlite3.Error as e:
                raise _failed(self.directory, e) from e
            except (MalformedError, TypeError, ValueError) as e:  # what is there isn't what was written
                raise _unreadable(self.directory, e) from e

    # the device

    def device(self) -> tuple[Secret, int]:
        """The device's Ed25519 private key and its UDP port (random per installation, kept)."""
        with self._transaction() as db:
            row = db.execute("SELECT private_key, port FROM device").fetchone()
            if row is None:
                if db.execute("SELECT 1 FROM networks").fetchone() is not None:
                    raise MalformedError("the device's key is missing")  # a new one would be another machine
                row = (secrets.token_bytes(32), 20000 + secrets.randbelow(40000))
                db.execute("INSERT INTO device VALUES (1, ?, ?)", row)
            return _key(row[0]), int(_number(row[1], 65535))

    def reset_identity(self) -> None:
        """Forgets the device's key and every membership with all that belongs to it: the next start is another machine."""
        with self._transaction() as db:
            for table in ("epoch_keys", "networks", "former", "enrolments", "checkpoints", "device"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above
        self._maps.clear()
        for path in (self.directory / _MAPS).glob("*"):
            path.unlink(missing_ok=True)

    def set_port(self, port: int) -> None:
        with self._transaction() as db:
            db.execute("UPDATE device SET port = ?", (port,))

    def timestamp(self) -> float:
        """No handshake timestamp above this was ever used: Unix time, 0.0 if none was."""
        with self._transaction() as db:
            row = db.execute("SELECT value FROM meta WHERE key = 'timestamp'").fetchone()
            return _number(row[0], _LATEST) if row else 0.0

    def keep_timestamp(self, timestamp: float) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('timestamp', ?)", (repr(timestamp),))

    # networks

    def networks(self) -> list[NetworkRecord]:
        """Those joined, the first first: of two that can't both run it is the one."""
        with self._transaction() as db:
            rows = db.execute("SELECT record FROM networks").fetchall()
            return sorted((from_json(r[0], NetworkRecord) for r in rows), key=lambda n: (n.nth, n.name))

    def secrets_of(self, network_id: NetworkID) -> NetworkSecrets:
        with self._transaction() as db:
            row = db.execute(
                "SELECT wg_private, sealing_private, sealing_public FROM networks WHERE network_id = ?",
                (bytes(network_id),),
            ).fetchone()
            if row is None:
                raise MalformedError("a network's keys are missing")
            return _secrets(row)

    def put_network(self, record: NetworkRecord, keys: NetworkSecrets) -> None:
        """A new membership; what was kept of a former one in the same network goes."""
        with self._transaction() as db:
            db.execute("DELETE FROM former WHERE network_id = ?", (bytes(record.network_id),))
            db.execute(
                "INSERT INTO networks (network_id, record, wg_private, sealing_private, sealing_public)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (network_id) DO UPDATE SET record = excluded.record,"
                " wg_private = excluded.wg_private, sealing_private = excluded.sealing_private,"
                " sealing_public = excluded.sealing_public",
                (
                    bytes(record.network_id),
                    to_json(record),
                    keys.wg_private.reveal(),
                    keys.sealing_private.reveal(),
                    bytes(keys.sealing_public),
                ),
            )

    def update_network(self, record: NetworkRecord) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE networks SET record = ? WHERE network_id = ?", (to_json(record), bytes(record.network_id))
            )

    def end_network(self, former: FormerNetwork) -> None:
        """Deletes a membership's keys and map; that it was is kept."""
        network_id = bytes(former.record.network_id)
        with self._map(former.record.network_id) as log:
            log.delete()  # first: it works on a full disk, and without its map no network comes up
        with self._transaction() as db:
            db.execute("DELETE FROM networks WHERE network_id = ?", (network_id,))
            db.execute("INSERT OR REPLACE INTO former VALUES (?, ?)", (network_id, to_json(former)))

    def forget_former(self, network_id: NetworkID) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM former WHERE network_id = ?", (bytes(network_id),))

    def former_networks(self) -> list[FormerNetwork]:
        with self._transaction() as db:
            rows = db.execute("SELECT record FROM former").fetchall()
            return [from_json(row[0], FormerNetwork) for row in rows]

    # map, keys, token

    def save_map(self, netmap: NetworkMap, update: MapUpdate) -> None:
        """A map, and the message that brought it: of a change, the change is written."""
        with self._map(update.network_id) as log:
            log.save(netmap, update)

    def load_map(self, network_id: NetworkID) -> NetworkMap | None:
        """The newest map that was kept; None also if what was kept isn't understood, as the controller will send it."""
        with self._map(network_id) as log:
            return log.load()

    @contextmanager
    def _map(self, network_id: NetworkID) -> Iterator[MapLog]:
        with self._mutex:
            try:
                log = self._maps.get(network_id)
                if log is None:
                    directory = self.directory / _MAPS
                    directory.mkdir(mode=0o700, exist_ok=True)
                    log = self._maps[network_id] = MapLog(directory / f"{network_id.hex()}.log")
                yield log
            except OSError as e:
                raise _failed(self.directory, e) from e

    def save_grant(self, network_id: NetworkID, keys: dict[int, Secret], relay_token: str) -> None:
        """Replaces the network's epoch keys and its relay token."""
        with self._transaction() as db:
            db.execute("DELETE FROM epoch_keys WHERE network_id = ?", (bytes(network_id),))
            db.executemany(
                "INSERT INTO epoch_keys VALUES (?, ?, ?)",
                [(bytes(network_id), epoch, key.reveal()) for epoch, key in keys.items()],
            )
            db.execute("UPDATE networks SET relay_token = ? WHERE network_id = ?", (relay_token, bytes(network_id)))

    def load_grant(self, network_id: NetworkID) -> tuple[dict[int, Secret], str]:
        with self._transaction() as db:
            rows = db.execute("SELECT epoch, key FROM epoch_keys WHERE network_id = ?", (bytes(network_id),)).fetchall()
            token = db.execute("SELECT relay_token FROM networks WHERE network_id = ?", (bytes(network_id),)).fetchone()
            return {int(_number(epoch, 2**32 - 1)): _key(key) for epoch, key in rows}, str(token[0]) if token else ""

    # checkpoints of controllers' audit logs, which this machine is a witness of

    def keep_checkpoint(self, fingerprint: str, checkpoint: AuditCheckpoint) -> None:
        """Keeps it, among the newest KEPT_CHECKPOINTS of this controller."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?, ?)",
                (fingerprint, checkpoint.commitment, checkpoint.at, to_json(checkpoint)),
            )
            db.execute(
                "DELETE FROM checkpoints WHERE fingerprint = ?1 AND commitment NOT IN"
                " (SELECT commitment FROM checkpoints WHERE fingerprint = ?1 ORDER BY at DESC LIMIT ?2)",
                (fingerprint, KEPT_CHECKPOINTS),
            )

    def checkpoints(self, fingerprint: str) -> list[AuditCheckpoint]:
        """Of the controller with this fingerprint, oldest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT checkpoint FROM checkpoints WHERE fingerprint = ? ORDER BY at", (fingerprint,)
            ).fetchall()
            return [from_json(row[0], AuditCheckpoint) for row in rows]

    def forget_checkpoints(self, fingerprint: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM checkpoints WHERE fingerprint = ?", (fingerprint,))

    # enrolments under way: a join that is tried again after a crash uses the same keys, so the invite isn't used twice

    def enrolment_keys(self, invite_hash: bytes, make: Callable[[], NetworkSecrets]) -> tuple[NetworkSecrets, bool]:
        """The keys of an enrolment begun with this invite, or those that `make()` returns, kept; whether they are fresh."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT wg_private, sealing_private, sealing_public FROM enrolments WHERE invite_hash = ?",
                (invite_hash,),
            ).fetchone()
            if row is not None:
                return _secrets(row), False
            keys = make()
            db.execute(
                "INSERT INTO enrolments VALUES (?, ?, ?, ?)",
                (invite_hash, keys.wg_private.reveal(), keys.sealing_private.reveal(), bytes(keys.sealing_public)),
            )
            return keys, True

    def end_enrolment(self, invite_hash: bytes) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM enrolments WHERE invite_hash = ?", (invite_hash,))


def _key(value: object, size: int = 32) -> Secret:
    """A key of `size` bytes. Raises MalformedError for what else may be there."""
    if not isinstance(value, bytes) or len(value) != size:
        raise MalformedError(f"a key isn't {size} bytes long")
    return Secret(value)


def _number(value: Any, most: float) -> float:
    """Raises MalformedError for what isn't from 0 to `most`, TypeError or ValueError for what is no number."""
    number = float(value)
    if not 0 <= number <= most:  # NaN isn't, either
        raise MalformedError(f"{number} isn't from 0 to {most}")
    return number


def _secrets(row: tuple[object, object, bytes]) -> NetworkSecrets:
    return NetworkSecrets(_key(row[0]), _key(row[1], SECRET_SIZE), SealingPublicKey(row[2]))


def _lock_directory(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files = {entry.name for entry in directory.iterdir()}
        if not files or _DATABASE in files:  # ours; what else there may be keeps its own permissions
            directory.chmod(0o711)
        descriptor = os.open(directory / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        kind = Kind.NOT_ALLOWED if isinstance(e, PermissionError) else Kind.FAILED
        raise ShadowMeshError(
            "state_dir", f"can't use the state directory {directory} ({e.strerror})",
            "run as root, or say another --state-dir", kind=kind,
        ) from e  # fmt: skip
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(descriptor)
        raise ShadowMeshError(
            "daemon_running", f"another daemon uses {directory}", "stop it, or say another --state-dir",
            kind=Kind.CONFLICT,
        ) from e  # fmt: skip
    return descriptor


def _open(directory: Path) -> sqlite3.Connection:
    path = directory / _DATABASE
    try:
        if not path.exists():
            _create(directory)
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        path.chmod(0o600)
        if path.stat().st_size < _SQLITE_LEAST:  # SQLite would take it for a new one
            raise _unreadable(directory, "it is empty")
        connection = sqlite3.connect(path, check_same_thread=False, timeout=_BUSY_AT_START / 1000)
    except (OSError, sqlite3.Error) as e:
        raise _failed(directory, e) from e
    try:
        _check_format(connection, directory)  # first: what a newer version wrote isn't touched
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {_BUSY}")  # from now on it would be the event loop that waits
    except BaseException as e:
        connection.close()
        if isinstance(e, sqlite3.Error):
            raise _failed(directory, e) from e
        if isinstance(e, (TypeError, ValueError)):  # as of text that isn't UTF-8
            raise _unreadable(directory, e) from e
        raise
    return connection


def _create(directory: Path) -> None:
    """A state with all tables, under its name once it is whole: one that is there and lacks them is damaged."""
    import sqlite_utils  # brings numpy with it, a sixth of a second: once in a state's life

    new, path = directory / f"{_DATABASE}.new", directory / _DATABASE
    for name in (new, path):  # of a start that was killed; of a state that somebody moved away without its journal
        for left in (name.name, f"{name.name}-wal", f"{name.name}-shm"):
            (directory / left).unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(new)) as connection:
        sqlite_utils.Database(connection).enable_wal()  # it is kept in the file
        connection.execute("PRAGMA synchronous = FULL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
    new.rename(path)
    sync_names(directory)


def _check_format(db: sqlite3.Connection, directory: Path) -> None:
    """Raises ShadowMeshError unless there is a whole state in it, one that this version reads."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        raise _unreadable(directory, "there is none in state.db")
    row = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    found = str(row[0]) if row is not None else "1"
    if not found.isdecimal():
        raise _unreadable(directory, f"format {found[:20]!r}")
    if int(found) > FORMAT:
        raise ShadowMeshError(
            "state_newer",
            f"the state in {directory} was written by a newer version (format {found}, this one knows {FORMAT})",
            "install that version again",
        )
    damage = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    if damage != "ok":  # rows on a damaged page would be missed without a word
        raise _unreadable(directory, damage)


def _failed(directory: Path, error: sqlite3.Error | OSError) -> ShadowMeshError:
    """What the disk or SQLite refused, told apart as far as a person can help it."""
    name = getattr(error, "sqlite_errorname", "")
    full = name == "SQLITE_FULL" or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or (name.startswith("SQLITE_IOERR") and _is_full(directory)):  # SQLite doesn't always say why
        return ShadowMeshError(
            "disk_full", f"no space is left for the state in {directory}", "free some, and do it again"
        )
    if isinstance(error, OSError) or name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        why = error.strerror if isinstance(error, OSError) else str(error)
        return ShadowMeshError(
            "state_unwritable", f"the state in {directory} can't be written ({why})", "see to the disk and its rights"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ShadowMeshError(
            "state_held",
            f"another process holds the state in {directory}",
            f"end what has {directory / _DATABASE} open",
        )
    return _unreadable(directory, error)


def _is_full(directory: Path) -> bool:
    try:
        disk = os.statvfs(directory)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _LITTLE


def _unreadable(directory: Path, error: object) -> ShadowMeshError:
    return ShadowMeshError(
        "state_unreadable",
        f"the state in {directory} can't be read ({error})",
        "restore state.db from a backup, or move it away and join again",
    )
