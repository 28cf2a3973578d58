"""Serving: TLS and the local socket by uvicorn, STUN beside them, tuned for thousands of idle connections.

What each setting brings was measured: `docs/controller.md` has the table.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import errno
import gc
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp

from shadowmesh.controller.edge.access import LocalSocket
from shadowmesh.controller.edge.stun import StunShell
from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import Kind, ShadowMeshError

log = structlog.get_logger("shadowmesh.controller")

_ACCEPTS_PER_TURN = 16
_BACKLOG = 8192
_TLS_BUFFER = 8192
_MAX_MESSAGE = 1024 * 1024


class _DeepSocket(socket.socket):
    """Listens with a deep backlog, whatever it is asked: asyncio takes the same number for accepts per turn."""

    def listen(self, _backlog: int = 0, /) -> None:
        super().listen(_BACKLOG)


class _Server(uvicorn.Server):
    """Two of them run in one loop: signals are the caller's business, and nothing wakes ten times a second."""

    def __init__(self, config: uvicorn.Config, grace: float) -> None:
        super().__init__(config)
        self._grace = grace
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not self._stopping.is_set():
            await self.on_tick(0)  # the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections; those that are there get their answers or a close frame, within the grace."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace
        while (self.server_state.connections or self.server_state.tasks) and loop.time() < end:  # noqa: ASYNC110 - plain sets
            await asyncio.sleep(0.01)
        left = list(self.server_state.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _taken(address: SockAddr, transport: str, error: OSError) -> ShadowMeshError:
    if error.errno == errno.EADDRINUSE:
        return ShadowMeshError(
            "port_taken",
            f"{transport} port {address.port} is in use by another process",
            "stop that one, or choose another with --listen",
            kind=Kind.CONFLICT,
        )
    kind = Kind.NOT_ALLOWED if error.errno in (errno.EACCES, errno.EPERM) else Kind.FAILED
    return ShadowMeshError(
        "cannot_listen",
        f"can't listen on {transport} {address} ({os.strerror(error.errno or 0)})",
        "check --listen",
        kind=kind,
    )


def _bind(sock: socket.socket, address: SockAddr, transport: str, outer: OuterSockets) -> socket.socket:
    outer.mark(sock)
    try:
        if address.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address.host, address.port))
    except OSError as e:
        sock.close()
        raise _taken(address, transport, e) from e
    return sock


def _tcp(address: SockAddr, outer: OuterSockets) -> socket.socket:
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    # The protocol is named, or asyncio would leave Nagle's algorithm on.
    sock = _DeepSocket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound = _bind(sock, address, "TCP", outer)
    try:
        bound.listen(_BACKLOG)  # now, so that a taken port is found before anything else starts
    except OSError as e:
        bound.close()
        raise _taken(address, "TCP", e) from e
    return bound


def _udp(address: SockAddr, outer: OuterSockets) -> socket.socket:
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    return _bind(socket.socket(family, socket.SOCK_DGRAM), address, "UDP", outer)


def _unix(path: Path) -> socket.socket:
    """A listening socket at a path of any length, for its owner only. The caller holds the directory's lock."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    old_mask = os.umask(0o177)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")  # sun_path holds 107 bytes
        sock.listen(128)
    except OSError as e:
        sock.close()
        raise ShadowMeshError("cannot_listen", f"can't listen on {path} ({e.strerror})", "check the directory") from e
    finally:
        os.umask(old_mask)
        os.close(directory)
    return sock


def tune() -> None:
    """Once for a process that does nothing but serve. What isn't there in this Python is left alone, and said."""
    protocol = asyncio.sslproto.SSLProtocol
    if isinstance(getattr(protocol, "max_size", None), int):
        protocol.max_size = _TLS_BUFFER
    else:
        log.warning("this Python's asyncio has no SSLProtocol.max_size: connections take more memory")
    gc.set_threshold(50_000, 50, 1_000)
    gc.collect()
    gc.freeze()


class Serving:
    """All sockets of one controller."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext, listen: SockAddr, local: Path, grace: float) -> None:
        """Binds everything. Raises ShadowMeshError: port_taken, cannot_listen."""
        self._local_path = local
        with contextlib.ExitStack() as undo:
            outer = OuterSockets(required=False)
            self._tcp = undo.enter_context(contextlib.closing(_tcp(listen, outer)))
            self._udp = [
                undo.enter_context(contextlib.closing(_udp(listen._replace(port=listen.port + i), outer)))
                for i in (0, 1)
            ]
            self._unix = undo.enter_context(contextlib.closing(_unix(local)))
            undo.pop_all()
        self._stun: StunShell | None = None
        self._servers = [
            (_Server(self._config(app, tls), grace), self._tcp),
            (_Server(self._config(LocalSocket(app), None), grace), self._unix),
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def _config(self, app: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            loop="asyncio",
            http="auto",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            ws_max_size=_MAX_MESSAGE,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_ACCEPTS_PER_TURN,
            timeout_keep_alive=30,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )

    async def start(self) -> None:
        self._stun = StunShell(self._udp)
        for server, sock in self._servers:
            self._tasks.append(asyncio.create_task(server.serve([sock])))
        while not all(server.started for server, _ in self._servers):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Answers what is under way, closes all connections."""
        for server, _ in self._servers:
            server.stop()
        await asyncio.gather(*self._tasks)
        if self._stun is not None:
            self._stun.close()
        self._local_path.unlink(missing_ok=True)
