"""Writing past asyncio's TLS layers: the same bytes in the same order, and nothing where something waits."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shadowmesh.controller import pki
from shadowmesh.controller.edge.tlswriting import tls_of, write_now
from shadowmesh.controller.initialise import InitResult
from shadowmesh.controller.settings import Settings


@dataclass
class Pair:
    server: asyncio.Transport
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@pytest.fixture
async def pair(template: tuple[Path, InitResult]) -> AsyncIterator[Pair]:
    """Both ends of one connection; the server's reads nothing."""
    context = pki.server_context(template[0], Settings(public_urls=("https://127.0.0.1:1",), listen="127.0.0.1:1"))
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.set_result(transport)

    server = await asyncio.get_running_loop().create_server(Kept, "127.0.0.1", 0, ssl=context)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=trusting, limit=1 << 16)
    yield Pair(await made, reader, writer)
    writer.transport.abort()
    server.close()


async def test_what_is_written_now_arrives_in_order_with_the_rest(pair: Pair) -> None:
    tls = tls_of(pair.server)
    assert tls is not None, "asyncio isn't as it is known here"
    assert write_now(tls, b"one ")
    pair.server.write(b"two ")
    assert write_now(tls, b"three ")
    pair.server.write(b"end")
    assert await asyncio.wait_for(pair.reader.readuntil(b"end"), 10) == b"one two three end"


async def test_nothing_is_written_past_what_waits_for_a_slow_reader(pair: Pair) -> None:
    tls, piece, written = tls_of(pair.server), b"x" * 4096, 0
    while write_now(tls, piece):  # until the kernel and the transport have enough
        written += 1
        assert written < 100_000
    pair.server.write(b"last")
    assert not write_now(tls, b"never")
    received = await asyncio.wait_for(pair.reader.readexactly(4096 * written + 4), 20)
    assert received == piece * written + b"last"
    await asyncio.sleep(0)
    assert write_now(tls, b"again")
    assert await asyncio.wait_for(pair.reader.readexactly(5), 10) == b"again"


async def test_nothing_is_written_on_a_connection_that_ends(pair: Pair) -> None:
    tls = tls_of(pair.server)
    pair.server.close()
    assert not write_now(tls, b"late")
    assert await asyncio.wait_for(pair.reader.read(), 10) == b""
    assert tls_of(asyncio.Transport()) is None
