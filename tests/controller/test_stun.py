"""The controller is a STUN server, on UDP at its TCP port and the next."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from shadowmesh.controller.edge.stunserver import StunShell
from shadowmesh.protocol import stun

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def test_stun_answers_on_both_ports(world: World) -> None:
    port = world.at.context.settings.address.port
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        for number in (port, port + 1):
            await loop.sock_sendto(sock, stun.binding_request(b"0123456789ab"), ("127.0.0.1", number))
            data, source = await asyncio.wait_for(loop.sock_recvfrom(sock, 2048), 3)
            answer = stun.parse_response(data)
            assert isinstance(answer, stun.BindingResponse)
            assert (answer.mapped, source) == (sock.getsockname(), ("127.0.0.1", number))
        await loop.sock_sendto(sock, b"junk", ("127.0.0.1", port))
        request = stun.binding_request(b"0123456789ab", change_port=True)
        await loop.sock_sendto(sock, request, ("127.0.0.1", port))
        _, source = await asyncio.wait_for(loop.sock_recvfrom(sock, 2048), 3)
        assert source == ("127.0.0.1", port + 1)


async def test_no_source_gets_more_answers_than_its_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes another's address on requests can't have a flood of answers sent there."""
    monkeypatch.setattr("shadowmesh.serving.buckets.STUN_BURST", 5)
    monkeypatch.setattr("shadowmesh.serving.buckets.STUN_EVERY", 3600.0)
    loop = asyncio.get_running_loop()
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    shell = StunShell(sockets)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim, socket.socket(type=socket.SOCK_DGRAM) as other:
        for asking, host in ((victim, "127.0.0.1"), (other, "127.0.0.2")):
            asking.setblocking(False)
            asking.bind((host, 0))
        for number in range(20):
            to = sockets[number % 2].getsockname()
            await loop.sock_sendto(victim, stun.binding_request(number.to_bytes(12, "big")), to)
        for _ in range(5):
            assert stun.parse_response(await asyncio.wait_for(loop.sock_recv(victim, 2048), 3))
        await loop.sock_sendto(other, stun.binding_request(b"0123456789ab"), sockets[0].getsockname())
        await asyncio.wait_for(loop.sock_recv(other, 2048), 3)  # answered after those before it were dropped
        with pytest.raises(BlockingIOError):
            victim.recv(2048)
    shell.close()
