"""Sockets and streams as the packet loops use them, and paths resolved to them."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from shadowmesh.dataplane.sockets import IP_PKTINFO, SOL_UDP, UDP_SEGMENT
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import IPAddress, SockAddr

MAX_UDP_PAYLOAD: Final = 65507
MAX_SEGMENTS: Final = 64  # what every kernel with UDP_SEGMENT takes in one send
MAX_STREAM_WRITE: Final = 65536
_WAIT_MS: Final = 20  # how long a full socket buffer holds up the loop before packets are dropped

# A device or path that can't do this segmentation: the rows go out one by one.
_NO_SEGMENTATION: Final = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP})


class Transport:
    """A socket or stream in a slot."""

    is_stream = False

    def __init__(self, slot: m.Slot, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.slot = slot
        self.sock = sock
        self.fd = sock.fileno()

    def close(self) -> None:
        self.sock.close()


class UdpTransport(Transport):
    """A UDP socket of either family."""

    def __init__(self, slot: m.Slot, sock: socket.socket) -> None:
        super().__init__(slot, sock)
        self.is_ipv6 = sock.family == socket.AF_INET6
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLOUT)

    def send(self, data: memoryview | bytes, control: list[Any], address: Any) -> int:
        """One sendmsg; waits a moment where the buffer is full. Returns errno or 0."""
        for last in (False, True):
            try:
                self.sock.sendmsg((data,), control, 0, address)
            except BlockingIOError:
                if last or not self._poll.poll(_WAIT_MS):
                    break
            except OSError as e:
                return e.errno or errno.EIO
            else:
                return 0
        return errno.EAGAIN


class StreamTransport(Transport):
    """One end of a stream socketpair: u16be length and frame, many per read and write."""

    is_stream = True

    def __init__(self, slot: m.Slot, sock: socket.socket, blocked: Callable[[], None]) -> None:
        """`blocked` is called when a write was cut: `push` wants to be called once the stream takes more."""
        super().__init__(slot, sock)
        self._blocked = blocked
        self.unsent = b""  # the rest of a write that the buffer cut: framing must not break
        self.buffer = bytearray(1 << 18)
        self.filled = 0

    def send(self, data: memoryview | bytes) -> int:
        """Writes whole frames; what the buffer can't take is kept up to one write, then frames are dropped."""
        if self.unsent and self.push():
            return errno.EAGAIN
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            return errno.EAGAIN
        except OSError as e:
            return e.errno or errno.EIO
        if sent < len(data):
            self.unsent = bytes(data[sent:])
            self._blocked()
        return 0

    def push(self) -> bool:
        """Writes what is left over. True while something still is."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = b""
        return bool(self.unsent)


def source_control(local: IPAddress | None) -> list[Any]:
    """The control message that sends from this local address."""
    if local is None:
        return []
    if local.version == 4:
        return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@i4s4s", 0, local.packed, b"\0\0\0\0"))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local.packed + struct.pack("@I", 0))]


class Way:
    """A path bound to the transport it goes by."""

    __slots__ = ("_control", "_segment_control", "address", "gso_below", "head_size", "path", "prefix", "transport")

    def __init__(self, path: m.Path, transport: Transport) -> None:
        self.path = path
        self.transport = transport
        self.prefix = path.prefix
        self.head_size = len(path.prefix) + (2 if transport.is_stream else 0)
        self.address: Any = None
        if path.remote is not None:
            self.address = (path.remote.host, path.remote.port)
        self._control = source_control(path.local)
        self._segment_control: dict[int, list[Any]] = {}
        self.gso_below = MAX_UDP_PAYLOAD + 1  # datagrams of this size and above can't be segmented by the kernel here

    def head(self, size: int) -> bytes:
        """What stands before a datagram of `size` bytes on this way."""
        if self.transport.is_stream:
            return (len(self.prefix) + size).to_bytes(2, "big") + self.prefix
        return self.prefix

    def rows_at_once(self, stride: int) -> int:
        """How many rows of `stride` bytes go out in one call."""
        most = MAX_STREAM_WRITE if self.transport.is_stream else MAX_UDP_PAYLOAD
        return max(1, min(MAX_SEGMENTS, most // stride))

    def send_rows(self, rows: memoryview, stride: int) -> int:
        """Sends datagrams (or stream frames) that lie behind each other, all of `stride` bytes but the last. Returns errno or 0."""
        transport = self.transport
        if isinstance(transport, StreamTransport):
            return transport.send(rows)
        assert isinstance(transport, UdpTransport)
        if len(rows) <= stride:
            return transport.send(rows, self._control, self.address)
        if stride < self.gso_below:
            control = self._segment_control.get(stride)
            if control is None:
                if len(self._segment_control) > 2048:
                    self._segment_control.clear()
                control = [*self._control, (SOL_UDP, UDP_SEGMENT, struct.pack("@H", stride))]
                self._segment_control[stride] = control
            failed = transport.send(rows, control, self.address)
            if failed not in _NO_SEGMENTATION:
                return failed
            self.gso_below = stride
        failed = 0
        for at in range(0, len(rows), stride):
            failed = transport.send(rows[at : at + stride], self._control, self.address) or failed
        return failed

    def send_one(self, data: bytes) -> int:
        """Sends one datagram that already carries its prefix. Returns errno or 0."""
        transport = self.transport
        if isinstance(transport, StreamTransport):
            return transport.send(len(data).to_bytes(2, "big") + data)
        assert isinstance(transport, UdpTransport)
        return transport.send(data, self._control, self.address)


def sock_addr(address: Any) -> SockAddr:
    """The model's address from what recvmsg says."""
    return SockAddr(address[0], address[1])
