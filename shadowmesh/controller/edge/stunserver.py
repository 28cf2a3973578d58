"""STUN on UDP: moves datagrams between sockets and `protocol.stun.StunServer`.

Answers leave from the address that was asked, also where a socket listens on all of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Sequence

from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.protocol.stun import StunServer
from shadowmesh.serving.buckets import StunLimit

_IP_PKTINFO = 8  # linux/in.h; not in Python's socket module before 3.14
_BUFFER = 2048
_TURN = 32  # datagrams per turn of the event loop


class StunShell:
    """Answers on these bound UDP sockets until closed."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self._server = StunServer([SockAddr(*s.getsockname()[:2]) for s in sockets])
        self._limit = StunLimit()
        loop = asyncio.get_running_loop()
        for index, sock in enumerate(sockets):
            sock.setblocking(False)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            loop.add_reader(sock, self._readable, index)

    def _readable(self, index: int) -> None:
        for _ in range(_TURN):
            try:
                data, ancillary, _, source = self._sockets[index].recvmsg(_BUFFER, 128)
            except OSError:  # nothing more, or an ICMP error of an earlier answer
                return
            self._answer(index, data, ancillary, source)

    def _answer(
        self, index: int, data: bytes, ancillary: list[tuple[int, int, bytes]], source: tuple[str, int]
    ) -> None:
        asked = _destination(ancillary)
        answer = self._server.answer(data, _unmapped(source), index, asked)
        if answer is None or not self._limit.allows(source[0], asyncio.get_running_loop().time()):
            return
        packet, sender = answer
        sock = self._sockets[sender]
        control = [] if asked is None else [_source_control(sock, asked)]
        try:
            sock.sendmsg([packet], control, 0, source)
        except OSError:
            return  # unroutable, or the buffer is full: the client asks again

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()


def _unmapped(source: tuple[str, int]) -> SockAddr:
    host = source[0].partition("%")[0]
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return SockAddr(str(mapped or address), source[1])


def _destination(ancillary: list[tuple[int, int, bytes]]) -> IPAddress | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return ipaddress.IPv4Address(data[8:12])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            found = ipaddress.IPv6Address(data[:16])
            return found.ipv4_mapped or found
    return None


def _source_control(sock: socket.socket, source: IPAddress) -> tuple[int, int, bytes]:
    if sock.family == socket.AF_INET:
        return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, source.packed, bytes(4))
    packed = source.packed if source.version == 6 else bytes(10) + b"\xff\xff" + source.packed
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed + struct.pack("=I", 0)
