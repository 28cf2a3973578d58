"""The relay's UDP side: reads what is there, forwards it in batches, answers STUN.

The kernel gathers datagrams of one flow (UDP_GRO) and cuts them again (UDP_SEGMENT), so a run of frames with one prefix
costs one look-up, one comparison of all prefixes and a share of two system calls. What goes to one client is gathered over
several reads, too, for underlays that don't. All copies are the kernel's.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import structlog

from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.sockets import IP_PKTINFO, SOL_UDP, UDP_SEGMENT, gathered_size, received_to
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.protocol.relay import CONTROL_HEADER, FRAME_HEADER, MIN_FRAME, PREFIX_SIZE
from shadowmesh.protocol.stun import StunServer
from shadowmesh.relay.native import NativeForwarding
from shadowmesh.relay.relaycore import Out, RelayCore
from shadowmesh.relay.runs import rows_with, with_lengths
from shadowmesh.relay.sessiontable import ClientSession, StreamAddr
from shadowmesh.serving.buckets import StunLimit
from shadowmesh.serving.rarelog import RareLog

log = structlog.get_logger(__name__)
_rare = RareLog(__name__)

_DATAGRAM = 65536
_ARENA = 16 * _DATAGRAM
_READS = 128  # per readiness of a socket: then the other sockets and the WebSockets have their turn
_MAX_SEGMENTS = 64
_MAX_PAYLOAD = 65507
_WILDCARDS = ("0.0.0.0", "::")
_PKTINFO = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
}
_NO_GSO = (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP)


@dataclass(slots=True)
class _Batch:
    """Frames for one client that leave in one call: all of one size, the last may be shorter and then ends it."""

    dest: ClientSession
    segment: int
    parts: list[memoryview]
    frames: int
    octets: int
    ended: bool


class UdpSide:
    """Sockets of one or two IP versions on one port, and on the next for STUN alone."""

    def __init__(
        self,
        core: RelayCore,
        clock: Callable[[], Now],
        deliver: Callable[[ClientSession, bytes | memoryview, int], None],
        send: Callable[[Out], None],
        outer: OuterSockets,
    ) -> None:
        """`deliver` gets frames for a client on a stream, as that carries them, and how many; `send` what the core wants sent."""
        self._core = core
        self._clock = clock
        self._deliver = deliver
        self._send = send
        self._outer = outer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: list[socket.socket] = []
        self._by_version: dict[bool, socket.socket] = {}  # IPv6? → socket for frames
        self._stun = StunServer(())
        self._stun_limit = StunLimit()
        self._buffer = bytearray(_ARENA)
        self._arena = memoryview(self._buffer)
        self._pending: dict[SockAddr, _Batch] = {}
        self._local: dict[SockAddr, bytes] = {}  # which of our addresses a client sends to, where there are several
        self._gso = True
        self._native = core.forwarding if isinstance(core.forwarding, NativeForwarding) else None
        self._wake: int | None = None

    def open(self, hosts: list[str], port: int) -> int:
        """Binds; returns the port (one that is free where `port` is 0). Raises OSError."""
        try:
            for host in hosts:
                first = self._bind(host, port)
                port = first.getsockname()[1]
                self._by_version[":" in host] = first
                self._bind(host, port + 1)
        except OSError:
            self.close()
            raise
        self._stun = StunServer([SockAddr(*s.getsockname()[:2]) for s in self._sockets])
        return port

    def _bind(self, host: str, port: int) -> socket.socket:
        try:
            sock = self._outer.udp(ip_address(host), port)
            if host not in _WILDCARDS:  # there is one address to leave from: don't have it told with each datagram
                sock.setsockopt(*_PKTINFO[sock.family], 0)
        except OSError as e:
            raise OSError(e.errno, f"UDP port {port} on {host}: {e.strerror}") from e
        self._sockets.append(sock)
        return sock

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reads from now on. Raises OSError where the native forwarder can't start."""
        self._loop = loop
        native = self._native
        if native is not None and self._sockets:
            self._wake = native.forwarder.start([s.fileno() for s in self._sockets[::2]])
            loop.add_reader(self._wake, self._drain)
        for index, sock in enumerate(self._sockets):
            if native is None or index % 2:
                loop.add_reader(sock.fileno(), self._readable, index)

    def close(self) -> None:
        if self._loop is not None and self._wake is not None:
            self._loop.remove_reader(self._wake)
        if self._native is not None:
            self._native.forwarder.stop()
        self._wake = None
        for sock in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._by_version.clear()

    # reading

    def _readable(self, index: int) -> None:
        sock = self._sockets[index]
        arena, receive = self._arena, sock.recvmsg_into
        at, ended = 0, True
        start, step, whence, to = 0, 0, None, None  # what was read and not yet taken: one source's, `step` bytes each
        self._core.begin(self._clock())
        for _ in range(_READS):
            if at + _DATAGRAM > _ARENA:
                self._take(start, at, step, whence, to, index)
                self.flush()
                at, start, ended = 0, 0, True
            try:
                size, ancillary, _flags, addr = receive([arena[at : at + _DATAGRAM]], 128)
            except BlockingIOError:
                break
            except OSError as e:
                _rare("udp receive failed", error=str(e))
                break
            segment, local = size, None
            for level, kind, data in ancillary:
                if level == SOL_UDP:
                    segment = gathered_size(data)
                else:
                    local = received_to(level, kind, data) or local
            room = min(_MAX_PAYLOAD, step * _MAX_SEGMENTS) - (at - start)
            if ended or segment != step or addr != whence or local != to or size > room:
                self._take(start, at, step, whence, to, index)
                start, step, whence, to = at, segment, addr, local
            ended = segment == 0 or size % segment != 0
            at += size
        self._take(start, at, step, whence, to, index)
        self.flush()

    def _take(self, start: int, end: int, segment: int, addr: Any, local: bytes | None, index: int) -> None:
        """Datagrams of one source, each of `segment` bytes, the last perhaps shorter: as runs of frames with one prefix,
        and the odd other."""
        source: Any = addr and addr[:2]  # IPv6 ones come with flow and scope
        while start < end:
            stop = min(start + segment, end)
            prefix = bytes(self._arena[start : start + PREFIX_SIZE])
            if index % 2 or prefix[:4] != FRAME_HEADER or stop - start < MIN_FRAME:
                self._other(bytes(self._arena[start:stop]), source, local, index)
                start = stop
                continue
            frames = 1
            if stop < end and self._buffer.startswith(prefix, stop):
                frames = max(1, rows_with(prefix, self._buffer, start, end, segment))
                stop = start + frames * segment
                if 0 < end - stop < segment and end - stop >= MIN_FRAME and self._buffer.startswith(prefix, stop):
                    stop, frames = end, frames + 1
            dest = self._core.route(prefix, source, frames, stop - start)
            if dest is None:
                addr = SockAddr(*source)
                self._reply(self._core.refuse(prefix, addr, frames, stop - start), addr, local, index)
            else:
                self._forward(dest, start, stop, segment, frames)
            start = stop

    def _drain(self) -> None:
        """What the native forwarder has left to us. It reads the first socket of each IP version."""
        assert self._native is not None
        self._core.begin(self._clock())
        datagrams, refused, streams = self._native.forwarder.drain()
        for number, frames, packed in streams:
            dest = self._native.session(number)
            if dest is not None:
                self._deliver(dest, packed, frames)
            else:
                self._native.undelivered_to(number, frames, len(packed) - 2 * frames)
        for prefix, source, frames, octets, socket_number, local in refused:
            addr = SockAddr(*source)
            self._reply(self._core.refuse(prefix, addr, frames, octets), addr, local, 2 * socket_number)
        for socket_number, source, local, data in datagrams:
            self._other(data, source, local, 2 * socket_number)

    def _forward(self, dest: ClientSession, start: int, stop: int, segment: int, frames: int) -> None:
        segment = min(segment, stop - start)
        if isinstance(dest.transport, StreamAddr):
            self._deliver(dest, with_lengths(self._arena[start:stop], segment), frames)
        else:
            self.queue(dest, self._arena[start:stop], segment, frames)

    def _other(self, data: bytes, source: Any, local: bytes | None, index: int) -> None:
        addr = SockAddr(*source)
        if index % 2:  # the port for STUN alone
            self._answer_stun(data, addr, index, local)
            return
        if data[:4] != CONTROL_HEADER and self._answer_stun(data, addr, index, local):
            return
        self._reply(self._core.receive(addr, data, self._clock()), addr, local, index)
        if local is not None and addr in self._core.sessions.by_transport:
            self._local[addr] = local
            if self._native is not None:
                self._native.forwarder.set_local(*addr, local)

    def _reply(self, out: Out, source: SockAddr, local: bytes | None, index: int) -> None:
        """Sends what the core says; to the source from the address that it sent to."""
        for to, data in out:
            if to == source:
                self._write(self._sockets[index], [data], self._from(local), source)
            else:
                self._send([(to, data)])

    def _answer_stun(self, data: bytes, source: Any, index: int, local: bytes | None) -> bool:
        here = None if local is None else ip_address(local)
        answer = self._stun.answer(data, SockAddr(*source), index, here)
        if answer is None:
            return False
        reply, sender = answer
        if self._stun_limit.allows(source[0], self._clock().boot):
            self._write(self._sockets[sender], [reply], self._from(local), SockAddr(*source))
        return True

    # writing

    def queue(self, dest: ClientSession, frames: memoryview, segment: int, count: int) -> None:
        """Takes `count` frames of `segment` bytes each, the last perhaps shorter, in one piece that stays until `flush`."""
        to = dest.transport
        assert isinstance(to, SockAddr)
        octets = len(frames)
        batch = self._pending.get(to)
        if batch is not None:
            if (
                not batch.ended
                and (segment == batch.segment or (count == 1 and segment < batch.segment))
                and batch.frames + count <= _MAX_SEGMENTS
                and batch.octets + octets <= _MAX_PAYLOAD
                and batch.dest is dest
            ):
                batch.parts.append(frames)
                batch.frames += count
                batch.octets += octets
                batch.ended = octets != batch.segment * count
                return
            self._transmit(to, batch)
        self._pending[to] = _Batch(dest, segment, [frames], count, octets, octets != segment * count)

    def queue_rows(self, dest: ClientSession, rows: bytes, segment: int) -> None:
        """Takes any number of frames of `segment` bytes each."""
        view, most = memoryview(rows), segment * max(1, min(_MAX_SEGMENTS, _MAX_PAYLOAD // segment))
        for at in range(0, len(rows), most):
            piece = view[at : at + most]
            self.queue(dest, piece, segment, len(piece) // segment)

    def flush(self) -> None:
        """Sends what is queued."""
        if self._pending:
            for to, batch in self._pending.items():
                self._transmit(to, batch)
            self._pending.clear()

    def send(self, to: SockAddr, data: bytes) -> None:
        """One message of the core's own."""
        sock = self._by_version.get(to.is_ipv6)
        if sock is not None:
            self._write(sock, [data], self._from(self._local.get(to)), to)

    def _transmit(self, to: SockAddr, batch: _Batch) -> None:
        sock = self._by_version.get(to.is_ipv6)
        if sock is None:
            self._core.undelivered(batch.dest, batch.frames, batch.octets)
            return
        ancillary = self._from(self._local.get(to))
        if batch.frames == 1:
            if not self._write(sock, batch.parts, ancillary, to):
                self._core.undelivered(batch.dest, 1, batch.octets)
            return
        if self._gso:
            try:
                sock.sendmsg(batch.parts, [*ancillary, (SOL_UDP, UDP_SEGMENT, struct.pack("@H", batch.segment))], 0, to)
                return
            except OSError as e:
                if e.errno not in _NO_GSO:
                    self._core.undelivered(batch.dest, batch.frames, batch.octets)
                    return
                if e.errno in (errno.EIO, errno.EOPNOTSUPP):
                    log.info("this host's network can't segment UDP: frames are sent one by one", error=str(e))
                    self._gso = False
        for part in batch.parts:
            for start in range(0, len(part), batch.segment):
                frame = part[start : start + batch.segment]
                if not self._write(sock, [frame], ancillary, to):
                    self._core.undelivered(batch.dest, 1, len(frame))

    @staticmethod
    def _write(sock: socket.socket, parts: list[Any], ancillary: list[Any], to: SockAddr) -> bool:
        try:
            sock.sendmsg(parts, ancillary, 0, to)
        except OSError:  # full, unreachable, too big: as lost on the way
            return False
        return True

    @staticmethod
    def _from(local: bytes | None) -> list[Any]:
        """Ancillary data that makes a datagram leave from one of our addresses."""
        if local is None:
            return []
        if len(local) == 4:
            return [(socket.IPPROTO_IP, IP_PKTINFO, bytes(4) + local + bytes(4))]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + bytes(4))]

    def forget(self) -> None:
        """Drops what is kept of clients that have gone."""
        alive = self._core.sessions.by_transport
        gone = [addr for addr in self._local if addr not in alive]
        for addr in gone:
            del self._local[addr]
        if self._native is not None:
            self._native.forwarder.forget_locals(gone)
