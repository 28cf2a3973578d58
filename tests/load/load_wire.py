"""The load's own HTTP and WebSocket over TLS: small, so that the generator costs less than what it measures."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import json
import ssl
import struct
from collections.abc import Callable
from typing import Any

API = "/api/v1"
asyncio.sslproto.SSLProtocol.max_size = 8192  # type: ignore[attr-defined]

_UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: load\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_PING, _PONG, _CLOSE = 9, 10, 8


def tls() -> ssl.SSLContext:
    """Who the controller is was checked before; here TLS has only to cost what it costs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Http:
    """One keep-alive connection."""

    def __init__(self, port: int, *, key: str | None = None, source: str | None = None) -> None:
        self._port = port
        self._key = key
        self._local = None if source is None else (source, 0)
        self._context = tls()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __call__(self, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> bytes:
        """The answer's body. Raises RuntimeError for a status that is no success."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        head = [f"{method} {API}{path} HTTP/1.1", "Host: load", f"Content-Length: {len(data)}"]
        head += ["Content-Type: application/json"] if data else []
        head += [f"Authorization: Bearer {self._key}"] if self._key else []
        for attempt in (0, 1):
            try:
                return await self._exchange("\r\n".join(head).encode() + b"\r\n\r\n" + data)
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close()
                if attempt:
                    raise
        raise AssertionError("unreachable")

    async def json(self, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> Any:
        answer = await self(method, path, body)
        return json.loads(answer) if answer else None

    async def _exchange(self, request: bytes) -> bytes:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context, limit=1 << 24, local_addr=self._local
            )
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = next((int(x[15:]) for x in head.split(b"\r\n") if x.startswith(b"content-length:")), 0)
        body = await self._reader.readexactly(length) if length else b""
        if b"\r\nconnection: close" in head:
            self.close()
        if status >= 400:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        return body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class WebSocket(asyncio.Protocol):
    """A client's end; `message` gets each whole message, `lost` the end."""

    __slots__ = ("_buffer", "_lost", "_message", "_open", "_parts", "_path", "_transport", "received")

    def __init__(self, path: str, message: Heard, lost: Lost) -> None:
        self._path = path
        self._message = message
        self._lost = lost
        self._buffer = bytearray()
        self._parts = b""
        self._open = False
        self._transport: asyncio.Transport | None = None
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_UPGRADE.format(path=self._path).encode())

    def send(self, text: bytes, kind: int = 1) -> None:
        assert self._transport is not None
        size = len(text)
        head = (
            struct.pack(">BB", 0x80 | kind, 0x80 | size) if size < 126 else struct.pack(">BBH", 0x80 | kind, 0xFE, size)
        )
        self._transport.write(head + b"\0\0\0\0" + text)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if buffer[9:12] != b"101":
                self.abort()
                return
            self._open = True
            del buffer[: end + 4]
        while len(buffer) >= 2:
            size, start = buffer[1] & 127, 2
            if size == 126:
                size, start = int.from_bytes(buffer[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(buffer[2:10], "big"), 10
            if len(buffer) < start + size:
                return
            kind, last, body = buffer[0] & 15, buffer[0] & 128, bytes(buffer[start : start + size])
            del buffer[: start + size]
            self._frame(kind, bool(last), body)

    def _frame(self, kind: int, last: bool, body: bytes) -> None:
        if kind == _PING:
            self.send(body, _PONG)
        elif kind == _CLOSE:
            self.abort()
        elif kind <= 2:
            self.received += len(body)
            self._parts += body
            if last:
                whole, self._parts = self._parts, b""
                self._message(self, whole)

    def connection_lost(self, _error: Exception | None) -> None:
        self._lost(self)


Heard = Callable[[WebSocket, bytes], None]
Lost = Callable[[WebSocket], None]


async def open_websocket(
    port: int, context: ssl.SSLContext, source: str, path: str, message: Heard, lost: Lost
) -> WebSocket:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(
        lambda: WebSocket(path, message, lost),
        "127.0.0.1",
        port,
        ssl=context,
        ssl_handshake_timeout=20,
        local_addr=(source, 0),
    )
    return protocol
