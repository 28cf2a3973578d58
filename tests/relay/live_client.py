"""Clients of a running relay, over UDP and over a WebSocket, that log in and count what they get."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address
from typing import Any

from relay_world import NET_A
from websockets.asyncio.client import ClientConnection, connect

from shadowmesh.model.keys import NetworkID
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.signing import Signer
from shadowmesh.relay.server import RelayServer

PATIENCE = 5.0


class LiveClient:
    """Base: what arrives is sorted into frames and control messages."""

    def __init__(self, relay: RelayServer, ip: str, token: str, device: Signer, network: NetworkID = NET_A) -> None:
        self.relay, self.ip, self.token, self.device, self.network = relay, IPv4Address(ip), token, device, network
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.control: asyncio.Queue[wire.ControlMessage] = asyncio.Queue()

    async def send(self, *frames: bytes) -> None:
        raise NotImplementedError

    def got(self, data: bytes) -> None:
        if wire.is_frame(data):
            self.frames.put_nowait(data)
        else:
            self.control.put_nowait(wire.decode_control(data))

    def to(self, dest: LiveClient, message: bytes) -> bytes:
        return wire.frame_prefix(self.network, self.ip, dest.ip) + message

    async def login(self) -> wire.Welcome | wire.Refuse:
        attempt = wire.LoginAttempt(self.token, self.relay.core.signer.public, self.device)
        await self.send(attempt.hello())
        async with asyncio.timeout(PATIENCE):
            while not attempt.done:
                answer = attempt.receive(await self.control.get())
                if answer is not None:
                    await self.send(answer)
        result = attempt.welcome or attempt.refused
        assert result is not None
        return result

    async def hear(self, n: int = 1) -> list[bytes]:
        """The next `n` frames' messages."""
        async with asyncio.timeout(PATIENCE):
            return [(await self.frames.get())[wire.PREFIX_SIZE :] for _ in range(n)]

    async def hear_control(self) -> wire.ControlMessage:
        async with asyncio.timeout(PATIENCE):
            return await self.control.get()

    async def close(self) -> None:
        raise NotImplementedError


class UdpClient(LiveClient):
    async def open(self, host: str = "127.0.0.1") -> UdpClient:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.setblocking(False)
        self.socket.connect((host, self.relay.port))
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._readable)
        return self

    def _readable(self) -> None:
        while True:
            try:
                self.got(self.socket.recv(65536))
            except (BlockingIOError, ConnectionRefusedError):
                return

    async def send(self, *frames: bytes) -> None:
        for frame in frames:
            await asyncio.get_running_loop().sock_sendall(self.socket, frame)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.socket.close()


class WebSocketClient(LiveClient):
    connection: ClientConnection
    messages = 0

    async def open(self, **options: Any) -> WebSocketClient:
        scheme = "wss" if "ssl" in options else "ws"
        self.connection = await connect(
            f"{scheme}://127.0.0.1:{self.relay.port}/", compression=None, proxy=None, **options
        )
        self.reader = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        async for message in self.connection:
            assert isinstance(message, bytes)
            self.messages += 1
            for frame in wire.unpack_message(message):
                self.got(bytes(frame))

    async def send(self, *frames: bytes) -> None:
        await self.connection.send(wire.pack_stream(frames))

    async def close(self) -> None:
        self.reader.cancel()
        await self.connection.close()
