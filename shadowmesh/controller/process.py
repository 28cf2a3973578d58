"""A controller that holds its directory: from the database to one that serves, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Engine

from shadowmesh.controller import pki
from shadowmesh.controller.keys import KeyRing
from shadowmesh.controller.settings import DataDir, Settings, Timing
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed, database_url, make_engine, open_store
from shadowmesh.controller.store.migrate import migrate
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import escape_log
from shadowmesh.serving.rarelog import tame_libraries
from shadowmesh.serving.tasks import repeat

if TYPE_CHECKING:
    from fastapi import FastAPI

    from shadowmesh.controller.service.services import Services

log = structlog.get_logger("shadowmesh.controller")

_SQLITE_LEAST = 512  # bytes of the smallest database that SQLite writes


def run_locked(where: DataDir, settings: Settings, timing: Timing, ready: Callable[[], None] | None) -> None:
    """Serves until SIGTERM or SIGINT, from `ready` on; the caller holds the directory's lock. Raises ShadowMeshError as `run.run` does."""
    if not structlog.is_configured():  # logs go to stderr, whoever started this
        structlog.configure(
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                escape_log,
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    tame_libraries("shadowmesh.controller")
    keys = KeyRing.load(where.keys)
    if settings.tls_cert is None and pki.needs_renewal(where.path, settings, utc_now()):
        pki.make_server_certificate(where.path, settings, utc_now())
    url = database_url(settings.database_url, where.database, where.database_password())
    if settings.database_url is None:
        _check_file(where.database)
    engine = make_engine(url)
    try:
        _check_owner(engine, keys)
        migrate(engine)
    finally:
        engine.dispose()
    asyncio.run(_serve(where, settings, keys, url, timing, ready))


def _check_file(path: Path) -> None:
    """`init` made it: one that isn't there any more, or that was cut short, is not made anew."""
    size = path.stat().st_size if path.exists() else None
    if size is None:
        raise ShadowMeshError("database_missing", f"{path} is missing", "put it back from a backup", kind=Kind.FAILED)
    if size < _SQLITE_LEAST:  # SQLite would take it for a new database, and throw away the journal beside it
        raise ShadowMeshError(
            "database_damaged",
            f"{path} has {size} bytes: what was in it is gone; it was left as it is",
            "put it back from a backup",
            kind=Kind.FAILED,
        )


def _check_owner(engine: Engine, keys: KeyRing) -> None:
    """Before anything is written to it. Raises ShadowMeshError: database_damaged, wrong_database, storage_failed."""
    query = sa.select(schema.meta.c.value).where(schema.meta.c.key == "fingerprint")
    try:
        with engine.connect() as connection:
            made = sa.inspect(connection).has_table(schema.meta.name)
            owner = connection.execute(query).scalar() if made else None
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e
    if owner is None:
        raise ShadowMeshError(
            "database_damaged",
            "the database holds no controller; it was left as it is",
            "put it back from a backup, or correct --database-url",
            kind=Kind.FAILED,
        )
    if owner != keys.identity.public.fingerprint:
        raise ShadowMeshError(
            "wrong_database",
            "this database belongs to a controller with another identity key; it was left as it is",
            "put keys and database of one controller together",
        )


async def _serve(
    where: DataDir, settings: Settings, keys: KeyRing, url: sa.URL, timing: Timing, ready: Callable[[], None] | None
) -> None:
    from shadowmesh.controller.edge.server import tune

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with serving(where, settings, keys, url, timing):
        tune()
        log.info("controller ready", listen=settings.listen, urls=settings.public_urls)
        if ready is not None:
            ready()
        await stopping.wait()
        log.info("controller stopping")


@contextlib.asynccontextmanager
async def serving(
    where: DataDir,
    settings: Settings,
    keys: KeyRing,
    url: sa.URL,
    timing: Timing,
    clock: Callable[[], dt.datetime] = utc_now,
) -> AsyncIterator[Services]:
    """A controller that serves inside the block, on a migrated database. Raises ShadowMeshError as `run` does."""
    from shadowmesh.controller.edge.api import Front, make_app
    from shadowmesh.controller.edge.server import Serving
    from shadowmesh.controller.service.core import Core
    from shadowmesh.controller.service.services import Services

    tls = pki.server_context(where.path, settings)
    store = open_store(url)
    try:
        at = Services(Core(store, keys, settings, timing, clock))
        app = make_app(at, pki.trust_bundle(where.path, settings))
        sockets = Serving(Front(app), tls, settings.address, where.socket, timing)
        await at.start()
        await sockets.start()
        renewing = asyncio.create_task(
            repeat(timing.certificate_check, partial(_renew_certificate, where, settings, tls, app))
        )
        try:
            yield at
        finally:
            renewing.cancel()
            await sockets.stop()
            await at.stop()
    finally:
        store.close()


async def _renew_certificate(where: DataDir, settings: Settings, tls: ssl.SSLContext, app: FastAPI) -> None:
    """Our certificate before it ends; the operator's, when its file has changed."""
    if settings.tls_cert is None and pki.needs_renewal(where.path, settings, utc_now()):
        pki.make_server_certificate(where.path, settings, utc_now())
        log.info("server certificate renewed")
    pki.load_into(tls, where.path, settings)
    app.state.trust_bundle = pki.trust_bundle(where.path, settings)
