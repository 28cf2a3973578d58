"""ICMP echo through one interface: whether packets get to a host and back, and how long that takes (RFC 792)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from ipaddress import IPv4Address

from shadowmesh.dataplane.icmp import checksum

_REQUEST, _REPLY = 8, 0
_PACKET = 2048
_DATA = 56  # bytes, as of ping(8): a peer that lost the session can say so to a packet of this size, and not to a shorter one


class EchoSocket:
    """Sends echo requests to one host through one interface, and takes their answers. Raises OSError without CAP_NET_RAW."""

    def __init__(self, interface: str, source: IPv4Address, dest: IPv4Address) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            self._socket.bind((str(source), 0))
            self._socket.connect((str(dest), 0))  # of others nothing is heard
        except BaseException:
            self._socket.close()
            raise
        self._identifier = int.from_bytes(os.urandom(2))
        self._sequence = 0

    async def once(self, timeout: float) -> float | None:
        """Seconds until one request was answered, None if it wasn't within `timeout`, or couldn't be sent."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        token = os.urandom(_DATA)
        request = echo_request(self._identifier, self._sequence, token)
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_sendall(self._socket, request)
                while not is_reply(await self._receive(), self._identifier, self._sequence, token):
                    pass
        except OSError:  # a TimeoutError is one
            return None
        return time.monotonic() - started

    async def _receive(self) -> bytes:
        packet = await asyncio.get_running_loop().sock_recv(self._socket, _PACKET)
        return packet[(packet[0] & 15) * 4 :] if packet else b""  # a raw socket shows the IP header, too

    def close(self) -> None:
        self._socket.close()


def echo_request(identifier: int, sequence: int, token: bytes) -> bytes:
    head = struct.pack("!BBHHH", _REQUEST, 0, 0, identifier, sequence)
    return head[:2] + checksum(head + token).to_bytes(2) + head[4:] + token


def is_reply(message: bytes, identifier: int, sequence: int, token: bytes) -> bool:
    """Whether an ICMP message answers that request."""
    if len(message) < 8:
        return False
    kind, code, _, *which = struct.unpack_from("!BBHHH", message)
    return (kind, code, *which) == (_REPLY, 0, identifier, sequence) and message[8:] == token
