"""Starts a controller: takes its directory, then imports what serves.

In this order, so that who looks at the lock sees early that one is starting (`client_api.starting`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from shadowmesh.controller.settings import DataDir, Settings, Timing, check_public_url, parse_listen, private_files
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`listen`, `public_urls` and `database_url` stand over what `init` wrote."""

    data_dir: Path
    listen: str | None = None
    public_urls: tuple[str, ...] = ()
    database_url: str | None = None
    timing: Timing = field(default_factory=Timing)
    ready: Callable[[], None] | None = None  # called when all sockets serve


def run(options: RunOptions, set_up_log: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGTERM or SIGINT. `set_up_log` is called before the first line of the log. Raises ShadowMeshError
    with one clear line for what keeps it from starting."""
    where = DataDir(options.data_dir)
    settings = _with_overrides(where.read(), options)
    with private_files(), _only_one(where):
        from shadowmesh.controller.process import run_locked

        set_up_log()
        run_locked(where, settings, options.timing, options.ready)


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
