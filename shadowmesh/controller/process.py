"""A controller that holds its directory: from the database to one that serves, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog

from shadowmesh.controller import pki
from shadowmesh.controller.backup.taking import Opened
from shadowmesh.controller.backup.upgrading import check_owner, prepare_upgrade
from shadowmesh.controller.clientcerts import ClientAuthority
from shadowmesh.controller.configured import Configured
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.outward.mail import Mailer, parse_smtp
from shadowmesh.controller.outward.redisbuckets import LIMITS, RedisBuckets
from shadowmesh.controller.settings import DataDir, Settings, Timing
from shadowmesh.controller.store.database import database_url, open_store
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import escape_log
from shadowmesh.serving.ending import end_within, stop_on_signals
from shadowmesh.serving.rarelog import tame_libraries
from shadowmesh.serving.tasks import repeat

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from shadowmesh.controller.edge.tracing import Tracing
    from shadowmesh.controller.service.services import Services

log = structlog.get_logger("shadowmesh.controller")

_SQLITE_LEAST = 512  # bytes of the smallest database that SQLite writes


def run_locked(where: DataDir, told: Configured, ready: Callable[[], None] | None) -> None:
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
    settings = told.settings
    keys = KeyRing.load(where.keys)
    if told.jwt_secret is not None:
        keys = keys.with_session_secret(told.jwt_secret)
    if settings.tls_cert is None and pki.needs_renewal(where.path, settings, utc_now()):
        pki.make_server_certificate(where.path, settings, utc_now())
    password = None if told.database_password is None else told.database_password.reveal().decode()
    url = database_url(settings.database_url, where.database, password)
    if settings.database_url is None:
        _check_file(where.database)
    opened = Opened(where, settings, keys, url, told.database_password)
    check_owner(opened)
    prepare_upgrade(opened)
    mailer = None
    if told.smtp_url is not None:
        try:
            mailer = Mailer(parse_smtp(told.smtp_url.reveal().decode()), settings.sign_up_sender)
        except ValueError as e:  # what it holds is a secret: it isn't shown
            remedy = "set sign_up.smtp_url to smtps://USER:PASSWORD@HOST"
            raise ShadowMeshError("bad_config", f"sign_up.smtp_url isn't usable: {e}", remedy, kind=Kind.USAGE) from e
    redis = None
    if told.redis_url is not None:
        redis = RedisBuckets(told.redis_url.reveal().decode(), partial(keys.vault.mac, LIMITS))
    asyncio.run(_serve(where, settings, keys, url, told.timing, ready, mailer, redis))


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


async def _serve(
    where: DataDir,
    settings: Settings,
    keys: KeyRing,
    url: sa.URL,
    timing: Timing,
    ready: Callable[[], None] | None,
    mailer: Mailer | None,
    redis: RedisBuckets | None,
) -> None:
    from shadowmesh.controller.edge.server import tune

    stopping = asyncio.Event()
    stop_on_signals(stopping.set)
    async with serving(where, settings, keys, url, timing, mailer=mailer, redis=redis):
        tune()
        log.info("controller ready", listen=settings.listen, urls=settings.public_urls)
        if ready is not None:
            ready()
        await stopping.wait()
        log.info("controller stopping")
        end_within("controller")


@contextlib.asynccontextmanager
async def serving(
    where: DataDir,
    settings: Settings,
    keys: KeyRing,
    url: sa.URL,
    timing: Timing,
    clock: Callable[[], dt.datetime] = utc_now,
    mailer: Mailer | None = None,
    redis: RedisBuckets | None = None,
) -> AsyncIterator[Services]:
    """A controller that serves inside the block, on a migrated database. Raises ShadowMeshError as `run` does."""
    from shadowmesh.controller.edge.application import Front, make_app
    from shadowmesh.controller.edge.server import Serving
    from shadowmesh.controller.service.context import ServiceContext
    from shadowmesh.controller.service.limits import SharedLimits
    from shadowmesh.controller.service.services import Services

    tls = pki.server_context(where.path, settings)
    traces = None if settings.traces_to is None else _tracing(settings.traces_to)
    store = open_store(url)
    try:
        context = ServiceContext(
            store, keys, settings, timing, clock, ClientAuthority(where.path), mailer, limits=SharedLimits(redis)
        )
        if traces is not None:
            context = dataclasses.replace(context, span=traces.span)
        at = Services(context)
        app = make_app(at, pki.trust_bundle(where.path, settings), partial(pki.certificate_ends, where.path, settings))
        rest = app if traces is None else traces.requests(app)
        front: ASGIApp = Front(app, rest)
        if settings.web:
            from shadowmesh.controller.web.webapplication import Beside, make_pages

            front = Beside(front, make_pages(at))
        sockets = Serving(front, tls, settings.address, where.socket, timing)
        await at.start()
        await sockets.start()
        renewing = asyncio.create_task(
            repeat(timing.certificate_check, partial(_renew_certificate, where, settings, tls, app))
        )
        try:
            yield at
        finally:
            renewing.cancel()
            try:
                await sockets.stop()
            finally:
                await at.stop()
    finally:
        store.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)


def _tracing(endpoint: str) -> Tracing:
    try:
        from shadowmesh.controller.edge.tracing import Tracing
    except ImportError as e:
        raise ShadowMeshError(
            "telemetry_missing",
            "traces are asked for, and the program has nothing to send them with",
            "install the extra `telemetry` (`pip install 'shadowmesh[telemetry]'`), or leave telemetry.otlp_endpoint out",
            kind=Kind.FAILED,
        ) from e
    return Tracing(endpoint)


async def _renew_certificate(where: DataDir, settings: Settings, tls: ssl.SSLContext, app: FastAPI) -> None:
    """Our certificate before it ends; the operator's, when its file has changed."""
    if settings.tls_cert is None and pki.needs_renewal(where.path, settings, utc_now()):
        pki.make_server_certificate(where.path, settings, utc_now())
        log.info("server certificate renewed")
    pki.load_into(tls, where.path, settings)
    app.state.trust_bundle = pki.trust_bundle(where.path, settings)
