"""Runs a controller: from its directory to one that serves, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from msgspec.structs import replace
from sqlalchemy.engine import Engine

from shadowmesh.controller import pki
from shadowmesh.controller.keys import KeyRing
from shadowmesh.controller.settings import (
    DataDir,
    Settings,
    Timing,
    check_public_url,
    parse_listen,
    private_files,
)
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import database_url, make_engine, open_store
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


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`listen`, `public_urls` and `database_url` stand over what `init` wrote."""

    data_dir: Path
    listen: str | None = None
    public_urls: tuple[str, ...] = ()
    database_url: str | None = None
    timing: Timing = field(default_factory=Timing)
    ready: Callable[[], None] | None = None  # called when all sockets serve


def run(options: RunOptions) -> None:
    """Serves until SIGTERM or SIGINT. Raises ShadowMeshError with one clear line for what keeps it from starting."""
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
    with private_files():
        _run(options)


def _run(options: RunOptions) -> None:
    where = DataDir(options.data_dir)
    settings = _with_overrides(where.read(), options)
    keys = KeyRing.load(where.keys)
    with _only_one(where):
        if settings.tls_cert is None and pki.needs_renewal(where.path, settings, utc_now()):
            pki.make_server_certificate(where.path, settings, utc_now())
        url = database_url(settings.database_url, where.database, where.database_password())
        if settings.database_url is None and not where.database.exists():
            raise ShadowMeshError(
                "database_missing", f"{where.database} is missing", "put it back from a backup", kind=Kind.FAILED
            )
        engine = make_engine(url)
        try:
            migrate(engine)
            _check_owner(engine, keys)
        finally:
            engine.dispose()
        asyncio.run(_serve(where, settings, keys, url, options))


def _with_overrides(settings: Settings, options: RunOptions) -> Settings:
    return replace(
        settings.without_what_ran_out(utc_now().timestamp()),
        public_urls=tuple(check_public_url(url) for url in options.public_urls) or settings.public_urls,
        listen=str(parse_listen(options.listen)) if options.listen else settings.listen,
        database_url=options.database_url or settings.database_url,
    )


@contextlib.contextmanager
def _only_one(where: DataDir) -> Iterator[None]:
    """One process owns the directory, and the SQLite file in it."""
    descriptor = os.open(where.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(descriptor)
        raise ShadowMeshError(
            "already_running", f"a controller runs in {where.path} already", "stop that one first", kind=Kind.CONFLICT
        ) from e
    try:
        yield
    finally:
        os.close(descriptor)


def _check_owner(engine: Engine, keys: KeyRing) -> None:
    query = sa.select(schema.meta.c.value).where(schema.meta.c.key == "fingerprint")
    with engine.connect() as connection:
        owner = connection.execute(query).scalar()
    if owner != keys.identity.public.fingerprint:
        raise ShadowMeshError(
            "wrong_database",
            "this database belongs to a controller with another identity key",
            "put keys and database of one controller together",
        )


async def _serve(where: DataDir, settings: Settings, keys: KeyRing, url: sa.URL, options: RunOptions) -> None:
    from shadowmesh.controller.edge.server import tune

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with serving(where, settings, keys, url, options.timing):
        tune()
        log.info("controller ready", listen=settings.listen, urls=settings.public_urls)
        if options.ready is not None:
            options.ready()
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
