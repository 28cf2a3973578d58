"""A WebSocket to a relay, as the pump sees it: one end of a stream socketpair.

Both sides speak u16be length ‖ frame. The pump writes as it likes; a WebSocket message holds whole frames, many of them.
TLS here hides the traffic's kind, nothing more: the relay proves itself by its signature in the Welcome, under
the key that the signed map names, and what it forwards is WireGuard's. So any certificate will do.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from shadowmesh.client_api.dialing import Connect
from shadowmesh.dataplane.binarymessages import BinaryMessages
from shadowmesh.dataplane.tls import connect_arguments

log = structlog.get_logger(__name__)

_CHUNK = 256 * 1024
_BUFFER = 1 << 20  # several messages: a full one costs waiting, and the pump its packets
_MAX_MESSAGE = 1 << 20
_OPEN_TIMEOUT = 10.0


class RelayStream:
    """One connection. `open` returns the pump's end; `run` carries frames until the WebSocket ends, or it is cancelled."""

    def __init__(self, url: str, connect: Connect | None = None) -> None:
        """`connect`: how the connection is made, where that matters."""
        self._url = url
        self._connect = connect
        self._ours, self._pumps = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ours.setblocking(False)
        for end in (self._ours, self._pumps):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._unsent = bytearray()
        self._messages: BinaryMessages | None = None
        self._connection: ClientConnection | None = None

    async def open(self) -> int:
        """Connects. Returns the descriptor for AddStream (closed by `run` at its end). Raises OSError."""
        try:
            url, arguments = connect_arguments(self._url)
            if self._connect is not None:
                parts = urlsplit(url)
                port = parts.port or (443 if parts.scheme == "wss" else 80)
                arguments["sock"] = await self._connect(parts.hostname or "", port, _OPEN_TIMEOUT)
            self._connection = await connect(
                url,
                compression=None,
                max_size=_MAX_MESSAGE,
                open_timeout=_OPEN_TIMEOUT,
                ping_interval=20,
                proxy=None,
                **arguments,
            )
        except (WebSocketException, OSError, ValueError) as e:  # ValueError: a URL that is none
            self._close_sockets()
            raise OSError(f"no WebSocket at {self._url}: {str(e) or type(e).__name__}") from e
        except BaseException:
            self._close_sockets()
            raise
        self._messages = BinaryMessages(self._connection, self._deliver, _MAX_MESSAGE)
        return self._pumps.fileno()

    async def run(self) -> None:
        """Until the WebSocket closes; who takes the stream from the pump cancels this."""
        assert self._connection is not None
        assert self._messages is not None
        tasks = [
            asyncio.create_task(self._up(self._messages)),
            asyncio.create_task(self._down(self._connection)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._close_sockets()
            with suppress(WebSocketException, OSError):
                await self._connection.close()

    async def _up(self, messages: BinaryMessages) -> None:
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(_CHUNK))
        filled = 0
        with suppress(WebSocketException, OSError):
            while size := await loop.sock_recv_into(self._ours, buffer[filled:]):
                filled += size
                whole = whole_frames(buffer[:filled])
                if whole:
                    await messages.send([buffer[:whole]])
                    if filled == _CHUNK:
                        await asyncio.sleep(0)  # the pump has more: what comes in has its turn between
                    buffer[: filled - whole] = buffer[whole:filled]
                    filled -= whole

    async def _down(self, connection: ClientConnection) -> None:
        with suppress(WebSocketException, OSError):
            async for message in connection:  # those that come in an unusual form
                if isinstance(message, bytes):
                    self._deliver(message)

    def _deliver(self, message: bytes | memoryview) -> None:
        """To the pump; the WebSocket waits while that is behind."""
        if not self._unsent:
            try:
                message = memoryview(message)[self._ours.send(message) :]
            except BlockingIOError:
                pass
            except OSError:  # the pump has left: `_up` sees it, too
                return
            if not message:
                return
            assert self._connection is not None
            self._connection.transport.pause_reading()
            asyncio.get_running_loop().add_writer(self._ours, self._push)
        self._unsent += message

    def _push(self) -> None:
        try:
            del self._unsent[: self._ours.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            asyncio.get_running_loop().remove_writer(self._ours)
            assert self._connection is not None
            self._connection.transport.resume_reading()

    def _close_sockets(self) -> None:
        if self._unsent:
            asyncio.get_running_loop().remove_writer(self._ours)
        self._ours.close()
        self._pumps.close()


def whole_frames(data: memoryview) -> int:
    """How many leading bytes of `data` are complete frames. Frames of one size are counted at once."""
    at, size = 0, len(data)
    while at + 2 <= size:
        high, low = data[at], data[at + 1]
        step = 2 + (high << 8 | low)
        rows = (size - at) // step
        if rows > 2:
            end = at + rows * step
            if data[at:end:step] == bytes((high,)) * rows and data[at + 1 : end : step] == bytes((low,)) * rows:
                at = end
                continue
        if at + step > size:
            break
        at += step
    return at
