"""`shadowmesh daemon run`: the process around a Daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import structlog

from shadowmesh import __version__
from shadowmesh.daemon.api import Api
from shadowmesh.daemon.daemon import Daemon
from shadowmesh.daemon.local_api import LocalApi
from shadowmesh.daemon.state import State
from shadowmesh.model.errors import Kind, ShadowMeshError

log = structlog.get_logger(__name__)


def run_daemon(state_dir: Path) -> None:
    """Runs until SIGTERM or SIGINT. Raises ShadowMeshError if it can't start, or can't go on."""
    if os.geteuid() != 0:
        raise ShadowMeshError(
            "not_root", "the daemon makes network interfaces and needs root", "run it with sudo or by systemd",
            kind=Kind.NOT_ALLOWED,
        )  # fmt: skip
    state = State(state_dir)
    try:
        failure = asyncio.run(_run(state))
    finally:
        state.close()
    if failure is not None:
        raise failure


async def _run(state: State) -> ShadowMeshError | None:
    daemon = Daemon(state)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    local = LocalApi(state.directory, Api(daemon).methods)
    try:
        await daemon.start()
        await local.start()
        log.info("daemon runs", version=__version__, state_dir=str(state.directory), pump=daemon.pump_name)
        _tell_systemd("READY=1")
        await daemon.stopping.wait()
        _tell_systemd("STOPPING=1")
    finally:
        await local.stop()
        await daemon.stop()
        log.info("daemon stopped")
    return daemon.failure


def _tell_systemd(state: str) -> None:
    """sd_notify(3), where systemd asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.send(state.encode())
