"""Strangers at a relay, and a client with a genuine token who means no good: the others go on, and memory stays bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from halfopen import HalfOpen, sources
from halfopen import Kind as HeldKind
from live_client import PATIENCE, WebSocketClient
from relay_world import NET_A, NET_B, World
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.signing import Signer
from shadowmesh.relay import streamside
from shadowmesh.relay.server import RelayServer, boottime_clock

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASKED = b"\0\0\0\0"
_HELLO = wire.pack_stream([wire.Hello(bytes(8), "smt1_" + "x" * 440).encode()])


def binary(payload: bytes, size: int | None = None) -> bytes:
    """A masked frame of `size` bytes, of which these are the first."""
    return b"\x82\xfe" + (len(payload) if size is None else size).to_bytes(2, "big") + _MASKED + payload


KINDS = (
    HeldKind("connected only", False, b""),
    HeldKind("half a request", False, b"GET / HTTP/1.1\r\nX-A: "),
    HeldKind("no hello", False, _UPGRADE),
    HeldKind(
        "half a large message", False, _UPGRADE + b"\x82\xff" + (1 << 20).to_bytes(8, "big") + _MASKED + bytes(60_000)
    ),
    HeldKind("a hello and half a message", False, _UPGRADE + binary(_HELLO) + binary(bytes(4000), 65_000)),
    HeldKind("endless fragments", False, _UPGRADE + (b"\x02\x80" + _MASKED) + (b"\x00\x80" + _MASKED) * 2000),
    HeldKind("text", False, _UPGRADE + b"\x81\x85" + _MASKED + b"hello"),
    HeldKind("half a TLS handshake", False, bytes.fromhex("1603010200010001fc0303")),
    HeldKind("TLS only", True, b""),
    HeldKind("no hello under TLS", True, _UPGRADE),
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HELLO_TIMEOUT", "SESSION_TIMEOUT", "_OPEN_TIMEOUT"):
        monkeypatch.setattr(streamside, name, 0.5)


@pytest.fixture
async def relay(
    request: pytest.FixtureRequest, world: World, pump: PumpName, certificate: tuple[Path, Path], short: None
) -> AsyncIterator[RelayServer]:
    world.now = boottime_clock()
    tls = ServerTls(*certificate, pump) if getattr(request, "param", False) else None
    async with RelayServer(world.core, SockAddr("127.0.0.1", 0), tls=tls) as running:
        yield running


async def client(
    relay: RelayServer, world: World, ip: str, network: object = NET_A, **options: object
) -> WebSocketClient:
    device = Signer.generate()
    made = WebSocketClient(relay, ip, world.token(device, network, ip), device, network)  # type: ignore[arg-type]
    await made.open(**options)
    assert isinstance(await made.login(), wire.Welcome)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("relay", "kind"), [(k.tls or "TLS" in k.name, k) for k in KINDS], ids=str, indirect=["relay"])
async def test_what_is_left_half_open_is_closed_and_disturbs_nobody(
    relay: RelayServer, world: World, kind: HeldKind, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, object] = {}
    if relay._tls is not None:
        options["ssl"] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    a, b = await client(relay, world, "10.0.0.1", **options), await client(relay, world, "10.0.0.2", **options)
    async with HalfOpen(relay.port, kind, 60, sources()) as held:
        for number in range(20):
            await a.send(a.to(b, bytes([4, 0, 0, 0]) + bytes(28) + bytes([number])))
            assert (await b.hear())[0][-1] == number
        async with asyncio.timeout(20):
            await held.all_ended()
            while relay._admission.held > 2:  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0.02)
    assert relay._admission.unproven == 0, "those two are known"
    await a.close()
    await b.close()


async def test_only_who_has_a_session_may_send_long_messages(relay: RelayServer, world: World) -> None:
    async with connect(f"ws://127.0.0.1:{relay.port}/", compression=None, proxy=None) as stranger:
        await stranger.send(_HELLO + bytes(5000))
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await stranger.recv()
    a, b = await client(relay, world, "10.0.0.1"), await client(relay, world, "10.0.0.2")
    burst = [bytes([4, 0, 0, 0]) + bytes(1400) + bytes([n]) for n in range(200)]
    await a.send(*(a.to(b, message) for message in burst))  # 290 kB in one message
    assert await b.hear(200) == burst
    await a.close()
    await b.close()


async def test_a_flood_of_control_messages_ends_its_connection(relay: RelayServer, world: World) -> None:
    honest, greedy = await client(relay, world, "10.0.0.1", NET_B), await client(relay, world, "10.0.0.1")
    ping = wire.Ping(NET_A, greedy.ip, bytes(8)).encode()
    with suppress(ConnectionClosed):
        for _ in range(20):
            await greedy.send(*[ping] * 100)
    with pytest.raises(ConnectionClosed) as caught:
        async with asyncio.timeout(PATIENCE):
            await greedy.connection.wait_closed()
            await greedy.send(ping)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == streamside.CLOSE_TOO_MANY
    await honest.send(wire.Ping(NET_B, honest.ip, bytes(8)).encode())
    assert isinstance(await honest.hear_control(), wire.Pong)
    await honest.close()


async def test_readers_that_do_not_read_take_a_bounded_share_together(
    relay: RelayServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamside, "_ALL_QUEUES_BYTES", 300_000)
    sender = await client(relay, world, "10.0.0.1")
    readers = [await client(relay, world, f"10.0.0.{n}") for n in range(2, 8)]
    for reader in readers:
        reader.connection.transport.pause_reading()
    waiting = relay._streams._waiting
    burst = bytes([4, 0, 0, 0]) + bytes(1400)
    for _ in range(400):
        for reader in readers:
            await sender.send(*[sender.to(reader, burst)] * 40)
    async with asyncio.timeout(PATIENCE):
        while relay.core.counters.drop_queue == 0:  # noqa: ASYNC110 - a plain counter
            await asyncio.sleep(0.01)
    assert waiting.octets <= 300_000 + len(readers) * streamside._SHARE_BYTES
    for reader in readers:
        reader.connection.transport.abort()
        await reader.close()
    async with asyncio.timeout(PATIENCE):
        while waiting.octets:  # noqa: ASYNC110 - a plain counter
            await asyncio.sleep(0.01)
    await sender.close()
