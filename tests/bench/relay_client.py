"""Sockets and streams that have a session at the relay which `relay_node.py` runs, as a daemon gives them to its pump."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_address

from shadowmesh.daemon.relay_stream import RelayStream
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.protocol import relay as wire
from shadowmesh.protocol.signing import Signer
from shadowmesh.protocol.token import RelayTokenBody, sign_token

PORT = 9545
NETWORK = NetworkID(b"B" * 32)
CONTROLLER, RELAY = Signer.from_secret(Secret(b"c" * 32)), Signer.from_secret(Secret(b"r" * 32))


def device(own: str) -> tuple[Signer, str]:
    """A client's device key and token."""
    signer = Signer.from_secret(Secret(own.encode().ljust(32, b"-")))
    now = time.time()
    body = RelayTokenBody(
        device_key=signer.device_key,
        network_id=NETWORK,
        ip=IPv4Address(own),
        issued=now,
        renew_after=now + 900,
        valid_until=now + 9000,
    )
    return signer, sign_token(body, CONTROLLER)


async def login(own: str, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]]) -> None:
    signer, token = device(own)
    attempt = wire.LoginAttempt(token, RELAY.public, signer)
    await send(attempt.hello())
    while attempt.welcome is None:
        answer = attempt.receive(wire.decode_control(await receive()))
        if answer is not None:
            await send(answer)


async def udp_client(host: str, own: str) -> socket.socket:
    """A socket that has a session."""
    sock = open_udp(ip_address("0.0.0.0"))
    loop, relay = asyncio.get_running_loop(), (host, PORT)

    async def send(data: bytes) -> None:
        await loop.sock_sendto(sock, data, relay)

    async with asyncio.timeout(5):
        await login(own, send, lambda: loop.sock_recv(sock, 2048))
    return sock


async def stream_client(url: str, own: str) -> tuple[int, asyncio.Task[None]]:
    """The pump's end of a stream that has a session, and the task that carries it."""
    stream = RelayStream(url)
    fd = await stream.open()
    task = asyncio.create_task(stream.run())
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=os.dup(fd)) as end:
        end.setblocking(False)

        async def send(data: bytes) -> None:
            await loop.sock_sendall(end, wire.pack_stream([data]))

        async def receive() -> bytes:
            return bytes(wire.unpack_message(await loop.sock_recv(end, 65536))[0])

        async with asyncio.timeout(5):
            await login(own, send, receive)
        end.setblocking(True)
    return fd, task
