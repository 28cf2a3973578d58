"""From the TUN to the underlay.

Packets, and the segments of super-packets, become rows of one pending batch: same peer, same padded size, in the
order in which they came. A batch is encrypted and sent in one go when it is full, when something that doesn't fit comes, or when
there is nothing more to read.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final, Protocol

import numpy as np

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane.icmp import checksum
from shadowmesh.dataplane.pumpcore import PumpCore
from shadowmesh.dataplane.pumpstate import NetState, PeerState, SessionState
from shadowmesh.dataplane.python.rows import BE2, BE4, LE2, OVERHEAD, U8, Layouts, SendRows, reheaded
from shadowmesh.dataplane.python.segments import Progressions
from shadowmesh.dataplane.python.transports import Way
from shadowmesh.dataplane.tcp import SMALLEST_MSS
from shadowmesh.dataplane.tun import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    VNET_HEADER,
    VNET_SIZE,
    Offloads,
)
from shadowmesh.model import pump as m

MAX_PACKET: Final = 65535
BYTES_AT_ONCE: Final = 1 << 20  # then the sockets have their turn
_PACKET_COST: Final = 4096  # a small packet takes as long as so many bytes of a large one
_CSUM_PLACE: Final = struct.Struct("=HH")
_ZEROS: Final = memoryview(bytes(65536))
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


class Ways(Protocol):
    """Finds the transport of a path."""

    def way(self, path: m.Path) -> Way | None: ...


class Outbound:
    """Encrypts and sends what comes from interfaces."""

    def __init__(self, core: PumpCore, ways: Ways) -> None:
        self._core = core
        self._ways = ways
        self._layouts = Layouts(SendRows)
        self._progressions = Progressions()
        self._buffer = bytearray(MAX_PACKET + VNET_SIZE)
        self._view = memoryview(self._buffer)
        # the pending batch
        self._peer: PeerState | None = None
        self._session: SessionState | None = None
        self._way: Way | None = None
        self._rows: SendRows | None = None
        self._count = 0
        self._inner = 0  # bytes of inner packets in it
        self._ends = b""  # IPv4 source and destination of the last packet, while its peer's batch is the pending one

    def read(self, fd: int, net: NetState, offloads: Offloads, now: float) -> None:
        """Reads packets until there are none (or others must have their turn) and sends them. Raises OSError if the TUN is gone."""
        buffer, view, into = self._buffer, self._view, (self._buffer,)
        lead = VNET_SIZE if offloads.header else 0
        ends = slice(lead + 12, lead + 20)
        smallest = lead + 20
        left = BYTES_AT_ONCE
        try:
            while left > 0:
                size = os.readv(fd, into)
                if size == 0:
                    raise OSError(errno.EPIPE, "end of file")
                left -= size + _PACKET_COST
                # The next small packet of a flow is the usual case at high packet rates: it costs no more than it must.
                if (
                    buffer[ends] == self._ends
                    and size >= smallest
                    and buffer[lead] == 0x45
                    and not (lead and buffer[1])
                ):
                    assert self._peer is not None
                    if lead and buffer[0] & NEEDS_CSUM:
                        complete_checksum(view[lead:size], *_CSUM_PLACE.unpack_from(buffer, 6))
                    self._add(self._peer, view[lead:size], now)
                else:
                    self._one(net, view[:size], lead, now)
        except BlockingIOError:
            pass
        finally:
            self.flush(now)

    def _one(self, net: NetState, raw: memoryview, lead: int, now: float) -> None:
        size = len(raw) - lead
        if size >= 20:
            version = raw[lead] >> 4
            if version == 4:
                peer = self._core.route(net, bytes(raw[lead + 12 : lead + 16]), bytes(raw[lead + 16 : lead + 20]))
            elif version == 6 and size >= 40:
                peer = self._core.route(net, bytes(raw[lead + 8 : lead + 24]), bytes(raw[lead + 24 : lead + 40]))
            else:
                self._core.nobody[c.DESTINATION] += 1
                return
            if peer is not None:
                self._to_peer(peer, raw, lead, now)
                if version == 4 and self._peer is peer and peer.mtu is None:
                    self._ends = bytes(raw[lead + 12 : lead + 20])

    def resend(self, peer: PeerState, packets: list[bytes], offloads: Offloads, now: float) -> None:
        """Sends what had been staged, as it was read."""
        for raw in packets:
            self._to_peer(peer, memoryview(bytearray(raw)), VNET_SIZE if offloads.header else 0, now)
        self.flush(now)

    def _to_peer(self, peer: PeerState, raw: memoryview, lead: int, now: float) -> None:
        """Adds one packet or super-packet (changed in place) to the pending batch, or stages it."""
        if peer is not self._peer:
            self.flush(now)
            session = peer.sender(now)
            if session is None or peer.primary is None:
                self._core.stage(peer, bytes(raw), now)
                return
            way = self._ways.way(peer.primary)
            if way is None:
                peer.record[c.QUEUE] += 1
                return
            self._peer, self._session, self._way = peer, session, way
        packet = raw[lead:]
        if lead:
            flags, kind, _, gso_size, csum_start, csum_offset = VNET_HEADER.unpack_from(raw)
            if kind != GSO_NONE:
                self._super(peer, packet, kind & ~GSO_ECN, gso_size, csum_start, now)
                return
            if flags & NEEDS_CSUM:
                complete_checksum(packet, csum_start, csum_offset)
        if peer.mtu is not None and len(packet) > peer.mtu:
            for part in self._core.cut(peer, packet):
                self._add(peer, memoryview(part), now)
            return
        self._add(peer, packet, now)

    # the pending batch

    def _open(self, size: int, now: float) -> SendRows:
        """The batch's rows, for a packet of padded size `size`; flushes what can't be joined."""
        rows = self._rows
        if rows is not None and (size > rows.size or self._count == rows.capacity):
            self._send(now)
            rows = None
        if rows is None:
            assert self._way is not None
            head = self._way.head_size
            rows = self._layouts.get(head, size, self._way.rows_at_once(head + OVERHEAD + size))
            self._rows = rows
        return rows

    def _add(self, peer: PeerState, packet: memoryview, now: float) -> None:
        size = len(packet)
        padded = peer.padded(size)
        rows = self._rows
        if rows is None or padded > rows.size or self._count == rows.capacity:
            rows = self._open(padded, now)
        at = self._count * rows.size
        rows.plain.view[at : at + size] = packet
        if size < padded:
            rows.plain.view[at + size : at + padded] = _ZEROS[: padded - size]
        self._count += 1
        self._inner += size
        if padded < rows.size:
            self._send(now, padded)  # a shorter one can only be the last of a batch

    def flush(self, now: float) -> None:
        """Sends what is pending and forgets whose it was."""
        if self._rows is not None:
            self._send(now)
        self._peer = None
        self._ends = b""

    def _send(self, now: float, last_size: int | None = None) -> None:
        rows, peer, session, way = self._rows, self._peer, self._session, self._way
        assert rows is not None and peer is not None and session is not None and way is not None
        self._rows = None
        count, inner = self._count, self._inner
        self._count = self._inner = 0
        if not count:
            return
        wire = rows.seal(session, count, rows.size if last_size is None else last_size, way.head)
        failed = way.send_rows(wire, rows.stride)
        if failed:
            self._core.send_failed(way.path, rows.stride, failed, peer.record, count, now)
        if peer.also is not None:
            second = self._ways.way(peer.also)
            if second is not None:
                other, stride = reheaded(wire, rows.stride, rows.head_size, second.head)
                failed = second.send_rows(memoryview(other), stride)
                if failed:
                    self._core.send_failed(peer.also, stride, failed, peer.record, count, now)
        self._core.sent(peer, inner, count, now)

    # super-packets

    def _super(self, peer: PeerState, packet: memoryview, kind: int, gso_size: int, l4: int, now: float) -> None:
        """Segments a TCP or UDP super-packet straight into rows (the kernel's TSO and USO in software)."""
        ipv4 = packet[0] >> 4 == 4
        if kind in (GSO_TCPV4, GSO_TCPV6) and len(packet) >= l4 + 20:
            headers = l4 + (packet[l4 + 12] >> 4) * 4
            check_at = l4 + 16
        elif kind == GSO_UDP_L4 and len(packet) >= l4 + 8:
            headers = l4 + 8
            check_at = l4 + 6
        else:
            peer.record[c.TOO_BIG] += 1
            return
        tcp = kind != GSO_UDP_L4
        payload = len(packet) - headers
        if payload <= 0 or not gso_size:
            peer.record[c.TOO_BIG] += 1
            return
        if peer.mtu is not None and headers + gso_size > peer.mtu:
            if not tcp or peer.mtu - headers < SMALLEST_MSS:
                self._core.refuse_too_big(peer, packet)
                return
            gso_size = peer.mtu - headers  # a path narrower than the interface: smaller segments, nothing lost

        flags = packet[l4 + 13] if tcp else 0
        first_flags = flags & ~_FIN_PSH  # CWR belongs on the first segment, FIN and PSH on the last
        other_flags = first_flags & ~_CWR
        seq = int.from_bytes(packet[l4 + 4 : l4 + 8], "big") if tcp else 0
        ip_id = packet[4] << 8 | packet[5]
        full, rest = divmod(payload, gso_size)
        size = headers + gso_size
        padded = peer.padded(size)
        _write_lengths(packet, size, l4, ipv4, tcp)
        pseudo = _pseudo_sum(packet, size - l4, ipv4, tcp)
        ip_sum = 0
        if ipv4:
            packet[4:6] = packet[10:12] = b"\0\0"
            ip_sum = int.from_bytes(packet[:l4], "big") % 0xFFFF
        else:  # rows are summed whole: a right IPv4 header adds nothing, an IPv6 header has to be taken out
            pseudo = (pseudo - little_sum(packet[:l4])) % 0xFFFF
        packet[check_at : check_at + 2] = pseudo.to_bytes(2, "little")
        if tcp:
            packet[l4 + 13] = other_flags
        first = np.frombuffer(packet[:headers], BE4)
        body = np.frombuffer(packet, U8, full * gso_size, headers).reshape(full, gso_size)

        done = 0
        if (
            self._rows is not None
            and self._count + full > self._rows.capacity
            and 2 * self._count > self._rows.capacity
        ):
            self._send(now)  # a batch that is well filled goes, rather than that the super-packet is cut in two
        while done < full:
            rows = self._open(padded, now)
            if rows.size != padded:  # shorter rows than the pending ones: an own batch
                self._send(now)
                rows = self._open(padded, now)
            plain = rows.plain
            at = self._count
            count = min(rows.capacity - at, full - done)
            end = at + count
            wraps = False
            if ipv4:
                first_id = (ip_id + done) & 0xFFFF
                check = 0xFFFF - (ip_sum + first_id) % 0xFFFF
                packet[4:6] = first_id.to_bytes(2, "big")
                packet[10:12] = check.to_bytes(2, "big")
                wraps = first_id + count > 0xFFFF or check <= count
            if done and tcp:
                packet[l4 + 4 : l4 + 8] = ((seq + done * gso_size) & 0xFFFFFFFF).to_bytes(4, "big")
            progression = self._progressions.get(l4, headers, tcp, gso_size, ipv4 and not wraps)
            progression.write(plain.heads(headers)[at:end], first)
            if wraps:  # ids and checksums are no progression then: they are counted by themselves
                ids = np.arange(first_id, first_id + count, dtype=np.uint32) & 0xFFFF
                plain.field(BE2, 4)[at:end] = ids
                plain.field(BE2, 10)[at:end] = 0xFFFF - (ids + ip_sum) % 0xFFFF
            plain.table[at:end, headers:size] = body[done : done + count]
            if padded > size:
                plain.table[at:end, size:] = 0
            if flags != other_flags:
                row_flags = plain.field(U8, l4 + 13)
                if done == 0:
                    row_flags[at] = first_flags
                if done + count == full and not rest:
                    row_flags[end - 1] = flags if full == 1 else flags & ~_CWR
            np.subtract(0xFFFF, plain.sums(at, end), plain.field(LE2, check_at)[at:end], casting="unsafe")
            done += count
            self._count = end
            self._inner += count * size
        if rest:
            tail_flags = flags & ~_CWR if full else flags
            self._tail(
                peer, packet, headers, full * gso_size, full, (l4, check_at, tcp, ipv4, seq, ip_id, tail_flags), now
            )

    def _tail(
        self, peer: PeerState, packet: memoryview, headers: int, offset: int, number: int,
        what: tuple[int, int, bool, bool, int, int, int], now: float,
    ) -> None:  # fmt: skip
        """The last, shorter segment."""
        l4, check_at, tcp, ipv4, seq, ip_id, flags = what
        segment = memoryview(bytearray(len(packet) - offset))
        segment[:headers] = packet[:headers]
        segment[headers:] = packet[headers + offset :]
        segment[check_at : check_at + 2] = b"\0\0"
        _write_lengths(segment, len(segment), l4, ipv4, tcp)
        if ipv4:
            segment[4:6] = ((ip_id + number) & 0xFFFF).to_bytes(2, "big")
            segment[10:12] = b"\0\0"
            segment[10:12] = checksum(segment[:l4]).to_bytes(2, "big")
        if tcp:
            segment[l4 + 4 : l4 + 8] = ((seq + offset) & 0xFFFFFFFF).to_bytes(4, "big")
            segment[l4 + 13] = flags
        total = little_sum(segment[l4:]) + _pseudo_sum(segment, len(segment) - l4, ipv4, tcp)
        segment[check_at : check_at + 2] = (0xFFFF - total % 0xFFFF).to_bytes(2, "little")
        self._add(peer, segment, now)


def little_sum(data: memoryview) -> int:
    """Sum of little-endian 16-bit words modulo 65,535 (a number's remainder is that of the sum of its digits)."""
    return int.from_bytes(data, "little") % 0xFFFF


def _pseudo_sum(packet: memoryview, l4_size: int, ipv4: bool, tcp: bool) -> int:
    """Sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) in little-endian words modulo 65,535."""
    ends = packet[12:20] if ipv4 else packet[8:40]
    swapped = (l4_size & 0xFF) << 8 | l4_size >> 8
    return (little_sum(ends) + ((6 if tcp else 17) << 8) + swapped) % 0xFFFF


def _write_lengths(packet: memoryview, size: int, l4: int, ipv4: bool, tcp: bool) -> None:
    if ipv4:
        packet[2:4] = size.to_bytes(2, "big")
    else:
        packet[4:6] = (size - 40).to_bytes(2, "big")
    if not tcp:
        packet[l4 + 4 : l4 + 6] = (size - l4).to_bytes(2, "big")


def complete_checksum(packet: memoryview, start: int, offset: int) -> None:
    """Finishes a checksum that the kernel left partial (CHECKSUM_PARTIAL: the field holds the pseudo header's sum)."""
    at = start + offset
    if at + 2 <= len(packet):
        total = 0xFFFF - little_sum(packet[start:])  # never 0, which UDP keeps for "none"
        packet[at : at + 2] = total.to_bytes(2, "little")
