"""The controller is a STUN server, on UDP at its TCP port and the next."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from shadowmesh.protocol import stun

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def test_stun_answers_on_both_ports(world: World) -> None:
    port = world.at.core.settings.address.port
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
