"""Many large binary messages on a WebSocket, with less work for each.

`websockets` makes the connection and closes it. Once it is open, `BinaryMessages` stands between transport and library: unfragmented
binary messages go from the transport's buffer straight to who wants them, without a queue, a task's turn or further copies, and
out likewise. All else, pings and the closing among it, is the library's, whole frame by whole frame; with the first text or
fragment it gets everything back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.frames import apply_mask  # type: ignore[attr-defined]  # of the C extension, where that is there
from websockets.protocol import State

from shadowmesh.protocol.websocket import BINARY, MASKED, frame_head

_BUFFER = 128 * 1024
_CONTROLS = (0x88, 0x89, 0x8A)  # with FIN: RFC 6455, section 5.2


class BinaryMessages(asyncio.BufferedProtocol):
    """A connection's protocol from now on. To be made as soon as it is open, before anything can have come."""

    def __init__(
        self,
        connection: ServerConnection | ClientConnection,
        take: Callable[[bytes | memoryview], None],
        max_size: int,
        buffer: int = _BUFFER,
    ) -> None:
        """`take` gets each message: bytes that stay as they are on a server, on a client a view that is good until it returns.

        It must not raise. Messages over `max_size` bytes are left to the library, whose own limit should refuse them.
        `buffer`: bytes that it takes at once.
        """
        self._connection = connection
        self._take = take
        self._max_size = max_size
        self._masked = isinstance(connection, ServerConnection)  # what clients send is
        self._buffer = bytearray(buffer)
        self._room = buffer
        self._filled = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._ours = False
        if not connection.protocol.reader.buffer:
            connection.transport.set_protocol(self)
            self._ours = True

    async def send(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """One message of all pieces. Takes them before it waits, which it does while the other side is behind. Raises ConnectionClosed."""
        connection = self._connection
        if not self._ours or connection.state is not State.OPEN:
            await connection.send(b"".join(pieces))
            return
        mark = 0 if self._masked else MASKED
        head = frame_head(BINARY, sum(map(len, pieces)), mark)
        if mark:
            mask = secrets.token_bytes(4)
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces = (mask, apply_mask(data, mask))
        connection.transport.write(b"".join((head, *pieces)))
        await self._writable.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self._connection.connection_lost(exc)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._writable.set()
        self._connection.resume_writing()

    def allow(self, max_size: int) -> None:
        """From now on messages may be so long, and many come at once."""
        self._max_size, self._room = max_size, _BUFFER

    def get_buffer(self, sizehint: int) -> memoryview:
        if len(self._buffer) < self._room:
            self._buffer = self._buffer[: self._filled] + bytes(self._room - self._filled)
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        view, at, end = memoryview(self._buffer), 0, self._filled
        wanted = 0
        while end - at >= 2:
            first, second = view[at], view[at + 1]
            size, head = second & 0x7F, 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(view[at + 2 : at + head], "big") if end - at >= head else 0
            known = first == BINARY or first in _CONTROLS
            if not known or (second >= 0x80) != self._masked or size > self._max_size:
                self._give_back(bytes(view[at:end]))
                return
            start = at + head + 4 * self._masked
            stop = start + size
            if stop > end or start > end:
                wanted = stop - at
                break
            if first != BINARY:
                self._connection.data_received(bytes(view[at:stop]))
            elif self._masked:
                self._take(apply_mask(view[start:stop], bytes(view[start - 4 : start])))
            else:
                self._take(view[start:stop])
            at = stop
        self._filled = end - at
        if wanted > len(self._buffer):
            self._buffer = bytearray(view[at:end]) + bytes(wanted - self._filled)
        elif at:
            view[: self._filled] = view[at:end]

    def _give_back(self, data: bytes) -> None:
        self._filled, self._ours = 0, False
        self._writable.set()
        self._connection.transport.set_protocol(self._connection)
        self._connection.data_received(data)
