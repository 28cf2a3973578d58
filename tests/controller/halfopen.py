"""Connections that are begun and left: each kind that a stranger can hold open."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")  # the first bytes of one
_LOGIN = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_GET = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Kind:
    """`tls`: whether the handshake is finished. `first`: what is sent then."""

    name: str
    tls: bool
    first: bytes
    reads: bool = True

    def __str__(self) -> str:
        return self.name


KINDS = (
    Kind("tcp only", False, b""),
    Kind("half a TLS handshake", False, _CLIENT_HELLO),
    Kind("no request", True, b""),
    Kind("half a header", True, b"GET /healthz HTTP/1.1\r\nX-A: "),
    Kind("half a second header", True, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nX-A: "),
    Kind("half a body", True, _LOGIN % 16_000 + b" " * 15_900),
    Kind("half a large body", True, _LOGIN % 262_144 + b" " * 200_000),
    Kind(
        "half a chunked body", True, _LOGIN.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + b"10\r\n{"
    ),
    Kind("device link without hello", True, _UPGRADE % b"/api/v1/link"),
    Kind("relay link without hello", True, _UPGRADE % b"/api/v1/relay-link"),
    Kind("watcher without token", True, _UPGRADE % b"/api/v1/ws"),
    Kind("half a hello", True, _UPGRADE % b"/api/v1/link" + b"\x81\xfe\xf0\x00\0\0\0\0" + b"{" * 60_000),
    Kind(
        "hello in endless fragments",
        True,
        _UPGRADE % b"/api/v1/link" + b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 2000,
    ),
    Kind("slow reader", True, _GET * 40, reads=False),
)


def sources() -> Iterator[str]:
    """60 addresses of one host, again and again."""
    while True:
        yield from (f"127.0.{n // 10}.{n % 10 + 1}" for n in range(1, 61))


class HalfOpen:
    """`async with HalfOpen(port, kind, 100, addresses) as held:`; `held.ended()` are those that the other side has closed."""

    def __init__(self, port: int, kind: Kind, count: int, addresses: Iterator[str]) -> None:
        self._port = port
        self._kind = kind
        self._count = count
        self._addresses = addresses
        self._open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._reading: list[asyncio.Task[None]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context if kind.tls else None

    async def __aenter__(self) -> HalfOpen:
        for start in range(0, self._count, 50):
            await asyncio.gather(*(self._begin() for _ in range(start, min(start + 50, self._count))))
        return self

    async def _begin(self) -> None:
        sock = socket.socket()
        if not self._kind.reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((next(self._addresses), 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        server = "" if self._tls is not None else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=server, limit=4096)
        self._open.append((reader, writer))
        with suppress(ConnectionError):  # what goes on after an answer may be cut off
            writer.write(self._kind.first)
        self._reading.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        if not self._kind.reads:
            await asyncio.Event().wait()
        with suppress(OSError):
            while await reader.read(65536):
                pass

    def ended(self) -> int:
        return sum(task.done() for task in self._reading)

    async def all_ended(self) -> None:
        await asyncio.gather(*self._reading)

    async def __aexit__(self, *_: object) -> None:
        for task in self._reading:
            task.cancel()
        for _, writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._reading, return_exceptions=True)
