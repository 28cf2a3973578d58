"""Segments of one flow become one super-packet for the kernel (GRO in software), by looking at all rows of a batch as a table.

Segments are joined only if everything but what must differ is equal, and only if each checksum is right: the super-packet goes up as
CHECKSUM_PARTIAL, and a segment that came wrong must not be repaired by that.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

import numpy as np

from shadowmesh.dataplane.pumpcore import PumpCore
from shadowmesh.dataplane.pumpstate import PeerState
from shadowmesh.dataplane.python.outbound import little_sum
from shadowmesh.dataplane.python.rows import LE2, LE4, LE8, PlainRows
from shadowmesh.dataplane.python.segments import Progressions
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


class SegmentFlow(NamedTuple):
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
        if width < l4 or (not ipv4 and plain[0] >> 4 != 6):
            return self._one_by_one(core, peer, rows, count)
        size = (plain[2] << 8 | plain[3]) if ipv4 else (plain[4] << 8 | plain[5]) + 40
        if not l4 <= size <= width:
            return self._one_by_one(core, peer, rows, count)
        flow = self._flow(rows, 0, size, l4) if count > 1 else None
        stops = None if flow is None else self._stops(rows, count, flow)
        if count > 1 and (stops is None or len(stops) > 1):
            # version, length and addresses, as few columns as possible: they are the same in most batches
            for kind, offset in _SAME_V4 if ipv4 else _SAME_V6:
                values = rows.field(kind, offset)[:count]
                if np.count_nonzero(values != values[0]):
                    return self._one_by_one(core, peer, rows, count)
        ends, middle, stop = (12, 16, 20) if ipv4 else (8, 24, 40)
        if not core.may_enter(peer, bytes(plain[ends:middle]), bytes(plain[middle:stop]), count):
            return []
        if flow is None or stops is None:
            return self._singles(rows, 0, count, size)
        return self._joined(rows, flow, stops)

    def _flow(self, rows: PlainRows, number: int, size: int, l4: int) -> SegmentFlow | None:
        """What a row is a segment of; None where it is nothing to join, or has a wrong IP header checksum."""
        plain, at = rows.buffer, number * rows.size
        if l4 == 20:
            if plain[at] != 0x45 or plain[at + 6] & 0x3F or plain[at + 7]:  # options, fragments
                return None
            protocol = plain[at + 9]
            if little_sum(rows.view[at : at + 20]):
                return None
        else:
            protocol = plain[at + 6]
        at += l4
        if protocol == _TCP:
            if self._offloads.tcp and size >= l4 + 20 and plain[at + 13] & ~_PSH == _ACK:
                headers = l4 + (plain[at + 12] >> 4) * 4
                if l4 + 20 <= headers < size:
                    return SegmentFlow(size, headers, l4, True)
        elif protocol == _UDP and self._offloads.udp and size > l4 + 8:
            return SegmentFlow(size, l4 + 8, l4, False)
        return None

    def _stops(self, rows: PlainRows, count: int, flow: SegmentFlow) -> list[int]:
        """Where runs of consecutive segments end that are right each, judged by what the first row is."""
        plain = rows.buffer
        counts_ids = False
        if flow.ipv4:  # ids may also stand still, for what is never fragmented (RFC 6864)
            counts_ids = not plain[6] & _DF or plain[4:6] != plain[rows.size + 4 : rows.size + 6]
        progression = self._progressions.get(flow.l4, flow.headers, flow.tcp, flow.mss, counts_ids)
        stops = progression.breaks(rows.heads(flow.headers)[:count])
        sums, right = rows.sums(0, count), _right_sum(rows.view, flow)
        wrong = None
        if sums.tobytes() != right.to_bytes(4, sys.byteorder) * count:
            wrong = sums != right
        if not flow.tcp:
            checks = rows.field(LE2, flow.l4 + 6)[:count]
            if np.count_nonzero(checks) != count:  # UDP without a checksum
                wrong = (checks == 0) | (sums != right)
        if wrong is not None:
            for at in np.flatnonzero(wrong).tolist():
                stops += [at, at + 1]
        return [*sorted({stop for stop in stops if 0 < stop < count}), count] if stops else [count]

    def _joined(self, rows: PlainRows, flow: SegmentFlow, stops: list[int]) -> list[Packet]:
        """Super-packets of the rows up to each of `stops`."""
        payloads = rows.payloads(flow.headers, flow.mss)
        most = min(64, (_LARGEST - flow.headers) // flow.mss)
        found: list[Packet] = []
        start = 0
        for stop in stops:
            joinable = stop > start + 1 and (
                not start or (self._flow(rows, start, flow.size, flow.l4) == flow and _same_df(rows, start))
            )
            while start < stop:
                end = min(stop, start + most) if joinable else stop
                if joinable and end > start + 1:
                    lead = _super_header(rows, start, end - start, flow)
                    found.append(([lead, *payloads[start:end]], (end - start) * flow.size, end - start))
                else:
                    found += self._singles(rows, start, end, flow.size)
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


def _same_df(rows: PlainRows, number: int) -> bool:
    """Whether DF (IPv4) is as in the first row, by which the ids are judged."""
    return (rows.buffer[6] ^ rows.buffer[number * rows.size + 6]) & _DF == 0


def _right_sum(view: memoryview, flow: SegmentFlow) -> int:
    """What the sum of a whole row is, modulo 65,535, if its checksums are right. `view` begins with a row of the flow.

    An IPv4 header then adds nothing; TCP or UDP with the pseudo header adds nothing; and no right row is all zeros.
    """
    l4_size = flow.size - flow.l4
    pseudo = little_sum(view[12:20] if flow.ipv4 else view[8:40])
    pseudo += ((_TCP if flow.tcp else _UDP) << 8) + ((l4_size & 0xFF) << 8 | l4_size >> 8)
    return ((0 if flow.ipv4 else little_sum(view[:40])) - pseudo) % 0xFFFF


def _super_header(rows: PlainRows, start: int, number: int, flow: SegmentFlow) -> bytes:
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
        # PSH marks no boundary (RFC 9293, section 3.9.1.2): one that any segment carries is the super-packet's
        head[l4 + 13] = max(rows.buffer[at + l4 + 13 : at + number * rows.size : rows.size])
        check_at = l4 + 16
    else:
        kind = GSO_UDP_L4
        head[l4 + 4 : l4 + 6] = l4_size.to_bytes(2, "big")
        check_at = l4 + 6
    pseudo = (int.from_bytes(ends, "big") + (_TCP if tcp else _UDP) + l4_size) % 0xFFFF
    head[check_at : check_at + 2] = pseudo.to_bytes(2, "big")
    return VNET_HEADER.pack(NEEDS_CSUM, kind, headers, mss, l4, check_at - l4) + head
