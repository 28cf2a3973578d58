"""Segments of one flow become one super-packet for the kernel (GRO in software), by looking at all rows of a batch as a table.

Segments are joined only if everything but what must differ is equal, and only if each checksum is right: the super-packet goes up as
CHECKSUM_PARTIAL, and a segment that came wrong must not be repaired by that.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final, NamedTuple

import numpy as np

from shadowmesh.dataplane.core import PumpCore
from shadowmesh.dataplane.python.outbound import little_sum
from shadowmesh.dataplane.python.rows import BE2, BE4, LE2, LE4, LE8, U8, Array, PlainRows
from shadowmesh.dataplane.python.segments import Progressions
from shadowmesh.dataplane.state import PeerState
from shadowmesh.dataplane.tun import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER, VNET_SIZE, Offloads

Packet = tuple[list[Any], int, int]  # pieces for writev, bytes of inner packets, number of inner packets

NO_OFFLOAD: Final = bytes(VNET_SIZE)
_TCP: Final = 6
_UDP: Final = 17
_ACK: Final = 0x10
_PSH: Final = 0x08
_DF: Final = 0x40
_LARGEST: Final = 65535
_SAME_V4: Final = ((LE4, 0), (LE8, 12))
_SAME_V6: Final = ((LE8, 0), (LE8, 8), (LE8, 16), (LE8, 24), (LE8, 32))


class Flow(NamedTuple):
    """What the segments of one super-packet have in common: bytes of a segment and of its headers, where TCP or UDP begins."""

    size: int
    headers: int
    l4: int
    tcp: bool

    @property
    def mss(self) -> int:
        return self.size - self.headers

    @property
    def ipv4(self) -> bool:
        return self.l4 == 20


class Coalescer:
    """For one interface: checks rows of plaintext and packs them for it."""

    def __init__(self, offloads: Offloads) -> None:
        self._offloads = offloads
        self._progressions = Progressions()

    def single(self, packet: Any) -> list[Any]:
        """One packet as it is."""
        return [NO_OFFLOAD, packet] if self._offloads.header else [packet]

    def packets(self, core: PumpCore, peer: PeerState, rows: PlainRows, count: int) -> list[Packet]:
        """What of the first `count` rows may enter this host, in order."""
        plain, width = rows.buffer, rows.size
        ipv4 = plain[0] >> 4 == 4
        l4 = 20 if ipv4 else 40
        if width < l4 + 8 or (not ipv4 and plain[0] >> 4 != 6):
            return self._one_by_one(core, peer, rows, count)
        size = (plain[2] << 8 | plain[3]) if ipv4 else (plain[4] << 8 | plain[5]) + 40
        flow = self._flow_of(plain, size, l4, ipv4) if l4 <= size <= width else None
        continuous = flow is not None and count > 1 and self._continuous(rows, count, flow)
        if not continuous:
            # version, length and addresses, as few columns as possible: they are the same in most batches
            for kind, offset in _SAME_V4 if ipv4 else _SAME_V6:
                values = rows.field(kind, offset)[:count]
                if np.count_nonzero(values != values[0]):
                    return self._one_by_one(core, peer, rows, count)
            if not l4 <= size <= width:
                return self._one_by_one(core, peer, rows, count)
        ends, middle, stop = (12, 16, 20) if ipv4 else (8, 24, 40)
        if not core.may_enter(peer, bytes(plain[ends:middle]), bytes(plain[middle:stop]), count):
            return []
        if flow is None or count == 1:
            return self._singles(rows, 0, count, size)
        return self._joined(rows, count, flow, _pushes(rows, count, flow) if continuous else _breaks(rows, count, flow))

    def _flow_of(self, plain: bytearray, size: int, l4: int, ipv4: bool) -> Flow | None:
        """What the first row is a segment of; None where it is nothing to join."""
        if ipv4 and (plain[0] != 0x45 or plain[6] & 0x3F or plain[7]):  # options, fragments
            return None
        protocol = plain[9] if ipv4 else plain[6]
        if protocol == _TCP and self._offloads.tcp and size >= l4 + 20:
            headers = l4 + (plain[l4 + 12] >> 4) * 4
            if l4 + 20 <= headers < size:
                return Flow(size, headers, l4, True)
            return None
        whole = protocol == _UDP and self._offloads.udp and (plain[l4 + 4] << 8 | plain[l4 + 5]) == size - l4 > 8
        return Flow(size, l4 + 8, l4, False) if whole else None

    def _continuous(self, rows: PlainRows, count: int, flow: Flow) -> bool:
        """Whether all rows are consecutive segments of one flow with right checksums, as they are if one sender is busy."""
        plain, l4 = rows.buffer, flow.l4
        counts_ids = False
        if flow.ipv4:
            at = rows.size + 4
            steps = ((plain[at] << 8 | plain[at + 1]) - (plain[4] << 8 | plain[5])) & 0xFFFF
            counts_ids = steps == 1
            if steps > 1 or (steps == 0 and not plain[6] & _DF) or little_sum(rows.view[:20]):
                return False
        if flow.tcp and plain[l4 + 13] & ~_PSH != _ACK:
            return False
        progression = self._progressions.get(l4, flow.headers, flow.tcp, flow.mss, counts_ids)
        if not progression.holds(rows.heads(flow.headers)[:count]):
            return False
        if not flow.tcp and np.count_nonzero(rows.field(LE2, l4 + 6)[:count]) != count:
            return False
        return rows.sums(0, count).tobytes() == _right_sum(rows.view, flow).to_bytes(4, sys.byteorder) * count

    def _joined(self, rows: PlainRows, count: int, flow: Flow, stops: list[int]) -> list[Packet]:
        """Super-packets of the rows up to each of `stops`."""
        payloads = rows.payloads(flow.headers, flow.mss)
        most = min(64, (_LARGEST - flow.headers) // flow.mss)
        found: list[Packet] = []
        start = 0
        for stop in stops:
            while start < stop:
                end = min(stop, start + most)
                number = end - start
                if number == 1:
                    found += self._singles(rows, start, end, flow.size)
                else:
                    lead = _super_header(rows, start, number, flow)
                    found.append(([lead, *payloads[start:end]], number * flow.size, number))
                start = end
        return found

    def _singles(self, rows: PlainRows, start: int, stop: int, size: int) -> list[Packet]:
        if self._offloads.header:
            return [([NO_OFFLOAD, packet], size, 1) for packet in rows.payloads(0, size)[start:stop]]
        return [([packet], size, 1) for packet in rows.payloads(0, size)[start:stop]]

    def _one_by_one(self, core: PumpCore, peer: PeerState, rows: PlainRows, count: int) -> list[Packet]:
        found: list[Packet] = []
        for row in rows.row[:count]:
            packet = core.check_inner(peer, bytes(row))
            if packet is not None:
                found.append((self.single(packet), len(packet), 1))
        return found


def _pushes(rows: PlainRows, count: int, flow: Flow) -> list[int]:
    """Where super-packets of a continuous flow end: after each PSH, and with the rows."""
    if not flow.tcp:
        return [count]
    flags = rows.field(U8, flow.l4 + 13)[:count].tobytes()
    stops = []
    at = flags.find(_ACK | _PSH)
    while 0 <= at < count - 1:
        stops.append(at + 1)
        at = flags.find(_ACK | _PSH, at + 1)
    return [*stops, count]


def _breaks(rows: PlainRows, count: int, flow: Flow) -> list[int]:
    """The same for rows of equal size and ends of which anything else may be true: looks at each row and the one before."""
    l4 = flow.l4
    words = np.ascontiguousarray(rows.table[:count, : flow.headers]).view(np.uint32)
    differ = (words[1:] ^ words[:-1]) & _mask(flow)
    joined: Array = np.asarray(~differ.any(axis=1))
    if flow.tcp:
        seq = rows.field(BE4, l4 + 4)[:count].astype(np.uint32)
        joined &= (seq[1:] - seq[:-1]) == flow.mss
        flags = rows.field(U8, l4 + 13)[:count]
        joined &= (flags[:-1] == _ACK) & ((flags[1:] & ~np.uint8(_PSH)) == _ACK)
    if flow.ipv4:
        ids = rows.field(BE2, 4)[:count].astype(np.uint16)
        steps = ids[1:] - ids[:-1]
        joined &= (steps == 1) | (steps == 0) if rows.buffer[6] & _DF else steps == 1
    right = rows.sums(0, count) == _right_sum(rows.view, flow)
    if flow.ipv4:
        right &= np.add.reduce(rows.words[:count, :10], 1, np.uint32) % 0xFFFF == 0
    if not flow.tcp:
        right &= rows.field(LE2, l4 + 6)[:count] != 0
    joined &= right[1:] & right[:-1]
    return [*(np.flatnonzero(~joined) + 1).tolist(), count]


@functools.lru_cache(maxsize=64)
def _mask(flow: Flow) -> Array:
    """Which header bits of two joined segments must be equal."""
    l4 = flow.l4
    octets = bytearray(b"\xff" * flow.headers)
    free = [(l4 + 4, l4 + 8), (l4 + 13, l4 + 14), (l4 + 16, l4 + 18)] if flow.tcp else [(l4 + 6, l4 + 8)]
    if flow.ipv4:
        free += [(4, 6), (10, 12)]
    for start, stop in free:
        octets[start:stop] = bytes(stop - start)
    return np.frombuffer(bytes(octets), np.uint32)


def _right_sum(view: memoryview, flow: Flow) -> int:
    """What the sum of a whole row is, modulo 65,535, if its checksums are right. `view` begins with a row of the flow.

    An IPv4 header then adds nothing; TCP or UDP with the pseudo header adds nothing; and no right row is all zeros.
    """
    l4_size = flow.size - flow.l4
    pseudo = little_sum(view[12:20] if flow.ipv4 else view[8:40])
    pseudo += ((_TCP if flow.tcp else _UDP) << 8) + ((l4_size & 0xFF) << 8 | l4_size >> 8)
    return ((0 if flow.ipv4 else little_sum(view[:40])) - pseudo) % 0xFFFF


def _super_header(rows: PlainRows, start: int, number: int, flow: Flow) -> bytes:
    """virtio header and protocol headers of `number` joined segments, the first in row `start`."""
    l4, headers, mss, tcp = flow.l4, flow.headers, flow.mss, flow.tcp
    at = start * rows.size
    head = rows.buffer[at : at + headers]
    total = headers + number * mss
    if flow.ipv4:
        head[2:4] = total.to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = (0xFFFF - int.from_bytes(head[:20], "big") % 0xFFFF).to_bytes(2, "big")
        ends, kind = head[12:20], GSO_TCPV4
    else:
        head[4:6] = (total - 40).to_bytes(2, "big")
        ends, kind = head[8:40], GSO_TCPV6
    l4_size = total - l4
    if tcp:
        head[l4 + 13] = rows.buffer[at + (number - 1) * rows.size + l4 + 13]  # PSH stands on the last
        check_at = l4 + 16
    else:
        kind = GSO_UDP_L4
        head[l4 + 4 : l4 + 6] = l4_size.to_bytes(2, "big")
        check_at = l4 + 6
    pseudo = (int.from_bytes(ends, "big") + (_TCP if tcp else _UDP) + l4_size) % 0xFFFF
    head[check_at : check_at + 2] = pseudo.to_bytes(2, "big")
    return VNET_HEADER.pack(NEEDS_CSUM, kind, headers, mss, l4, check_at - l4) + head
