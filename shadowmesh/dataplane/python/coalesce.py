"""Segments of one flow become one super-packet for the kernel (GRO in software), by looking at all rows of a batch as a table.

Segments are joined only if everything but what must differ is equal, and only if each checksum is right: the super-packet goes up as
CHECKSUM_PARTIAL, and a segment that came wrong must not be repaired by that.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from shadowmesh.dataplane.core import PumpCore
from shadowmesh.dataplane.icmp import checksum
from shadowmesh.dataplane.packets import inner_size
from shadowmesh.dataplane.python.outbound import little_sum
from shadowmesh.dataplane.python.rows import BE2, BE4, LE2, LE4, LE8, U8, Array, column
from shadowmesh.dataplane.state import PeerState
from shadowmesh.dataplane.tun import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER, VNET_SIZE, Offloads

Packet = tuple[list[Any], int, int]  # pieces for writev, bytes of inner packets, number of inner packets

NO_OFFLOAD: Final = bytes(VNET_SIZE)
_TCP: Final = 6
_UDP: Final = 17
_ACK: Final = 0x10
_PSH: Final = 0x08
_LARGEST: Final = 65535
_CACHED: Final = 64
_SAME_V4: Final = ((LE4, 0), (LE8, 12))
_SAME_V6: Final = ((LE8, 0), (LE8, 8), (LE8, 16), (LE8, 24), (LE8, 32))


class Coalescer:
    """For one interface: checks rows of plaintext and packs them for it."""

    def __init__(self, offloads: Offloads) -> None:
        self._offloads = offloads
        self._payloads: dict[tuple[int, int, int], list[memoryview]] = {}
        self._must_match: dict[tuple[int, int], Array] = {}

    def single(self, packet: Any) -> list[Any]:
        """One packet as it is."""
        return [NO_OFFLOAD, packet] if self._offloads.header else [packet]

    def packets(self, core: PumpCore, peer: PeerState, plain: bytearray, count: int, width: int) -> list[Packet]:
        """What of `count` rows of `width` bytes may enter this host, in order."""
        if width < 20:
            return self._one_by_one(core, peer, plain, count, width)
        first = plain[0]
        ipv4 = first >> 4 == 4
        if not ipv4 and (first >> 4 != 6 or width < 40):
            return self._one_by_one(core, peer, plain, count, width)
        # version, length and addresses, as few columns as possible: they are the same in most batches
        for kind, offset in _SAME_V4 if ipv4 else _SAME_V6:
            values = column(plain, kind, offset, width, count)
            if np.count_nonzero(values != values[0]):
                return self._one_by_one(core, peer, plain, count, width)
        size = inner_size(memoryview(plain)[:width])
        if not size:
            return self._one_by_one(core, peer, plain, count, width)
        ends, middle, stop = (12, 16, 20) if ipv4 else (8, 24, 40)
        if not core.may_enter(peer, bytes(plain[ends:middle]), bytes(plain[middle:stop]), count):
            return []

        l4 = 20 if ipv4 else 40
        protocol = plain[9] if ipv4 else plain[6]
        whole = not ipv4 or (first == 0x45 and not plain[6] & 0x3F and not plain[7])
        table = np.frombuffer(plain, U8, count * width).reshape(count, width)
        if whole and protocol == _TCP and self._offloads.tcp and size >= l4 + 20:
            return self._flow(plain, table, size, l4, ipv4, True)
        if whole and protocol == _UDP and self._offloads.udp and size >= l4 + 8:
            return self._flow(plain, table, size, l4, ipv4, False)
        view = memoryview(plain)
        return [(self.single(view[at : at + size]), size, 1) for at in range(0, count * width, width)]

    def _one_by_one(self, core: PumpCore, peer: PeerState, plain: bytearray, count: int, width: int) -> list[Packet]:
        found: list[Packet] = []
        for i in range(count):
            packet = core.check_inner(peer, bytes(plain[i * width : (i + 1) * width]))
            if packet is not None:
                found.append((self.single(packet), len(packet), 1))
        return found

    def _flow(self, plain: bytearray, table: Array, size: int, l4: int, ipv4: bool, tcp: bool) -> list[Packet]:
        """Rows of equal size with the same ends: joins what belongs together."""
        count, width = table.shape
        headers = l4 + ((plain[l4 + 12] >> 4) * 4 if tcp else 8)
        mss = size - headers
        view = memoryview(plain)
        if count == 1 or mss <= 0 or headers < l4 + 8:
            return [(self.single(view[i * width : i * width + size]), size, 1) for i in range(count)]
        joined = self._joins(plain, table, size, headers, l4, ipv4, tcp)
        payloads = self._payload_slices(plain, count, width, headers, mss)
        most = min(64, (_LARGEST - headers) // mss)
        found: list[Packet] = []
        edges = [*(np.flatnonzero(~joined) + 1).tolist(), count]
        start = 0
        for edge in edges:
            while start < edge:
                stop = min(edge, start + most)
                number = stop - start
                if number == 1:
                    found.append((self.single(view[start * width : start * width + size]), size, 1))
                else:
                    lead = _super_header(view, start * width, (stop - 1) * width, headers, mss, number, l4, ipv4, tcp)
                    found.append(([lead, *payloads[start:stop]], number * size, number))
                start = stop
        return found

    def _joins(self, plain: bytearray, table: Array, size: int, headers: int, l4: int, ipv4: bool, tcp: bool) -> Array:
        """For each row but the first: whether it continues the one before."""
        count, width = table.shape
        words = np.ascontiguousarray(table[:, :headers]).view(np.uint32)
        differ = (words[1:] ^ words[:-1]) & self._mask(headers, l4, ipv4, tcp)
        joined: Array = np.asarray(~differ.any(axis=1))
        if tcp:
            seq = column(plain, BE4, l4 + 4, width, count).astype(np.uint32)
            joined &= (seq[1:] - seq[:-1]) == size - headers
            flags = table[:, l4 + 13]
            joined &= (flags[:-1] == _ACK) & ((flags[1:] & ~np.uint8(_PSH)) == _ACK)
        if ipv4:
            ids = column(plain, BE2, 4, width, count).astype(np.uint16)
            steps = ids[1:] - ids[:-1]
            joined &= (steps == 1) | (steps == 0) if plain[6] & 0x40 else steps == 1
        right = self._checksums_right(plain, table, size, l4, ipv4, tcp)
        joined &= right[1:] & right[:-1]
        return joined

    def _mask(self, headers: int, l4: int, ipv4: bool, tcp: bool) -> Array:
        """Which header bits of two joined segments must be equal."""
        key = headers, l4 if tcp else -l4
        found = self._must_match.get(key)
        if found is None:
            octets = bytearray(b"\xff" * headers)
            free = [(l4 + 4, l4 + 8), (l4 + 13, l4 + 14), (l4 + 16, l4 + 18)] if tcp else [(l4 + 6, l4 + 8)]
            if ipv4:
                free += [(4, 6), (10, 12)]
            for start, stop in free:
                octets[start:stop] = bytes(stop - start)
            found = self._must_match[key] = np.frombuffer(bytes(octets), np.uint32)
        return found

    @staticmethod
    def _checksums_right(plain: bytearray, table: Array, size: int, l4: int, ipv4: bool, tcp: bool) -> Array:
        """For each row whether its IP header and its TCP or UDP checksum are right (UDP without one: not)."""
        count, width = table.shape
        if width % 2:
            padded = np.zeros((count, width + 1), U8)
            padded[:, :width] = table
            table = padded
        words = table.view(LE2)
        sums = np.add.reduce(words, axis=1, dtype=np.uint32)
        l4_size = size - l4
        fixed = little_sum(memoryview(plain)[12:20] if ipv4 else memoryview(plain)[8:40])
        fixed += ((_TCP if tcp else _UDP) << 8) + ((l4_size & 0xFF) << 8 | l4_size >> 8)
        if ipv4:
            right: Array = np.asarray(np.add.reduce(words[:, :10], axis=1, dtype=np.uint32) % 0xFFFF == 0)
            right &= (sums + np.uint32(fixed)) % 0xFFFF == 0
        else:
            fixed += 0xFFFF - little_sum(memoryview(plain)[:40])
            right = (sums + np.uint32(fixed)) % 0xFFFF == 0
        if not tcp:
            right &= words[:, (l4 + 6) // 2] != 0
        return right

    def _payload_slices(self, plain: bytearray, count: int, width: int, headers: int, mss: int) -> list[memoryview]:
        key = width, headers, mss
        found = self._payloads.get(key)
        if found is None or len(found) < count:
            if len(self._payloads) >= _CACHED:
                self._payloads.clear()
            view = memoryview(plain)
            rows = max(count, min(64, len(plain) // width))
            found = [view[i * width + headers : i * width + headers + mss] for i in range(rows)]
            self._payloads[key] = found
        return found


def _super_header(
    view: memoryview, first: int, last: int, headers: int, mss: int, number: int, l4: int, ipv4: bool, tcp: bool
) -> bytes:
    """virtio header and protocol headers of `number` joined segments."""
    head = bytearray(view[first : first + headers])
    total = headers + number * mss
    if ipv4:
        head[2:4] = total.to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = checksum(head[:l4]).to_bytes(2, "big")
        ends, kind = head[12:20], GSO_TCPV4
    else:
        head[4:6] = (total - 40).to_bytes(2, "big")
        ends, kind = head[8:40], GSO_TCPV6
    l4_size = total - l4
    if tcp:
        head[l4 + 13] = view[last + l4 + 13]  # PSH stands on the last
        check_at = l4 + 16
    else:
        kind = GSO_UDP_L4
        head[l4 + 4 : l4 + 6] = l4_size.to_bytes(2, "big")
        check_at = l4 + 6
    pseudo = (int.from_bytes(ends, "big") + (_TCP if tcp else _UDP) + l4_size) % 0xFFFF
    head[check_at : check_at + 2] = pseudo.to_bytes(2, "big")
    return VNET_HEADER.pack(NEEDS_CSUM, kind, headers, mss, l4, check_at - l4) + head
