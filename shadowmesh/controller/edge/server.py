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
from shadowmesh.controller.edge.connections import FIRST_MESSAGE, TLS_PIECE, Http, Messages
from shadowmesh.controller.edge.stunserver import StunShell
from shadowmesh.controller.settings import Timing
from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.model import devicelink
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.admission import Admission
from shadowmesh.serving.descriptors import raise_limit
from shadowmesh.serving.listening import listen
from shadowmesh.serving.rarelog import RareLog
from shadowmesh.serving.tasks import repeat

log = structlog.get_logger("shadowmesh.controller")

_ACCEPTS_PER_TURN = 16
_TLS_SHUTDOWN = 5.0
_SEND_BUFFER = 128 * 1024  # the kernel doubles it: a megabyte a second over 200 ms
_MEMORY_EVERY = 5.0
_CANCELLED = 5.0  # seconds in which a cancelled request has to end


class _Server(uvicorn.Server):
    """Two of them run in one loop: signals are the caller's business, and nothing wakes ten times a second."""

    def __init__(self, config: uvicorn.Config, timing: Timing, admission: Admission | None) -> None:
        super().__init__(config)
        self._timing = timing
        self._admission = admission
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with our protocol, and with time limits on TLS."""
        await self.lifespan.startup()
        config, timing, loop = self.config, self._timing, asyncio.get_running_loop()

        def connection() -> Http:
            return Http(config, self.server_state, self.lifespan.state, timing=timing, admission=self._admission)

        self.servers = [
            await loop.create_server(
                connection,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=None if config.ssl is None else timing.tls_handshake,
                ssl_shutdown_timeout=None if config.ssl is None else _TLS_SHUTDOWN,
            )
            for sock in sockets or ()
        ]
        self.started = True

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
        """No new connections; those that are there get their answers or a close frame, within the grace. What is left
        then is cut off."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            try:
                connection.shutdown()
            except Exception:  # of one connection; the others are told all the same
                log.exception("a connection couldn't be told of the end")
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timing.shutdown_grace
        while (self.server_state.connections or self.server_state.tasks) and loop.time() < end:  # noqa: ASYNC110 - plain sets
            await asyncio.sleep(0.01)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        left = set(self.server_state.tasks)
        for task in left:
            task.cancel()
        if left:
            _, unended = await asyncio.wait(left, timeout=_CANCELLED)
            if unended:
                log.error("requests go on though they were cancelled", count=len(unended))


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


def _tcp(address: SockAddr, admission: Admission, outer: OuterSockets, first_word: float) -> socket.socket:
    try:
        family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
        return listen(
            family,
            (address.host, address.port),
            admission,
            prepare=outer.mark,
            send_buffer=_SEND_BUFFER,
            first_word=first_word,
            patience=devicelink.ALPN,
        )
    except OSError as e:
        raise _taken(address, "TCP", e) from e


def _udp(address: SockAddr, outer: OuterSockets) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    outer.mark(sock)
    try:
        if address.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address.host, address.port))
    except OSError as e:
        sock.close()
        raise _taken(address, "UDP", e) from e
    return sock


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
        protocol.max_size = TLS_PIECE
    else:
        log.warning("this Python's asyncio has no SSLProtocol.max_size: connections take more memory")
    gc.set_threshold(50_000, 50, 1_000)
    gc.collect()
    gc.freeze()


class Serving:
    """All sockets of one controller."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext, address: SockAddr, local: Path, timing: Timing) -> None:
        """Binds everything. Raises ShadowMeshError: port_taken, cannot_listen."""
        self._local_path = local
        self.admission = Admission(raise_limit(), RareLog("shadowmesh.controller"))
        with contextlib.ExitStack() as undo:
            undo.callback(self.admission.close)
            outer = OuterSockets(required=False)
            self._tcp = undo.enter_context(
                contextlib.closing(_tcp(address, self.admission, outer, timing.tls_handshake))
            )
            self._udp = [
                undo.enter_context(contextlib.closing(_udp(address._replace(port=address.port + i), outer)))
                for i in (0, 1)
            ]
            self._unix = undo.enter_context(contextlib.closing(_unix(local)))
            undo.pop_all()
        self._stun: StunShell | None = None
        self._servers = [
            (_Server(self._config(app, tls), timing, self.admission), self._tcp),
            (_Server(self._config(LocalSocket(app), None), timing, None), self._unix),
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._memory_task: asyncio.Task[None] | None = None

    def _config(self, app: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            loop="asyncio",
            http=Http,
            ws=Messages,
            ws_per_message_deflate=False,
            ws_max_size=FIRST_MESSAGE,
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
        self._memory_task = asyncio.create_task(repeat(_MEMORY_EVERY, self._look_after_memory))

    async def _look_after_memory(self) -> None:
        self.admission.look_after_memory()

    async def stop(self) -> None:
        """Answers what is under way, closes all connections."""
        for server, _ in self._servers:
            server.stop()
        try:
            await asyncio.gather(*self._tasks)
        finally:
            if self._memory_task is not None:
                self._memory_task.cancel()
            if self._stun is not None:
                self._stun.close()
            self.admission.close()
            self._local_path.unlink(missing_ok=True)
