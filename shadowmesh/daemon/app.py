"""`shadowmesh daemon run`: the process around a Daemon."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shadowmesh import __version__
from shadowmesh.client_api.local import SOCKET_NAME
from shadowmesh.client_api.unixsocket import answers
from shadowmesh.daemon.state import State
from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.descriptors import raise_limit
from shadowmesh.serving.ending import end_within, stop_on_signals

if TYPE_CHECKING:
    from shadowmesh.client_api.ownenrolment import OwnEnrolment
    from shadowmesh.daemon.daemon import Daemon
    from shadowmesh.daemon.options import DaemonOptions

JOIN_S = 30.0  # a `join` may hold the state directory that long


def run_daemon(
    state_dir: Path,
    set_up_log: Callable[[], None],
    options: DaemonOptions | None = None,
    own: OwnEnrolment | None = None,
) -> None:
    """`own`: the network in which this machine enrols itself. Runs until SIGTERM or SIGINT. Raises ShadowMeshError if it can't start, or can't go on.

    What takes long to import is imported when the pump's process has been started: it does so on another core meanwhile.
    """
    if os.geteuid() != 0:
        raise ShadowMeshError(
            "not_root", "the daemon makes network interfaces and needs root", "run it with sudo or by systemd",
            kind=Kind.NOT_ALLOWED,
        )  # fmt: skip
    raise_limit()  # before the pump's process is made, which inherits it
    state = _take(state_dir)
    try:
        pump = PumpProcess()
        set_up_log()
        failure = _serve(state, pump, options, own)
    finally:
        state.close()
    if failure is not None:
        raise failure


def _take(state_dir: Path) -> State:
    """The state directory, for this process alone. A `join` that was there first, and ends by itself, is waited for;
    another daemon isn't. Raises ShadowMeshError as `State` does."""
    deadline = time.monotonic() + JOIN_S
    while True:
        try:
            return State(state_dir)
        except ShadowMeshError as error:
            if error.code != "daemon_running" or answers(state_dir / SOCKET_NAME) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _serve(
    state: State, pump: PumpProcess, options: DaemonOptions | None, own: OwnEnrolment | None
) -> ShadowMeshError | None:
    gc.disable()  # until all is imported, which stays
    import asyncio

    from shadowmesh.daemon.daemon import Daemon
    from shadowmesh.daemon.environment import Environment

    ahead = [pump]

    def start_pump() -> PumpProcess:
        return ahead.pop() if ahead else PumpProcess()

    async def run() -> ShadowMeshError | None:
        return await _run(Daemon(state, Environment(start_pump=start_pump), options), own)

    try:
        return asyncio.run(run())
    finally:
        pump.close()


async def _run(daemon: Daemon, own: OwnEnrolment | None) -> ShadowMeshError | None:
    import asyncio

    import structlog

    from shadowmesh.daemon.local_api import LocalApi
    from shadowmesh.daemon.methods import Api

    log = structlog.get_logger(__name__)
    stop_on_signals(daemon.stopping.set)
    methods = Api(daemon, own)
    local = LocalApi(daemon.state.directory, methods.methods)
    try:
        await daemon.start()
        await local.start()
        methods.start()
        gc.freeze()
        gc.enable()
        log.info("daemon runs", version=__version__, state_dir=str(daemon.state.directory), pump=daemon.mesh.pump_name)
        _tell_systemd("READY=1")
        watchdog = asyncio.create_task(_feed_watchdog())
        await daemon.stopping.wait()
        watchdog.cancel()
        _tell_systemd("STOPPING=1")
    finally:
        end_within("daemon")
        await local.stop()
        await daemon.stop()
        log.info("daemon stopped")
    return daemon.failure


async def _feed_watchdog() -> None:
    """sd_watchdog_enabled(3): tells systemd, where it asked for that, that the event loop turns."""
    import asyncio

    interval = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
    if interval > 0 and os.environ.get("WATCHDOG_PID") in (None, str(os.getpid())):
        while True:
            _tell_systemd("WATCHDOG=1")
            await asyncio.sleep(interval / 2)


def _tell_systemd(state: str) -> None:
    """sd_notify(3), where systemd asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.send(state.encode())
