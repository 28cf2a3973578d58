"""TLS under the WebSockets, by the extension and by OpenSSL: whoever speaks to whom, the same bytes arrive and ends are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from relay_certificate import self_signed
from relay_world import PUMPS
from websockets.asyncio.server import ServerConnection, serve

from shadowmesh.daemon.relay_stream import RelayStream
from shadowmesh.dataplane.pumps import ENVIRONMENT, EXTENSION, PumpName, native_built
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.protocol.relay import pack_stream

PATIENCE = 10.0
needs_native = pytest.mark.skipif(not native_built(), reason="the native pump needs cargo")
Certificate = tuple[Path, Path]


@pytest.fixture(params=PUMPS)
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PumpName:
    """Whose TLS clients use."""
    name: PumpName = request.param
    monkeypatch.setenv(ENVIRONMENT, name)
    return name


@contextlib.asynccontextmanager
async def echoing(tls: ServerTls | None) -> AsyncIterator[str]:
    """A server that sends back what it gets; its host and port. It closes after the text "go"."""

    async def handle(connection: ServerConnection) -> None:
        async for message in connection:
            if message.endswith(b"go"):  # type: ignore[arg-type]
                return
            await connection.send(message)

    options = {} if tls is None else tls.arguments()
    async with serve(handle, "127.0.0.1", 0, compression=None, max_size=1 << 20, **options) as server:
        yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@contextlib.asynccontextmanager
async def carried(url: str) -> AsyncIterator[tuple[socket.socket, asyncio.Task[None]]]:
    """The pump's end of a stream, and the task that carries."""
    stream = RelayStream(url)
    fd = await stream.open()
    task = asyncio.create_task(stream.run())
    try:
        with socket.socket(fileno=os.dup(fd)) as end:
            end.setblocking(False)
            yield end, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def there_and_back(end: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(end, data))
    came = bytearray()
    while len(came) < len(data):
        came += await loop.sock_recv(end, 1 << 18)
    await sending
    return bytes(came)


async def test_megabytes_come_back_as_they_were_and_both_ends_learn_of_the_end(
    pump: PumpName, client: PumpName, certificate: Certificate
) -> None:
    chance = random.Random(1)
    frames = [chance.randbytes(chance.choice((1, 60, 1452, 9000, 60_000))) for _ in range(400)]
    data = pack_stream(frames)
    assert len(data) > 4_000_000
    async with (
        asyncio.timeout(PATIENCE),
        echoing(ServerTls(*certificate, pump)) as where,
        carried(f"wss://{where}/") as (end, task),
    ):
        assert await there_and_back(end, data) == data
        await asyncio.get_running_loop().sock_sendall(end, pack_stream([b"go"]))
        await task  # the server has closed


async def test_a_server_without_tls_is_an_error_at_once(client: PumpName) -> None:
    async with asyncio.timeout(PATIENCE), echoing(None) as where:
        with pytest.raises(OSError, match="no WebSocket at wss://"):
            await RelayStream(f"wss://{where}/").open()


async def test_a_client_without_tls_is_refused_at_once(pump: PumpName, certificate: Certificate) -> None:
    async with asyncio.timeout(PATIENCE), echoing(ServerTls(*certificate, pump)) as where:
        with pytest.raises(OSError, match="no WebSocket at ws://"):
            await RelayStream(f"ws://{where}/").open()


async def test_a_client_that_says_nothing_is_sent_away(pump: PumpName, certificate: Certificate) -> None:
    """So that open connections without a handshake don't pile up."""
    options = {**ServerTls(*certificate, pump).arguments(), "open_timeout": 0.2}
    if pump == "python":
        options["ssl_handshake_timeout"] = 0.2

    async def handle(connection: ServerConnection) -> None:
        raise AssertionError("there was no handshake")

    async with asyncio.timeout(PATIENCE), serve(handle, "127.0.0.1", 0, **options) as server:
        reader, writer = await asyncio.open_connection(*next(iter(server.sockets)).getsockname())
        assert await reader.read() == b""
        writer.close()


async def test_tls_1_2_is_spoken_with_those_who_know_no_other(pump: PumpName, certificate: Certificate) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with asyncio.timeout(PATIENCE), echoing(ServerTls(*certificate, pump)) as where:
        host, port = where.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")  # no WebSocket: an answer is enough
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")
        writer.close()


def test_a_key_that_only_openssl_knows_is_served_by_it(tmp_path: Path, certificate: Certificate) -> None:
    """P-521 isn't ring's."""
    cert, key = self_signed(ec.generate_private_key(ec.SECP521R1()), tmp_path)
    for pump in PUMPS:
        assert "ssl" in ServerTls(cert, key, pump).arguments()
    if native_built():
        assert "ssl" not in ServerTls(*certificate, "native").arguments()


def test_files_that_are_no_certificate_are_an_oserror(pump: PumpName, tmp_path: Path, certificate: Certificate) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing\n")
    _, other = self_signed(ec.generate_private_key(ec.SECP256R1()), tmp_path)
    for cert, key in ((nonsense, certificate[1]), (certificate[0], other), (tmp_path / "none", certificate[1])):
        with pytest.raises(OSError):
            ServerTls(cert, key, pump)


@needs_native
@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_bytes_come_in_pieces_of_any_size_into_room_of_any_size(piece: int, certificate: Certificate) -> None:
    native = import_module(EXTENSION)
    server = native.TlsServer(*(path.read_bytes() for path in certificate)).accept()
    client = native.TlsClient("relay.example").connect()
    ends = ((client, server), (server, client))
    said = {client: random.Random(2).randbytes(70_001), server: random.Random(3).randbytes(40_000)}
    came = {client: bytearray(), server: bytearray()}
    room = bytearray(piece)
    waiting = {client: client.send(said[client]), server: server.send(said[server])}  # before any handshake
    while any(waiting.values()):
        for one, other in ends:
            data, waiting[one] = waiting[one], b""
            for at in range(0, len(data), piece):
                size = other.receive(data[at : at + piece], room)
                came[other] += room[:size]
                while size == len(room):
                    size = other.receive(b"", room)
                    came[other] += room[:size]
            waiting[other] += other.outgoing()
    assert came == {server: said[client], client: said[server]}
    assert not server.closed
    assert server.receive(client.close(), room) == 0
    assert server.closed


@needs_native
def test_what_is_no_tls_is_an_error_with_an_alert(certificate: Certificate) -> None:
    server = import_module(EXTENSION).TlsServer(*(path.read_bytes() for path in certificate)).accept()
    with pytest.raises(ValueError, match="InvalidContentType"):
        server.receive(b"GET / HTTP/1.1\r\n\r\n", bytearray(10))
    assert server.outgoing()[:1] == b"\x15"  # alert: RFC 8446, section 5.1
    with pytest.raises(ValueError):
        server.receive(b"", bytearray(10))
