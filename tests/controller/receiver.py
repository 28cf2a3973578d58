"""What receives webhooks and syslog: it keeps what came, answers as it is told, and can be away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from freeport import free_port

PATIENCE = 15.0


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def signed_with(self, secret: str) -> bool:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        made = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return f"v1,{made}" in self.headers["webhook-signature"].split(" ")


@dataclass
class WebReceiver:
    """An HTTP server on loopback. `answer` gives each request its status; what was answered 2xx counts as taken."""

    answer: Callable[[Request], int] = lambda _: 204
    more: str = ""  # header lines of answers
    says: str = ""  # and what they say
    port: int = field(default_factory=free_port)
    taken: list[Request] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=hidden"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """It is away: nobody listens, and connections that were open have ended."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:] if line)
                }
                request = Request(headers, await reader.readexactly(int(headers["content-length"])))
                status = self.answer(request)
                async with self._news:
                    self.asked.append(request)
                    if 200 <= status < 300:
                        self.taken.append(request)
                    self._news.notify_all()
                said = self.says.encode()
                writer.write(f"HTTP/1.1 {status} X\r\n{self.more}Content-Length: {len(said)}\r\n\r\n".encode() + said)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with self._news, asyncio.timeout(PATIENCE):
            await self._news.wait_for(condition)

    @property
    def kinds(self) -> list[str]:
        return [request.json["type"] for request in self.taken]


@dataclass
class LineReceiver:
    """A syslog receiver on loopback, over TCP or TLS: frames as they are counted; or over UDP."""

    tls: Any = None
    port: int = field(default_factory=free_port)
    lines: list[bytes] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                length = int(await reader.readuntil(b" "))
                line = await reader.readexactly(length)
                async with self._news:
                    self.lines.append(line)
                    self._news.notify_all()
        self._writers.discard(writer)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with self._news, asyncio.timeout(PATIENCE):
            await self._news.wait_for(condition)


async def datagrams(port: int, count: int) -> list[bytes]:
    """So many that come to this port of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inner:
        inner.bind(("127.0.0.1", port))
        inner.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            return [await asyncio.get_running_loop().sock_recv(inner, 65536) for _ in range(count)]
