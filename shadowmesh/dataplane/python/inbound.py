"""From the underlay to the TUN.

Datagrams of one size and source are gathered in one buffer, where they lie as rows. A row run that belongs to one session is
decrypted into rows of plaintext, checked as a table, and what the segments of one TCP or UDP flow are goes to the kernel as one super-packet,
whose payload is never copied. Whatever is not such a run (single packets, handshakes, a mixture) takes `PumpCore.inbound`, packet by packet.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Any, Final

import numpy as np

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane.aead import InvalidTag
from shadowmesh.dataplane.core import PumpCore, closes
from shadowmesh.dataplane.packets import FRAME_HEADER, FRAME_MAGIC, TRANSPORT_MAGIC, answer_prefix
from shadowmesh.dataplane.python.coalesce import Coalescer
from shadowmesh.dataplane.python.links import StreamLink, UdpLink, sock_addr
from shadowmesh.dataplane.python.rows import LE8, U8, Array, column
from shadowmesh.dataplane.sessions import SessionState
from shadowmesh.dataplane.sockets import SOL_UDP, UDP_GRO, gathered_size, received_to
from shadowmesh.dataplane.state import NetState, PeerState
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import IPAddress, SockAddr

RECEIVES_AT_ONCE: Final = 64  # then the interfaces have their turn
ROWS_AT_ONCE: Final = 96  # two or three receives of what UDP_GRO gathers
_DATAGRAM: Final = 65536
_BUFFER: Final = 4 * _DATAGRAM
_CONTROL_BYTES: Final = 128
_CACHED: Final = 4096


class Source:
    """Where a run came from: one link, remote, and local address."""

    __slots__ = ("_paths", "link", "local", "remote")

    def __init__(self, link: UdpLink | StreamLink, remote: SockAddr | None, local: IPAddress | None) -> None:
        self.link = link
        self.remote = remote
        self.local = local
        self._paths: dict[bytes, m.Path] = {}

    def path(self, frame_header: bytes) -> m.Path:
        """The path that answers: of a relayed packet, with source and destination exchanged."""
        found = self._paths.get(frame_header)
        if found is None:
            if len(self._paths) >= _CACHED:
                self._paths.clear()
            prefix = answer_prefix(frame_header) if frame_header else b""
            found = self._paths[frame_header] = m.Path(self.link.slot, self.remote, self.local, prefix)
        return found


class Inbound:
    """Decrypts what comes from sockets and streams and hands it to the interfaces."""

    def __init__(
        self,
        core: PumpCore,
        write: Callable[[NetState, list[Any], int], int],
        coalescer: Callable[[NetState], Coalescer],
    ) -> None:
        """`write(net, pieces, packets)` hands one packet (already with its virtio header where one is due) to the network's TUN."""
        self._core = core
        self._write = write
        self._coalescer = coalescer
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._plain = bytearray(_BUFFER)
        self._plain_view = memoryview(self._plain)
        self._slices: dict[tuple[int, int], tuple[list[memoryview], list[memoryview], list[memoryview]]] = {}
        self._sources: dict[tuple[int, Any, bytes], Source] = {}

    def forget(self, slot: int) -> None:
        """A link went: nothing remembered of it stays."""
        self._sources = {key: source for key, source in self._sources.items() if key[0] != slot}

    # gathering

    def read_socket(self, link: UdpLink, now: float) -> None:
        """Receives until there is nothing (or others must have their turn). Raises OSError if the socket is of no use."""
        receive = link.sock.recvmsg_into
        view = self._view
        source: Source | None = None
        source_key: tuple[int, Any, bytes] | None = None
        start = end = size = 0  # the open run
        last: tuple[Any, Any] | None = None  # control messages and address of a run of single datagrams of one size
        for _ in range(RECEIVES_AT_ONCE):
            try:
                got, control, _, address = receive((view[end : end + _DATAGRAM],), _CONTROL_BYTES)
            except BlockingIOError:
                break
            except OSError as e:
                if closes(e.errno or 0):
                    raise
                continue  # an ICMP error of an earlier send
            if got == size and last is not None and control == last[0] and address == last[1]:
                end += got  # where the underlay gathers nothing, this is each datagram's way
                if end - start >= ROWS_AT_ONCE * size or end > _BUFFER - _DATAGRAM:
                    assert source is not None
                    self._run(source, start, end, size, 0, now)
                    start = end = 0
                    last = None
                continue
            last = None
            each = got
            local = b""
            for level, kind, data in control:
                if level == SOL_UDP and kind == UDP_GRO:
                    each = gathered_size(data)
                else:
                    local = received_to(level, kind, data) or local
            if not got or each <= 0:
                continue
            key = (link.slot, address, local)
            if end > start and (
                key != source_key or each > size or (each < size and got != each) or (end - start) % size
            ):
                assert source is not None
                self._run(source, start, end, size, 0, now)
                view[:got] = view[end : end + got]  # runs begin at the buffer's start, whose slices are at hand
                start = end = 0
            if end == start:
                source_key, size = key, each
                source = self._source(link, key)
            end += got
            if end - start >= ROWS_AT_ONCE * size or end > _BUFFER - _DATAGRAM:
                assert source is not None
                self._run(source, start, end, size, 0, now)
                start = end = 0
            elif got == each == size:
                last = control, address
        if end > start:
            assert source is not None
            self._run(source, start, end, size, 0, now)

    def _source(self, link: UdpLink, key: tuple[int, Any, bytes]) -> Source:
        found = self._sources.get(key)
        if found is None:
            if len(self._sources) >= _CACHED:
                self._sources.clear()
            from ipaddress import ip_address

            local = ip_address(key[2]) if key[2] else None
            found = self._sources[key] = Source(link, sock_addr(key[1]), local)
        return found

    def read_stream(self, link: StreamLink, now: float) -> None:
        """Reads frames. Raises OSError if the stream has ended."""
        view = memoryview(link.buffer)
        source = Source(link, None, None)
        for _ in range(8):
            try:
                got = link.sock.recv_into(view[link.filled :])
            except BlockingIOError:
                return
            if not got:
                raise OSError(errno.EPIPE, "end of stream")
            link.filled += got
            used = self._frames(source, view[: link.filled], now)
            rest = link.filled - used
            if used and rest:
                view[:rest] = bytes(view[used : link.filled])
            link.filled = rest

    def _frames(self, source: Source, data: memoryview, now: float) -> int:
        """Handles the whole frames in `data` and returns their bytes. Frames of equal size make a run."""
        at, total = 0, len(data)
        while total - at >= 2:
            size = (data[at] << 8 | data[at + 1]) + 2
            end = at
            head = bytes(data[at : at + 2])
            while end + size <= total and end - at < ROWS_AT_ONCE * size and data[end : end + 2] == head:
                end += size
            if end == at:
                break
            if end - at <= len(self._view):
                self._view[: end - at] = data[at:end]
                self._run(source, 0, end - at, size, 2, now)
            at = end
        return at

    # runs

    def _run(self, source: Source, start: int, end: int, size: int, skip: int, now: float) -> None:
        """Datagrams of `size` bytes, the last perhaps shorter, each after `skip` bytes that are not part of it."""
        if end - start <= size or size < skip + 32 or not self._batch(source, start, end, size, skip, now):
            self._one_by_one(source, start, end, size, skip, now)

    def _one_by_one(self, source: Source, start: int, end: int, size: int, skip: int, now: float) -> None:
        slot, remote, local = source.link.slot, source.remote, source.local
        for at in range(start, end, size):
            self._core.inbound(slot, remote, local, self._view[at + skip : min(at + size, end)], now)

    def _batch(self, source: Source, start: int, end: int, size: int, skip: int, now: float) -> bool:
        """Handles a run of transport packets of one session. False, and nothing done, if it isn't one."""
        buffer = self._buffer
        full = (end - start) // size
        offset = skip
        first = bytes(buffer[start + skip : start + skip + 4])
        header = b""
        if first == FRAME_MAGIC and size >= skip + FRAME_HEADER + 32:
            offset += FRAME_HEADER
            header = bytes(buffer[start + skip : start + offset])
            table = np.frombuffer(buffer, U8, full * size, start).reshape(full, size)
            if np.count_nonzero(table[:, skip:offset] != table[0, skip:offset]):
                return False
            first = bytes(buffer[start + offset : start + offset + 4])
        if first != TRANSPORT_MAGIC:
            return False
        heads = column(buffer, LE8, start + offset, size, full)
        if np.count_nonzero(heads != heads[0]):
            return False
        session = self._core.by_index.get(int(heads[0]) >> 32)
        if session is None or now >= session.dies:
            return False

        tail = start + full * size
        counters = column(buffer, LE8, start + offset + 8, size, full)
        index = buffer[start + offset + 4 : start + offset + 8]
        indices = column(buffer, np.dtype("<u4"), start + offset + 4, size, full)
        indices[:] = 0  # four zero bytes and the counter are the nonce
        nonces, sealed, plain = self._cut(start, size, offset, full)
        try:
            deque(map(session.rx.decrypt_into, nonces, sealed, repeat(None), plain), maxlen=0)
        except InvalidTag:
            indices[:] = int.from_bytes(index, "little")
            return False
        kept = self._fresh(session, counters, full)
        if kept is not None:
            if not kept.any():
                full = 0
            elif not kept.all():
                self._some(source, session, kept, full, size - offset - 32, header, now)
                full = 0
        if full:
            self._core.authenticated(session, source.path(header), now)
            if size - offset > 32:
                self._deliver(session.peer, source.path(header), full, size - offset - 32, now)
        if tail < end:
            self._one_by_one(source, tail, end, size, skip, now)
        return True

    def _cut(
        self, start: int, size: int, offset: int, count: int
    ) -> tuple[list[memoryview], list[memoryview], list[memoryview]]:
        """Slices of nonces, ciphertexts and plaintexts of a run; kept for runs at the buffer's start."""
        kept = self._slices.get((size, offset)) if start == 0 else None
        if kept is None or len(kept[0]) < count:
            count = max(count, ROWS_AT_ONCE) if start == 0 and ROWS_AT_ONCE * size <= _BUFFER else count
            view, at = self._view, range(start, start + count * size, size)
            width = size - offset - 32
            kept = (
                [view[i + offset + 4 : i + offset + 16] for i in at],
                [view[i + offset + 16 : i + size] for i in at],
                [self._plain_view[i * width : (i + 1) * width] for i in range(count)],
            )
            if start == 0:
                if len(self._slices) >= 256:
                    self._slices.clear()
                self._slices[size, offset] = kept
        if len(kept[0]) > count:
            return kept[0][:count], kept[1], kept[2]
        return kept

    def _fresh(self, session: SessionState, counters: Array, count: int) -> Array | None:
        """None if all counters are new, else which of them are."""
        lowest = int(counters[0])
        in_order = not np.count_nonzero(counters[1:] - counters[:-1] != 1)
        if in_order and session.window.accept_run(lowest, count):
            return None
        kept = np.fromiter((session.window.accept(n) for n in counters.tolist()), bool, count)
        replayed = count - int(kept.sum())
        session.peer.record[c.REPLAY] += replayed
        return kept if replayed else None

    def _some(
        self, source: Source, session: SessionState, kept: Array, count: int, width: int, header: bytes, now: float
    ) -> None:
        """Some rows were replays: the others move together and go on."""
        self._core.authenticated(session, source.path(header), now)
        if width:
            rows = np.frombuffer(self._plain, U8, count * width).reshape(count, width)
            fresh = rows[kept].tobytes()
            self._plain[: len(fresh)] = fresh
            self._deliver(session.peer, source.path(header), len(fresh) // width, width, now)

    def _deliver(self, peer: PeerState, path: m.Path, count: int, width: int, now: float) -> None:
        """Checks plaintext rows and hands them to the network's interface."""
        net = peer.net
        size, packets = 0, 0
        for pieces, inner, number in self._coalescer(net).packets(self._core, peer, self._plain, count, width):
            failed = self._write(net, pieces, number)
            if failed:
                peer.record[c.QUEUE] += number
            size += inner
            packets += number
        if packets:
            self._core.received(peer, path, size, packets, now)
