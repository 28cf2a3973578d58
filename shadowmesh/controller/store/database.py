"""The store: runs plain functions of a connection, each as one transaction, on SQLite or PostgreSQL.

SQLite (WAL, synchronous=FULL, one process owning the file): one writer thread takes what waits, gives each function a
savepoint of its own, and commits them together; nobody is told of success before that commit. PostgreSQL: a pool; a
function that lost a race (a serialization failure, a deadlock) is run again. The functions are the same.
"""

from __future__ import annotations

import asyncio
import queue
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url

from shadowmesh.controller.store.notices import PREFIX, new_node_id, patience
from shadowmesh.model.errors import Kind, ShadowMeshError

T = TypeVar("T")
Transaction = Callable[[Connection], T]

GROUP = 256
_READERS = 2
_POOL = 8
_RETRIES = 5
_SEVERAL = re.compile(
    r"(?P<before>postgres(?:ql)?(?:\+psycopg)?://(?:[^@/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<after>[/?].*)?"
)
_READ_ONLY = "25006"  # read_only_sql_transaction: this server is a standby now
_LOST_RACES = ("40001", "40P01")  # serialization_failure, deadlock_detected
_OTHERS_WERE_FIRST = frozenset(
    {
        "23505",  # unique_violation
        "23503",  # foreign_key_violation
        "SQLITE_CONSTRAINT_UNIQUE",
        "SQLITE_CONSTRAINT_PRIMARYKEY",
        "SQLITE_CONSTRAINT_FOREIGNKEY",
    }
)
_REMEDIES = {
    "SQLITE_FULL": "free some space on its disk",
    "SQLITE_IOERR": "free some space on its disk, or see what ails it",
    "SQLITE_NOTADB": "put the database back from a backup",
    "SQLITE_CORRUPT": "put the database back from a backup",
}
# what a server says that lets nobody in (libpq gives no code for it)
_REFUSALS = (
    ("does not exist", "make it, or correct the database's name or user"),
    ("authentication failed", "correct user and password"),
    ("no password supplied", "give the password"),
    ("connection failed", "see that it runs and that this host gets there"),
)


def is_lost_race(error: sa.exc.IntegrityError) -> bool:
    """Whether someone else was first with what has to be unique, or took away what a row belongs to.

    Other broken constraints (a missing value) are mistakes of ours: to try again would hide them.
    """
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    return code in _OTHERS_WERE_FIRST


class StorageFailed(ShadowMeshError):
    """The database can't be written or reached; nothing of the transaction was kept.

    `PUBLIC` is what others than the operator are told: the cause may name the database's address.
    """

    PUBLIC = "the controller's database failed, and nothing was changed"

    def __init__(self, cause: BaseException) -> None:
        origin = getattr(cause, "orig", cause)
        failed = getattr(origin, "sqlite_errorname", "")
        first = (str(origin).splitlines() or [type(cause).__name__])[0]
        known = [remedy for name, remedy in _REMEDIES.items() if failed.startswith(name)]
        known += [remedy for words, remedy in _REFUSALS if not failed and words in first]
        super().__init__(
            "storage_failed",
            f"{self.PUBLIC} ({first})",
            known[0] if known else "see the controller's log",
            kind=Kind.FAILED,
        )


class StorageInDoubt(StorageFailed):
    """The connection broke while the transaction was committed: nobody can tell whether it was kept."""

    PUBLIC = "the controller's database went away while it was written, and whether that was kept isn't known"
    REMEDY = "look whether it was done, or send it again with the same Idempotency-Key"


class Store(Protocol):
    """Where transactions run."""

    engine: Engine
    shared: bool
    """Whether other controllers may write to the same database."""
    node: str
    """Who this process is among them."""

    async def write(self, tx: Transaction[T], *, urgent: bool = False) -> T:
        """Runs and commits `tx`; returns its result once it is durable. Its exceptions come through, undone; nothing is known
        to be undone after StorageInDoubt alone.

        `urgent`: it doesn't wait behind a crowd of others.
        """

    async def read(self, tx: Transaction[T]) -> T:
        """Runs `tx`, which only reads, on a consistent snapshot of what is committed."""

    @property
    def waiting(self) -> int:
        """Transactions that wait for their turn."""

    def close(self) -> None:
        """Finishes what waits and closes the database."""


def _parse(url: str) -> URL:
    """As libpq reads it: `postgresql://user@one,two:5433/name` are servers of which the one that takes writes is used.

    Raises ValueError, sqlalchemy.exc.ArgumentError.
    """
    found = _SEVERAL.fullmatch(url)
    if found is None:
        return make_url(url)
    hosts = [host if ":" in host else f"{host}:5432" for host in found["hosts"].split(",")]
    parsed = make_url(f"{found['before']}{found['after'] or ''}").update_query_dict({"host": hosts})
    wanted = parsed.query.get("target_session_attrs", "read-write")
    return parsed.update_query_dict({"target_session_attrs": wanted})


def without_password(url: str) -> tuple[str, str | None]:
    """A database's URL as it may be shown and kept, and the password that it had."""
    try:
        parsed = _parse(url)
    except (sa.exc.ArgumentError, ValueError):
        return url, None  # `database_url` says what is wrong with it
    if parsed.get_backend_name() == "sqlite":
        return url, None
    in_query = parsed.query.get("password")
    password = parsed.password or (in_query if isinstance(in_query, str) else None)
    shown = URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, parsed.query
    )
    return shown.difference_update_query(["password"]).render_as_string(), password


def database_url(url: str | None, path: Path, password: str | None = None) -> URL:
    """The URL for SQLAlchemy; `password` is for one that has none. Raises ShadowMeshError(bad_database_url)."""
    if url is None:
        return URL.create("sqlite", database=str(path))
    try:
        parsed = _parse(url)
    except (sa.exc.ArgumentError, ValueError) as e:
        parsed = None
        cause: Exception | None = e
    else:
        cause = None
    if parsed is not None and parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        if password is not None and parsed.password is None:
            parsed = parsed.set(password=password)
        return parsed.set(drivername="postgresql+psycopg")
    if parsed is not None and parsed.drivername == "sqlite" and parsed.database:
        return parsed
    raise ShadowMeshError(
        "bad_database_url",
        "the database URL is neither postgresql://… nor sqlite:///…",
        "write it as postgresql://USER@HOST:PORT/NAME",
        kind=Kind.USAGE,
    ) from cause


def make_engine(url: URL, *, read_only: bool = False, node: str = "") -> Engine:
    """An engine whose transactions begin as the store needs them. `node`: as which other nodes hear of what it tells."""
    if url.get_backend_name() == "postgresql":
        try:
            options = patience(url) | {"application_name": f"{PREFIX}{node}"}
            return sa.create_engine(url, pool_size=_POOL + 1, max_overflow=0, pool_pre_ping=True, connect_args=options)
        except ModuleNotFoundError as e:
            raise ShadowMeshError(
                "no_driver", "PostgreSQL needs psycopg", "install shadowmesh[postgresql]", kind=Kind.USAGE
            ) from e
    engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are ours to begin
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def open_store(url: URL) -> Store:
    return PostgresStore(url) if url.get_backend_name() == "postgresql" else SqliteStore(url)


class SqliteStore:
    """One writer thread with group commit; some readers."""

    shared = False

    def __init__(self, url: URL) -> None:
        self.node = new_node_id()
        self.engine = make_engine(url)
        self._reader = make_engine(url, read_only=True)
        self._readers = ThreadPoolExecutor(_READERS, "store-reader")
        self._waiting: queue.SimpleQueue[tuple[Transaction[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._writer.start()

    async def write(self, tx: Transaction[T], *, urgent: bool = False) -> T:
        if self._closed:
            raise StorageFailed(RuntimeError("it is closed"))  # nobody would take it, and the caller wait for ever
        future: Future[T] = Future()
        self._waiting.put((tx, future))
        # A caller that goes away doesn't take its transaction along: it may be half-way through the group.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def read(self, tx: Transaction[T]) -> T:
        def run() -> T:
            try:
                with self._reader.begin() as connection:
                    return tx(connection)
            except sa.exc.DBAPIError as e:
                raise StorageFailed(e) from e

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    @property
    def waiting(self) -> int:
        return self._waiting.qsize()

    def close(self) -> None:
        self._closed = True
        self._waiting.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._reader.dispose()
        self.engine.dispose()

    def _run(self) -> None:
        going = True
        while going:
            group = [self._waiting.get()]
            while len(group) < GROUP:
                try:
                    group.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            going = None not in group
            self._commit([item for item in group if item is not None])

    def _commit(self, group: list[tuple[Transaction[Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self.engine.begin() as connection:
                for tx, future in group:
                    try:
                        with connection.begin_nested():
                            done.append((future, tx(connection), None))
                    except sa.exc.IntegrityError as e:
                        done.append((future, None, e))
                    except sa.exc.DBAPIError:
                        raise  # disk full, I/O error: SQLite may have rolled all back
                    except Exception as e:
                        done.append((future, None, e))
        except Exception as e:
            failed = StorageFailed(e)
            done = [(future, None, failed) for _, future in group]
        for future, result, error in done:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


class PostgresStore:
    """A pool of connections, a thread for each."""

    shared = True

    def __init__(self, url: URL) -> None:
        self.node = new_node_id()
        self.engine = make_engine(url, node=self.node)
        self._threads = ThreadPoolExecutor(_POOL, "store")
        self._urgent = ThreadPoolExecutor(1, "store-urgent")

    async def write(self, tx: Transaction[T], *, urgent: bool = False) -> T:
        threads = self._urgent if urgent else self._threads
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(threads, self._write, tx))

    def _write(self, tx: Transaction[T]) -> T:
        for attempt in range(_RETRIES + 1):
            committing = False
            try:
                with self.engine.begin() as connection:
                    result = tx(connection)
                    committing = True
                return result
            except sa.exc.IntegrityError:
                raise
            except sa.exc.DBAPIError as e:
                state = getattr(e.orig, "sqlstate", None)
                if committing and e.connection_invalidated:
                    raise StorageInDoubt(e) from e
                if state == _READ_ONLY:
                    self.engine.dispose()  # the connections of the pool are to a server that has been replaced
                elif state not in _LOST_RACES:
                    raise StorageFailed(e) from e
                if attempt == _RETRIES:
                    raise StorageFailed(e) from e
                time.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")

    async def read(self, tx: Transaction[T]) -> T:
        def run() -> T:
            try:
                options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
                with self.engine.connect().execution_options(**options) as connection, connection.begin():
                    return tx(connection)
            except sa.exc.DBAPIError as e:
                raise StorageFailed(e) from e

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    @property
    def waiting(self) -> int:
        return self._threads._work_queue.qsize()

    def close(self) -> None:
        self._threads.shutdown()
        self._urgent.shutdown()
        self.engine.dispose()
