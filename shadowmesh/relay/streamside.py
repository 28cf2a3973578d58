"""The relay's WebSocket side: frames with a length before each, many in a message; health and metrics as plain HTTP.

Who connects has 5 s to say Hello, or is sent away with 4426. A client that reads too slowly loses frames (they are
datagrams), not the relay its memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from itertools import count

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from shadowmesh.dataplane.binarymessages import BinaryMessages
from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.protocol.relay import (
    FRAME_HEADER,
    MIN_FRAME,
    PREFIX_SIZE,
    Hello,
    decode_control,
    is_control,
    pack_stream,
    unpack_message,
)
from shadowmesh.relay.relaycore import Out, RelayCore
from shadowmesh.relay.runs import rows_with, without_lengths
from shadowmesh.relay.sessiontable import ClientSession, StreamAddr
from shadowmesh.relay.udp import UdpSide
from shadowmesh.serving.admission import Admission
from shadowmesh.serving.listening import listen

log = structlog.get_logger(__name__)

HELLO_TIMEOUT = 5.0
SESSION_TIMEOUT = 15.0  # from connecting to a session, and without one at any later time
CLOSE_NOT_OURS = 4426
NOT_OURS = "This is a ShadowMesh relay of a newer kind: its clients say Hello first. Update the client."
CLOSE_NO_SESSION = 4408
_QUEUE_BYTES = 512 * 1024
_ALL_QUEUES_BYTES = 64 << 20  # of all connections; when so much waits none gets more than
_SHARE_BYTES = 64 * 1024
_MESSAGE_BYTES = 64 * 1024  # frames are joined to messages of about this size
_MAX_MESSAGE = 1 << 20
_FIRST_MESSAGE = 4096  # of who has no session yet: a Hello or a Proof has some 600 bytes
_CONTROLS_PER_SECOND = 100  # a client in 200 networks has half as many when it logs in
CLOSE_TOO_MANY = 1008
_OPEN_TIMEOUT = 10.0  # TLS and the request for a WebSocket
_ACCEPTS_PER_TURN = 64


class _Waiting:
    """Bytes that wait in all queues together."""

    __slots__ = ("octets",)

    def __init__(self) -> None:
        self.octets = 0


class _Connection:
    """One client's WebSocket: its address for the core, and what waits to be sent."""

    __slots__ = (
        "address", "closing", "controls", "greeted", "messages", "proven", "queue", "queued", "second", "socket",
        "waiting", "wake",
    )  # fmt: skip

    def __init__(
        self,
        address: StreamAddr,
        connection: ServerConnection,
        take: Callable[[_Connection, bytes | memoryview], None],
        waiting: _Waiting,
    ) -> None:
        self.address = address
        self.waiting = waiting
        self.socket = connection
        self.messages = BinaryMessages(
            connection, lambda message: take(self, message), _FIRST_MESSAGE, buffer=2 * _FIRST_MESSAGE
        )
        self.queue: list[bytes | memoryview] = []
        self.queued = 0
        self.wake = asyncio.Event()
        self.greeted = False
        self.proven = False
        self.second = self.controls = 0
        self.closing: asyncio.Task[None] | None = None

    def close(self, code: int, reason: str) -> None:
        """Starts closing; what comes from now on counts for nothing."""
        if self.closing is None:
            self.closing = asyncio.create_task(self.socket.close(code, reason))

    def prove(self) -> None:
        """It has a session: its messages may be long."""
        self.proven = True
        self.messages.allow(_MAX_MESSAGE)
        self.socket.protocol.max_message_size = _MAX_MESSAGE

    def one_more_control(self, now: float) -> bool:
        """Whether it may send a control message now."""
        if int(now) != self.second:
            self.second, self.controls = int(now), 0
        self.controls += 1
        return self.controls <= _CONTROLS_PER_SECOND

    def put(self, packed: bytes | memoryview) -> bool:
        """Takes frames that stay as they are until they are sent. False if the queue is full."""
        size = len(packed)
        crowded = self.waiting.octets + size > _ALL_QUEUES_BYTES
        if self.queued + size > (_SHARE_BYTES if crowded else _QUEUE_BYTES):
            return False
        self.queue.append(packed)
        self.queued += size
        self.waiting.octets += size
        self.wake.set()
        return True

    async def write(self) -> None:
        """Sends what is queued, until cancelled or closed."""
        with suppress(ConnectionClosed):
            while True:
                await self.wake.wait()
                self.wake.clear()
                await self.flush()

    async def flush(self) -> None:
        """Sends what is queued now. Raises ConnectionClosed."""
        while self.queue:
            size = taken = 0
            while taken < len(self.queue) and size < _MESSAGE_BYTES:
                size += len(self.queue[taken])
                taken += 1
            pieces = self.queue[:taken]
            del self.queue[:taken]
            self.queued -= size
            self.waiting.octets -= size
            await self.messages.send(pieces)


class StreamSide:
    """All WebSocket connections of a relay."""

    def __init__(
        self,
        core: RelayCore,
        clock: Callable[[], Now],
        udp: UdpSide,
        send: Callable[[Out], None],
        pages: Callable[[Request], tuple[str, str] | None],
        outer: OuterSockets,
        admission: Admission,
    ) -> None:
        """`pages`: the text and content type that answer an HTTP request, None where there is nothing."""
        self._core = core
        self._clock = clock
        self._udp = udp
        self._send = send
        self._pages = pages
        self._outer = outer
        self._admission = admission
        self._numbers = count(1)
        self._connections: dict[int, _Connection] = {}
        self._servers: list[Server] = []
        self._waiting = _Waiting()

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def open(self, hosts: list[str], port: int, tls: ServerTls | None) -> int:
        """Listens; returns the port. Raises OSError."""
        try:
            for host in hosts:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                sock = listen(
                    family,
                    (host, port),
                    self._admission,
                    prepare=self._outer.mark,
                    both_versions=False,
                    first_word=_OPEN_TIMEOUT,
                )
                port = int(sock.getsockname()[1])
                self._servers.append(await self._serve_on(sock, tls))
        except OSError:
            await self.close()
            raise
        return port

    async def _serve_on(self, sock: socket.socket, tls: ServerTls | None) -> Server:
        return await serve(
            self._serve,
            sock=sock,
            process_request=self._request,
            compression=None,
            max_size=_FIRST_MESSAGE,
            max_queue=4,
            ping_interval=20,
            ping_timeout=20,
            open_timeout=_OPEN_TIMEOUT,
            close_timeout=2,
            server_header=None,
            backlog=_ACCEPTS_PER_TURN,
            **({} if tls is None else tls.arguments(_OPEN_TIMEOUT)),
        )

    async def close(self) -> None:
        """Sends what is queued, within a second, and closes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.gather(*(c.flush() for c in self._connections.values()), return_exceptions=True)
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for server in servers:
            await server.wait_closed()

    def deliver(self, dest: ClientSession, packed: bytes | memoryview, frames: int) -> None:
        """Queues frames, each with its length, for a client on a stream, or drops and counts them."""
        address = dest.transport
        assert isinstance(address, StreamAddr)
        connection = self._connections.get(address.number)
        if connection is None or not connection.put(packed):
            self._core.undelivered(dest, frames, len(packed) - 2 * frames)

    def send(self, to: StreamAddr, data: bytes) -> None:
        """One message of the core's own."""
        connection = self._connections.get(to.number)
        if connection is not None:
            connection.put(pack_stream([data]))

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        page = self._pages(request)
        if page is not None:
            text, kind = page
            response = connection.respond(HTTPStatus.OK, text)
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = kind
            return response
        if "Upgrade" not in request.headers:
            return connection.respond(HTTPStatus.NOT_FOUND, "A ShadowMesh relay. There is nothing to see here.\n")
        return None

    async def _serve(self, opened: ServerConnection) -> None:
        peer = opened.remote_address
        address = StreamAddr(next(self._numbers), SockAddr(peer[0].removeprefix("::ffff:"), peer[1]))
        connection = _Connection(address, opened, self._take, self._waiting)
        tasks = [asyncio.create_task(connection.write()), asyncio.create_task(self._watch(connection))]
        try:
            async for message in opened:  # those that come in an unusual form
                self._take(connection, message)
        except ConnectionClosed:
            pass
        finally:
            self._connections.pop(address.number, None)
            self._waiting.octets -= connection.queued
            connection.queue.clear()
            connection.queued = 0
            self._core.gone(address)
            for task in tasks:
                task.cancel()
            if connection.closing is not None:
                await connection.closing

    def _take(self, connection: _Connection, message: bytes | memoryview | str) -> None:
        """One message. The first has to begin with a Hello."""
        if connection.closing is not None:
            return
        if not connection.greeted:
            if isinstance(message, str) or not _is_hello(message):
                connection.close(CLOSE_NOT_OURS, NOT_OURS)
                return
            connection.greeted = True
            self._connections[connection.address.number] = connection
        try:
            if isinstance(message, str):
                raise MalformedError("text")
            self._receive(connection, bytes(message))
            if not connection.proven and self._core.sessions.at(connection.address):
                connection.prove()
                self._admission.proven(connection.socket.remote_address[:2])
        except MalformedError:
            self._core.malformed()
            connection.close(1007, "frames out of step")

    async def _watch(self, connection: _Connection) -> None:
        """A connection without a Hello, and later one without a session, doesn't stay."""
        await asyncio.sleep(HELLO_TIMEOUT)
        if not connection.greeted:
            connection.close(CLOSE_NOT_OURS, NOT_OURS)
        while True:
            await asyncio.sleep(SESSION_TIMEOUT)
            if not self._core.sessions.at(connection.address):
                connection.close(CLOSE_NO_SESSION, "no session")

    def _receive(self, connection: _Connection, message: bytes) -> None:
        """One message: frames of one size with one prefix go together as far as they follow each other.

        Raises MalformedError where the message is cut; what came before that has gone its way.
        """
        core, source, view = self._core, connection.address, memoryview(message)
        core.begin(self._clock())
        at, end = 0, len(message)
        try:
            while at < end:
                step = int.from_bytes(message[at : at + 2], "big") + 2
                stop = at + step
                if step == 2 or stop > end:
                    raise MalformedError("a message ends within a frame")
                head = message[at : at + 2 + PREFIX_SIZE]  # one size and one prefix
                if head[2:6] != FRAME_HEADER or step < 2 + MIN_FRAME:
                    self._other(connection, message[at + 2 : stop])
                    at = stop
                    continue
                frames = 1
                if message.startswith(head, stop):
                    frames = max(1, rows_with(head, message, at, end, step))
                    stop = at + frames * step
                octets = frames * (step - 2)
                dest = core.route(head[2:], source, frames, octets)
                if dest is None:
                    self._send(core.refuse(head[2:], source, frames, octets))
                elif isinstance(dest.transport, StreamAddr):
                    self.deliver(dest, view[at:stop], frames)
                else:
                    self._udp.queue_rows(dest, without_lengths(message, at, frames, step), step - 2)
                at = stop
        finally:
            self._udp.flush()

    def _other(self, connection: _Connection, frame: bytes) -> None:
        now = self._clock()
        if not is_control(frame):
            self._core.malformed()
        elif connection.one_more_control(now.boot):
            self._send(self._core.receive(connection.address, frame, now))
        else:
            connection.close(CLOSE_TOO_MANY, "too many control messages")


def _is_hello(message: bytes | memoryview) -> bool:
    try:
        frames = unpack_message(message)
        return bool(frames) and isinstance(decode_control(frames[0]), Hello)
    except MalformedError:
        return False
