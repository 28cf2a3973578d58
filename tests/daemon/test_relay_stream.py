"""The stream between the pump and a relay's WebSocket: whole frames only, and an end on either side ends both."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from shadowmesh.daemon.relay_stream import RelayStream, whole_frames
from shadowmesh.protocol.relay import pack_stream

PATIENCE = 5.0


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 400))
def test_whole_frames_ends_at_the_last_complete_one(frames: list[bytes], cut: int) -> None:
    packed = b"".join(len(f).to_bytes(2, "big") + f for f in frames)
    kept = bytearray(packed[: max(0, len(packed) - cut)])
    whole = whole_frames(memoryview(kept))
    ends = [0]
    for frame in frames:
        ends.append(ends[-1] + 2 + len(frame))
    assert whole == max(e for e in ends if e <= len(kept))


@given(st.binary(max_size=2000))
def test_whole_frames_takes_any_bytes(data: bytes) -> None:
    whole = whole_frames(memoryview(data))
    assert 0 <= whole <= len(data) and whole_frames(memoryview(data)[:whole]) == whole


class Relay:
    """The far end: what came, and the connection to answer on."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.connection: ServerConnection | None = None

    async def handle(self, connection: ServerConnection) -> None:
        self.connection = connection
        async for message in connection:
            self.came.put_nowait(message)
        self.came.put_nowait(None)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Relay, socket.socket, asyncio.Task[None]]]:
    """A relay, the pump's end of the stream, and the task that carries."""
    relay = Relay()
    async with serve(relay.handle, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stream = RelayStream(f"ws://127.0.0.1:{port}/")
        pump = socket.socket(fileno=os.dup(await stream.open()))
        pump.setblocking(False)
        carrying = asyncio.create_task(stream.run())
        try:
            async with asyncio.timeout(30):
                yield relay, pump, carrying
        finally:
            pump.close()
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)


async def test_frames_go_both_ways_whole_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    frames = [os.urandom(1 + 613 * n % 1400) for n in range(200)]
    packed = b"".join(pack_stream([f]) for f in frames)
    async with connected() as (relay, pump, _):
        for at in range(0, len(packed), 997):  # cut where no frame ends
            await loop.sock_sendall(pump, packed[at : at + 997])
        got = b""
        while len(got) < len(packed):
            message = await relay.came.get()
            assert isinstance(message, bytes) and whole_frames(memoryview(message)) == len(message)
            got += message
        assert got == packed
        assert relay.connection is not None
        await relay.connection.send("text is not for the pump")
        for at in range(0, len(packed), 50_000):
            await relay.connection.send(packed[at : at + 50_000])
        back = b""
        while len(back) < len(packed):
            back += await loop.sock_recv(pump, 1 << 16)
        assert back == packed


async def test_a_pump_that_reads_late_gets_everything_in_order() -> None:
    """The stream holds the WebSocket up meanwhile, and goes on when there is room."""
    loop = asyncio.get_running_loop()
    frames = [n.to_bytes(4, "big") + bytes(1396) for n in range(10_000)]
    async with connected() as (relay, pump, _):
        await loop.sock_sendall(pump, b"\0\1x")
        await relay.came.get()
        assert relay.connection is not None
        sending = asyncio.create_task(_send_all(relay.connection, frames))
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done  # 14 MB don't fit what lies between
        expected, got = pack_stream(frames), bytearray()
        while len(got) < len(expected):
            got += await loop.sock_recv(pump, 1 << 18)
        assert got == expected
        await sending


async def _send_all(connection: ServerConnection, frames: list[bytes]) -> None:
    for at in range(0, len(frames), 40):
        await connection.send(pack_stream(frames[at : at + 40]))


async def test_when_the_relay_closes_the_pump_sees_the_end() -> None:
    async with connected() as (relay, pump, carrying):
        await asyncio.get_running_loop().sock_sendall(pump, b"\0\1x")
        await relay.came.get()
        assert relay.connection is not None
        await relay.connection.close()
        await asyncio.wait_for(carrying, PATIENCE)


async def test_a_connection_that_breaks_ends_the_stream() -> None:
    async with connected() as (relay, pump, carrying):
        await asyncio.get_running_loop().sock_sendall(pump, b"\0\1x")
        await relay.came.get()
        assert relay.connection is not None
        relay.connection.transport.abort()
        await asyncio.wait_for(carrying, PATIENCE)


async def test_cancelling_closes_the_websocket() -> None:
    async with connected() as (relay, pump, carrying):
        await asyncio.get_running_loop().sock_sendall(pump, b"\0\1x")
        assert await relay.came.get() == b"\0\1x"
        carrying.cancel()
        assert await asyncio.wait_for(relay.came.get(), PATIENCE) is None


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_relay_there_is_an_oserror_and_leaves_no_descriptor() -> None:
    before = _descriptors()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(OSError):
            await RelayStream(f"ws://127.0.0.1:{busy.getsockname()[1]}/").open()
    assert _descriptors() <= before


@pytest.mark.parametrize("url", ["", "ws://", "wss://[", "ws://relay:99999999/", f"ws://{'a' * 70}:1", "ws://\x00"])
async def test_a_url_that_is_none_is_a_stream_that_fails(url: str) -> None:
    """A map says what it says; the engine tries the next relay."""
    with pytest.raises(OSError, match="no WebSocket at"):
        await RelayStream(url).open()
