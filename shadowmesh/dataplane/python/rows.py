"""Rows: buffers cut once into equal slices, so that a batch of packets needs no object per packet.

A `SendRows` holds up to 64 plaintext rows of one size and the datagrams they become:

    plain   | packet, zero padding |  × capacity
    wire    | head | 04 00 00 00, index | counter | ciphertext | tag |  × capacity

`head` is empty, a relay's frame header, or a stream's length and frame header.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shadowmesh.dataplane.sessions import SessionState

OVERHEAD: Final = 32
_TRANSPORT: Final = 16

U8: Final = np.dtype("u1")
LE2, LE4, LE8 = np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8")
BE2, BE4 = np.dtype(">u2"), np.dtype(">u4")

Array = npt.NDArray[Any]


def column(buffer: bytearray | memoryview, kind: np.dtype[Any], offset: int, stride: int, count: int) -> Array:
    """A field of `kind` in each of `count` rows that are `stride` bytes apart."""
    return np.ndarray((count,), kind, buffer, offset, (stride,))


class SendRows:
    """Plaintext rows of one size, and the wire rows made of them."""

    def __init__(self, head_size: int, size: int, capacity: int) -> None:
        self.head_size = head_size
        self.size = size
        self.capacity = capacity
        self.stride = head_size + OVERHEAD + size
        self._body = head_size + _TRANSPORT
        self._plain_bytes = bytearray(capacity * size)
        self._wire_bytes = bytearray(capacity * self.stride)
        nonces = bytearray(capacity * 12)
        self.plain = memoryview(self._plain_bytes)
        self.wire = memoryview(self._wire_bytes)
        self.row = [self.plain[i * size : (i + 1) * size] for i in range(capacity)]
        self._sealed = [self.wire[i * self.stride + self._body : (i + 1) * self.stride] for i in range(capacity)]
        self._nonce = [memoryview(nonces)[i * 12 : i * 12 + 12] for i in range(capacity)]
        self._nonce_counters = column(nonces, LE8, 4, 12, capacity)
        self._wire_counters = column(self._wire_bytes, LE8, head_size + 8, self.stride, capacity)
        self._steps = np.arange(capacity, dtype=LE8)
        self.table = np.frombuffer(self._plain_bytes, U8).reshape(capacity, size)
        self._wire_table = np.frombuffer(self._wire_bytes, U8).reshape(capacity, self.stride)
        self._words = self.table.view(LE2) if size % 2 == 0 else None
        self._columns: dict[tuple[int, Any], Array] = {}
        self._written: tuple[bytes, bytes] | None = None

    def field(self, kind: np.dtype[Any], offset: int) -> Array:
        """A header field of every plaintext row."""
        found = self._columns.get((offset, kind))
        if found is None:
            found = column(self._plain_bytes, kind, offset, self.size, self.capacity)
            self._columns[offset, kind] = found
        return found

    def sums(self, start: int, stop: int) -> Array:
        """Sums of the little-endian 16-bit words of rows start … stop - 1 (an odd last byte counts as low byte)."""
        if self._words is not None:
            return np.asarray(np.add.reduce(self._words[start:stop], axis=1, dtype=np.uint32))
        rows = self.table[start:stop]
        even = np.ascontiguousarray(rows[:, :-1]).view(LE2)
        return np.asarray(np.add.reduce(even, axis=1, dtype=np.uint32) + rows[:, -1])

    def seal(self, session: SessionState, count: int, last_size: int, head: Callable[[int], bytes]) -> memoryview:
        """Encrypts the first `count` rows, the last of them only its `last_size` bytes. Returns the datagrams."""
        full = count if last_size == self.size else count - 1
        first = session.take(count)
        start = head(OVERHEAD + self.size)
        if self._written != (start, session.header):
            self._write_heads(start, session.header)
        encrypt = session.tx.encrypt_into
        if full == 1:
            counter = first.to_bytes(8, "little")
            at = self.head_size + 8
            self._wire_bytes[at : at + 8] = counter
            encrypt(b"\0\0\0\0" + counter, self.row[0], None, self._sealed[0])
        elif full:
            counters = self._steps[:full] + np.uint64(first)
            self._nonce_counters[:full] = counters
            self._wire_counters[:full] = counters
            all(map(encrypt, self._nonce[:full], self.row, repeat(None), self._sealed))
        end = full * self.stride
        if full < count:
            counter = (first + full).to_bytes(8, "little")
            end += self.head_size + OVERHEAD + last_size
            row = self.wire[full * self.stride : end]
            row[: self._body] = head(OVERHEAD + last_size) + session.header + counter
            encrypt(b"\0\0\0\0" + counter, self.row[full][:last_size], None, row[self._body :])
            self._written = None  # the row's place holds another layout now
        return self.wire[:end]

    def _write_heads(self, start: bytes, header: bytes) -> None:
        fixed = np.frombuffer(start + header, U8)
        self._wire_table[:, : len(fixed)] = fixed
        self._written = (start, header)


def reheaded(wire: memoryview, stride: int, head_size: int, other: Callable[[int], bytes]) -> tuple[bytearray, int]:
    """The same datagrams with another head (for the second path of a double). Returns them and their stride."""
    out = bytearray()
    for at in range(0, len(wire), stride):
        datagram = wire[at + head_size : at + stride]
        out += other(len(datagram))
        out += datagram
    return out, stride - head_size + len(other(stride - head_size))


class Layouts:
    """Keeps a bounded number of row buffers for the sizes in use."""

    def __init__(self, limit: int = 48) -> None:
        self._limit = limit
        self._kept: dict[tuple[int, int, int], SendRows] = {}

    def get(self, head_size: int, size: int, capacity: int) -> SendRows:
        key = (head_size, size, capacity)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= self._limit:
                del self._kept[next(iter(self._kept))]
            found = self._kept[key] = SendRows(head_size, size, capacity)
        return found
