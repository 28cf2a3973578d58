"""From the underlay to the TUN.

Datagrams of one size and source are gathered in one buffer, where they lie as rows. A row run that belongs to one session is
decrypted into rows of plaintext, checked as a table, and what the segments of one TCP or UDP flow are goes to the kernel as one super-packet,
whose payload is never copied. Whatever is not such a run (single packets, handshakes, a mixture) takes `PumpCore.inbound`, packet by packet.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import groupby
from typing import Any, Final

import numpy as np

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane.aead import InvalidTag
from shadowmesh.dataplane.packets import FRAME_HEADER, FRAME_MAGIC, TRANSPORT_MAGIC, answer_prefix
from shadowmesh.dataplane.pumpcore import PumpCore, closes
from shadowmesh.dataplane.pumpstate import NetState, PeerState, SessionState
from shadowmesh.dataplane.python.coalesce import Coalescer
from shadowmesh.dataplane.python.receive import MESSAGES, Receiver, parsed
from shadowmesh.dataplane.python.rows import OVERHEAD, U8, Array, Layouts, PlainRows, ReceivedRows
from shadowmesh.dataplane.python.transports import StreamTransport, UdpTransport, sock_addr
from shadowmesh.dataplane.sockets import SOL_UDP, UDP_GRO, gathered_size, received_to
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import IPAddress, SockAddr

RECEIVES_AT_ONCE: Final = 64  # then the interfaces have their turn
ROWS_AT_ONCE: Final = 96  # two or three receives of what UDP_GRO gathers
_DATAGRAM: Final = 65536
_BUFFER: Final = 4 * _DATAGRAM
_CONTROL_BYTES: Final = 128
_CACHED: Final = 4096


class Origin:
    """Where a run came from: one transport, remote, and local address."""

    __slots__ = ("_paths", "local", "remote", "transport")

    def __init__(
        self, transport: UdpTransport | StreamTransport, remote: SockAddr | None, local: IPAddress | None
    ) -> None:
        self.transport = transport
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
            found = self._paths[frame_header] = m.Path(self.transport.slot, self.remote, self.local, prefix)
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
        self._layouts: Layouts[ReceivedRows] = Layouts(
            lambda size, head_size: ReceivedRows(self._buffer, self._plain, size, head_size)
        )
        self._receiver = Receiver(self._buffer)
        self._sources: dict[tuple[int, Any, bytes], Origin] = {}
        self._senders: dict[tuple[int, bytes, bytes], tuple[int, Origin]] = {}

    def forget(self, slot: int) -> None:
        """A transport went: nothing remembered of it stays."""
        self._sources = {key: source for key, source in self._sources.items() if key[0] != slot}
        self._senders = {key: sender for key, sender in self._senders.items() if key[0] != slot}

    # gathering

    def read_socket(self, transport: UdpTransport, now: float) -> None:
        """Receives until there is nothing (or others must have their turn). Raises OSError if the socket is of no use."""
        receive = transport.sock.recvmsg_into
        view = self._view
        source: Origin | None = None
        end = size = 0  # the open run: it begins at the buffer's start, whose slices are at hand
        last: tuple[Any, Any] | None = None  # control messages and address of what came before, and what they say:
        each = 0
        came_from: Origin | None = None
        for _ in range(RECEIVES_AT_ONCE):
            try:
                got, control, _, address = receive((view[end : end + _DATAGRAM],), _CONTROL_BYTES)
            except BlockingIOError:
                break
            except OSError as e:
                if closes(e.errno or 0):
                    raise
                continue  # an ICMP error of an earlier send
            if last is None or control != last[0] or address != last[1]:
                last = control, address
                each, came_from = self._ancillary(transport, control, address)
            datagram = each or got
            if not got:
                continue
            if end and (
                came_from is not source or datagram > size or (datagram < size and got != datagram) or end % size
            ):
                assert source is not None
                self._run(source, end, size, 0, now)
                view[:got] = view[end : end + got]
                end = 0
            if not end:
                source, size = came_from, datagram
            end += got
            drained = False
            if (
                not each and got == size and end > size and source is not None
            ):  # nothing gathers here: let them come by the row
                end, drained = self._read_rows(transport, source, end, size, now)
            if end >= ROWS_AT_ONCE * size or end > _BUFFER - _DATAGRAM:
                assert source is not None
                self._run(source, end, size, 0, now)
                end = 0
            if drained:
                break
        if end:
            assert source is not None
            self._run(source, end, size, 0, now)

    def _read_rows(self, transport: UdpTransport, source: Origin, end: int, size: int, now: float) -> tuple[int, bool]:
        """Goes on with the open run of single datagrams, many a call. Returns its new end, and whether there is nothing more."""
        receiver = self._receiver
        while end < ROWS_AT_ONCE * size:
            most = min(MESSAGES, (_BUFFER - end) // size)
            if not most:
                return end, False
            try:
                got = receiver.receive(transport.fd, end, size, most)
            except OSError as e:
                if closes(e.errno or 0):
                    raise
                return end, False
            if got and receiver.uniform(got) and self._sender(transport, receiver.raw(0)) == (0, source):
                end += got * size
            elif got:
                self._run(source, end, size, 0, now)
                self._mixture(transport, got, now)
                end = 0
            if got < most:
                return end, True
            if not end:
                break
        return end, False

    def _mixture(self, transport: UdpTransport, count: int, now: float) -> None:
        """Handles what came instead of more of the same, in order: what is alike goes together."""
        came = [(self._sender(transport, self._receiver.raw(i)), self._receiver.data(i)) for i in range(count)]
        for ((each, source), size), group in groupby(came, key=lambda one: (one[0], len(one[1]))):
            datagrams = [data for _, data in group]
            at_once = 1 if each else max(1, _BUFFER // max(1, size))
            for i in range(0, len(datagrams), at_once):
                data = b"".join(datagrams[i : i + at_once])
                self._view[: len(data)] = data
                self._run(source, len(data), each or size, 0, now)

    def _sender(self, transport: UdpTransport, raw: tuple[bytes, bytes]) -> tuple[int, Origin]:
        """What address and control messages say, as `_ancillary`."""
        key = transport.slot, *raw
        found = self._senders.get(key)
        if found is None:
            if len(self._senders) >= _CACHED:
                self._senders.clear()
            found = self._senders[key] = self._ancillary(transport, *parsed(raw))
        return found

    def _ancillary(self, transport: UdpTransport, control: list[Any], address: Any) -> tuple[int, Origin]:
        """What control messages and address say: the size of gathered datagrams (0: it is a single one) and where they came from."""
        each = 0
        local = b""
        for level, kind, data in control:
            if level == SOL_UDP and kind == UDP_GRO:
                each = max(0, gathered_size(data))
            else:
                local = received_to(level, kind, data) or local
        return each, self._source(transport, (transport.slot, address, local))

    def _source(self, transport: UdpTransport, key: tuple[int, Any, bytes]) -> Origin:
        found = self._sources.get(key)
        if found is None:
            if len(self._sources) >= _CACHED:
                self._sources.clear()
                self._senders.clear()
            from ipaddress import ip_address

            local = ip_address(key[2]) if key[2] else None
            found = self._sources[key] = Origin(transport, sock_addr(key[1]), local)
        return found

    def read_stream(self, transport: StreamTransport, now: float) -> None:
        """Reads frames. Raises OSError if the stream has ended."""
        view = memoryview(transport.buffer)
        source = Origin(transport, None, None)
        for _ in range(8):
            try:
                got = transport.sock.recv_into(view[transport.filled :])
            except BlockingIOError:
                return
            if not got:
                raise OSError(errno.EPIPE, "end of stream")
            transport.filled += got
            used = self._frames(source, view[: transport.filled], now)
            rest = transport.filled - used
            if used and rest:
                view[:rest] = bytes(view[used : transport.filled])
            transport.filled = rest

    def _frames(self, source: Origin, data: memoryview, now: float) -> int:
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
                self._run(source, end - at, size, 2, now)
            at = end
        return at

    # runs

    def _run(self, source: Origin, end: int, size: int, skip: int, now: float) -> None:
        """Datagrams of `size` bytes, the last perhaps shorter, each after `skip` bytes that are not part of it."""
        if end <= size or size < skip + OVERHEAD or not self._batch(source, end, size, skip, now):
            self._one_by_one(source, 0, end, size, skip, now)

    def _one_by_one(self, source: Origin, start: int, end: int, size: int, skip: int, now: float) -> None:
        slot, remote, local = source.transport.slot, source.remote, source.local
        for at in range(start, end, size):
            self._core.inbound(slot, remote, local, self._view[at + skip : min(at + size, end)], now)

    def _batch(self, source: Origin, end: int, size: int, skip: int, now: float) -> bool:
        """Handles a run of transport packets of one session. False, and nothing done, if it isn't one."""
        buffer = self._buffer
        full = end // size
        offset = skip
        header = b""
        if buffer[skip : skip + 4] == FRAME_MAGIC and size >= skip + FRAME_HEADER + OVERHEAD:
            offset += FRAME_HEADER
            header = bytes(buffer[skip:offset])
            table = np.frombuffer(buffer, U8, full * size).reshape(full, size)
            if np.count_nonzero(table[:, skip:offset] != table[0, skip:offset]):
                return False
        if buffer[offset : offset + 4] != TRANSPORT_MAGIC:
            return False
        session = self._core.by_index.get(int.from_bytes(buffer[offset + 4 : offset + 8], "little"))
        if session is None or now >= session.dies:
            return False
        rows = self._layouts.get(size, offset)
        in_order = rows.in_order(full)
        if not in_order and not rows.one_session(full):
            return False
        try:
            rows.open(session, full)
        except InvalidTag:
            return False

        first = int.from_bytes(buffer[offset + 8 : offset + 16], "little")
        kept = None
        if not in_order or not session.window.accept_run(first, full):
            kept = self._fresh(session, rows.counters(full))
        path = source.path(header)
        count = full if kept is None else int(kept.sum())
        if count:
            self._core.authenticated(session, path, now)
            if rows.plain is not None:
                if kept is not None:
                    rows.plain.keep(kept)
                self._deliver(session.peer, path, rows.plain, count, now)
        if full * size < end:
            self._one_by_one(source, full * size, end, size, skip, now)
        return True

    def _fresh(self, session: SessionState, counters: list[int]) -> Array | None:
        """None if all counters are new, else which of them are."""
        kept = np.fromiter(map(session.window.accept, counters), bool, len(counters))
        duplicates = len(counters) - int(np.count_nonzero(kept))
        session.peer.record[c.DUPLICATE] += duplicates
        return kept if duplicates else None

    def _deliver(self, peer: PeerState, path: m.Path, rows: PlainRows, count: int, now: float) -> None:
        """Checks plaintext rows and hands them to the network's interface."""
        net = peer.net
        size, packets = 0, 0
        for pieces, inner, number in self._coalescer(net).packets(self._core, peer, rows, count):
            failed = self._write(net, pieces, number)
            if failed:
                peer.record[c.QUEUE] += number
            size += inner
            packets += number
        if packets:
            self._core.received(peer, path, size, packets, now)
