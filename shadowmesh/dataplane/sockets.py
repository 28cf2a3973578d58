"""UDP sockets as the pump wants them: one family each, large buffers, kernel offloads, the local address of each datagram."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final

from shadowmesh.model.addresses import IPAddress

# <linux/udp.h>, <linux/in.h>, <asm-generic/socket.h>: not in Python's socket module
SOL_UDP: Final = socket.IPPROTO_UDP
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_DONT: Final = 0
PMTUDISC_PROBE: Final = 3
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33

BUFFER_BYTES: Final = 16 << 20  # four TCP streams with windows of 4 MB; what is queued takes memory, the limit none


def open_udp(
    address: IPAddress,
    port: int = 0,
    *,
    prepare: Callable[[socket.socket], object] = lambda sock: None,
    dont_fragment: bool = False,
    buffer_bytes: int = BUFFER_BYTES,
) -> socket.socket:
    """A bound, non-blocking UDP socket of the address's family (an IPv6 one takes no IPv4).

    `prepare` gets it before it is bound. `dont_fragment`: sends with DF and ignores the kernel's own idea of the path MTU, for probing;
    otherwise large datagrams may be fragmented on the way. Raises OSError (EADDRINUSE, EADDRNOTAVAIL), and what `prepare` raises.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for force, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, buffer_bytes)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, buffer_bytes)
        prepare(sock)
        set_dont_fragment(sock, dont_fragment)
        receive_options(sock)
        sock.bind((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def receive_options(sock: socket.socket) -> None:
    """Asks the kernel for gathered datagrams and for the address each was sent to; does without where it is older."""
    with contextlib.suppress(OSError):
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def set_dont_fragment(sock: socket.socket, enabled: bool) -> None:
    """DF on and no limit but the interface's (path MTU probing), or fragments allowed."""
    how = PMTUDISC_PROBE if enabled else PMTUDISC_DONT
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)


def received_to(level: int, kind: int, data: bytes) -> bytes | None:
    """The packed local address that a control message of recvmsg tells, None for other messages."""
    if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
        return data[4:8]
    if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
        return data[:16]
    return None


def gathered_size(data: bytes) -> int:
    """The datagrams' size in a UDP_GRO control message."""
    return int(struct.unpack_from("@H", data)[0]) if len(data) < 4 else int(struct.unpack_from("@i", data)[0])
