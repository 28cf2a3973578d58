"""Sending lines to a syslog receiver. Over TCP and TLS lines count as sent once the other host has acknowledged all of them:
what a broken connection had in this host's buffers is sent again. Over UDP nobody acknowledges anything."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
import ssl
import termios
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from shadowmesh.controller.outward.failures import why
from shadowmesh.controller.outward.lookups import look_up
from shadowmesh.controller.outward.sysloglines import MOST_DATAGRAM, MOST_FRAME, framed
from shadowmesh.controller.outward.webhookpost import Outcome

TIMEOUT = 15.0  # seconds, for all lines of a call
_PORTS: Final = {"udp": 514, "tcp": 601, "tls": 6514}
_LOOK = 0.005  # seconds between looks at what isn't acknowledged yet; doubles
_REFUSAL = 0.05  # seconds within which a closed port of this host's network answers a datagram
_SIOCOUTQ = termios.TIOCOUTQ


class SyslogSender:
    """`url`: udp://, tcp:// or tls://HOST[:PORT]."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self._kind = parts.scheme
        self._host, self._port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self._tls = tls
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def most(self) -> int:
        """Bytes of a line."""
        return MOST_DATAGRAM if self._kind == "udp" else MOST_FRAME

    async def send(self, lines: Sequence[bytes]) -> Outcome:
        try:
            async with asyncio.timeout(TIMEOUT):
                if self._kind == "udp":
                    await self._datagrams(lines)
                else:
                    await self._frames(lines)
        except TimeoutError:
            await self.close()
            return Outcome(False, f"not taken within {TIMEOUT:g} s")
        except (OSError, ssl.SSLError, UnicodeError) as e:
            await self.close()
            return Outcome(False, why(e))
        return Outcome(True, "sent")

    async def _frames(self, lines: Sequence[bytes]) -> None:
        reader, writer = self._stream or await self._connect()
        if _ended(reader, writer):  # closed since: what is written to it now would be lost
            await self.close()
            reader, writer = await self._connect()
        writer.write(b"".join(map(framed, lines)))
        await writer.drain()
        wait = _LOOK
        while not _ended(reader, writer) and _unacknowledged(writer):
            await asyncio.sleep(wait)
            wait = min(wait * 2, 0.2)
        if _ended(reader, writer):
            raise ConnectionResetError("closed by the receiver")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = self._host if self._tls is not None else None
        failed: OSError | None = None
        for address in await look_up(self._host, self._port):
            try:
                stream = await asyncio.open_connection(address, self._port, ssl=self._tls, server_hostname=name)
                break
            except OSError as e:
                failed = failed or e
        else:
            raise failed or OSError("no address")
        stream[1].transport.set_write_buffer_limits(0)
        self._stream = stream
        return stream

    async def _datagrams(self, lines: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        address = (await look_up(self._host, self._port, socket.SOCK_DGRAM))[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as outer:
            outer.setblocking(False)
            await loop.sock_connect(outer, (address, self._port))
            for line in lines:
                await loop.sock_sendall(outer, line)
            await asyncio.sleep(_REFUSAL)
            error = outer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))

    async def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream[1].close()
            with suppress(OSError, ssl.SSLError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await stream[1].wait_closed()


def _ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    return reader.at_eof() or reader.exception() is not None or writer.is_closing()


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    """Bytes that wait in this process, or that the kernel holds and the other host hasn't acknowledged."""
    transport = writer.transport
    below = getattr(
        getattr(transport, "_ssl_protocol", None), "_transport", None
    )  # TLS has a transport of its own below
    waiting = transport.get_write_buffer_size() + (0 if below is None else below.get_write_buffer_size())
    if waiting:
        return int(waiting)
    count = array.array("i", [0])
    outer = writer.get_extra_info("socket")
    fcntl.ioctl(outer.fileno(), _SIOCOUTQ, count, True)
    return count[0]
