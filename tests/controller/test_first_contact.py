"""First contact is with nobody yet: whoever answers can't fill the memory, nor hold the caller for ever."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from shadowmesh.client_api.contact import first_contact
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def stranger(world: World, chunk: bytes, pause: float) -> AsyncIterator[tuple[str, list[int]]]:
    """Answers everything with chunks that never end; tells how much it got rid of."""
    sent = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            while True:
                writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                await writer.drain()
                sent[0] += len(chunk)
                await asyncio.sleep(pause)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(world.data_dir / "server.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent
    finally:
        server.close()


async def test_an_answer_without_an_end_is_cut_off(world: World) -> None:
    async with stranger(world, b"x" * 65536, 0) as (url, sent):
        with pytest.raises(ShadowMeshError) as caught:
            await asyncio.to_thread(first_contact, url, world.fingerprint, timeout=5.0)
    assert caught.value.code == "not_a_controller"
    assert sent[0] < 8 * 1024 * 1024, "what buffers on the way hold, and no more"


async def test_an_answer_by_the_drop_ends_with_the_time_that_it_had(world: World) -> None:
    async with stranger(world, b"x", 0.05) as (url, _):
        with pytest.raises(ShadowMeshError) as caught:
            await asyncio.to_thread(first_contact, url, world.fingerprint, timeout=0.5)
    assert caught.value.kind is Kind.UNREACHABLE
