"""Headers of consecutive segments: an arithmetic progression.

Take the headers of a flow's segments as rows of big-endian 32-bit words. From one segment to the next the TCP sequence number
grows by the payload's size, the IPv4 id grows by one, the IPv4 header checksum falls by one, and nothing else changes but
TCP's or UDP's own checksum (and PSH, which may stand on the last). So

    headers of segment n  =  headers of segment 0  +  n × step        (word by word, modulo 2³²)

and one addition over a table writes the headers of a whole super-packet, one subtraction checks them. Only where
the id or the header checksum wraps (once in 700 super-packets) they are no progression, and the checksum's borrow would spoil what
shares its word: there, headers are written by one that leaves both as they are (`counts_ids` False), and both by themselves.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from shadowmesh.dataplane.python.rows import ROWS_MOST, Array

NATIVE4: Final = np.dtype("u4")
_PSH_BIT: Final = 0x08 << 16
_CACHED: Final = 64


class Progression:
    """Of headers that are `headers` bytes long, the TCP (or UDP) part beginning at `l4`, before `payload` bytes each."""

    def __init__(self, l4: int, headers: int, tcp: bool, payload: int, counts_ids: bool) -> None:
        words = headers // 4
        step = np.zeros(words, NATIVE4)
        must_match = np.full(words, 0xFFFFFFFF, NATIVE4)
        if counts_ids:
            step[1] = 1 << 16
            step[2] = 0xFFFFFFFF
        if tcp:
            step[l4 // 4 + 1] = payload
            must_match[l4 // 4 + 3] ^= _PSH_BIT
            must_match[l4 // 4 + 4] = 0xFFFF  # the urgent pointer, without the checksum
        else:
            must_match[l4 // 4 + 1] = 0xFFFF0000  # the length, without the checksum
        self.words = words
        self.step = step
        self._steps = np.arange(ROWS_MOST, dtype=NATIVE4)[:, np.newaxis] * step
        self._must_match = must_match
        self._scratch = np.empty((ROWS_MOST, words), NATIVE4)

    def write(self, heads: Array, first: Array) -> None:
        """Writes the headers of consecutive segments, of which `first` (native words) is the first."""
        np.add(self._steps[: len(heads)], first, out=heads)

    def breaks(self, heads: Array) -> list[int]:
        """Numbers of the rows that are not the next segment after the row before."""
        count = len(heads)
        base = self._scratch[:count]  # the segment 0 that each row says it belongs to
        np.subtract(heads, self._steps[:count], base)
        np.bitwise_and(base, self._must_match, base)
        octets = base.tobytes()
        if octets == octets[: 4 * self.words] * count:
            return []
        return list((np.flatnonzero((base[1:] != base[:-1]).any(axis=1)) + 1).tolist())


class Progressions:
    """Keeps the tables of the shapes in use."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, bool, int, bool], Progression] = {}

    def get(self, l4: int, headers: int, tcp: bool, payload: int, counts_ids: bool) -> Progression:
        key = (l4, headers, tcp, payload, counts_ids)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _CACHED:
                del self._kept[next(iter(self._kept))]
            found = self._kept[key] = Progression(*key)
        return found
