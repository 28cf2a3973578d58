"""Rows: buffers cut once into equal slices, so that a batch of packets needs no object per packet.

A `SendRows` holds up to 64 plaintext rows of one size and the datagrams they become:

    plain   | packet, zero padding |  × capacity
    wire    | head | 04 00 00 00, index | counter | ciphertext | tag |  × capacity

`head` is empty, a relay's frame header, or a stream's length and frame header.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from shadowmesh.dataplane.pumpstate import SessionState

OVERHEAD: Final = 32
ROWS_MOST: Final = 160  # of any table
_TRANSPORT: Final = 16
_ONES: Final = np.uint32(0xFFFF)

U8: Final = np.dtype("u1")
LE2, LE4, LE8 = np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8")
BE2, BE4 = np.dtype(">u2"), np.dtype(">u4")

Array = npt.NDArray[Any]


def column(buffer: bytearray | memoryview, kind: np.dtype[Any], offset: int, stride: int, count: int) -> Array:
    """A field of `kind` in each of `count` rows that are `stride` bytes apart."""
    return np.ndarray((count,), kind, buffer, offset, (stride,))


def octets(buffer: bytearray, offset: int, stride: int, count: int) -> list[memoryview]:
    """Slices of `stride` bytes, one behind the other."""
    view = memoryview(buffer)
    return [view[offset + i * stride : offset + (i + 1) * stride] for i in range(count)]


class PlainRows:
    """Inner packets of one padded size, one behind the other, and the views on them that one needs again and again."""

    def __init__(self, buffer: bytearray, size: int, capacity: int) -> None:
        self.buffer = buffer
        self.view = memoryview(buffer)
        self.size = size
        self.capacity = capacity
        self.row = octets(buffer, 0, size, capacity)
        self.table = np.frombuffer(buffer, U8, capacity * size).reshape(capacity, size)
        self.words = np.ndarray((capacity, size // 2), LE2, buffer, 0, (size, 2))
        self._odd = column(buffer, U8, size - 1, size, capacity) if size % 2 else None
        self._sums = np.empty(capacity, np.uint32)
        self._columns: dict[tuple[int, Any], Array] = {}
        self._heads: dict[int, Array] = {}
        self._payloads: dict[tuple[int, int], list[memoryview]] = {}

    def field(self, kind: np.dtype[Any], offset: int) -> Array:
        """A header field of every row."""
        found = self._columns.get((offset, kind))
        if found is None:
            found = self._columns[offset, kind] = column(self.buffer, kind, offset, self.size, self.capacity)
        return found

    def heads(self, size: int) -> Array:
        """The first `size` bytes (a multiple of 4) of every row, as big-endian words of 32 bits."""
        found = self._heads.get(size)
        if found is None:
            found = self._heads[size] = np.ndarray((self.capacity, size // 4), BE4, self.buffer, 0, (self.size, 4))
        return found

    def payloads(self, offset: int, size: int) -> list[memoryview]:
        """`size` bytes of every row, from `offset` on."""
        found = self._payloads.get((offset, size))
        if found is None:
            if len(self._payloads) >= 16:
                self._payloads.clear()
            found = self._payloads[offset, size] = [row[offset : offset + size] for row in self.row]
        return found

    def keep(self, which: Array) -> None:
        """Moves the first rows for which `which` is true together."""
        kept = self.table[: len(which)][which].tobytes()
        self.buffer[: len(kept)] = kept

    def sums(self, start: int, stop: int) -> Array:
        """Sums of the little-endian 16-bit words of rows start … stop - 1, modulo 65,535 (an odd last byte counts as low byte)."""
        found: Array = self._sums[start:stop]
        np.add.reduce(self.words[start:stop], 1, np.uint32, out=found)
        if self._odd is not None:
            np.add(found, self._odd[start:stop], found)
        np.remainder(found, _ONES, found)
        return found


class SendRows:
    """Plaintext rows of one size, and the wire rows made of them."""

    def __init__(self, head_size: int, size: int, capacity: int) -> None:
        self.head_size = head_size
        self.size = size
        self.capacity = capacity
        self.stride = head_size + OVERHEAD + size
        self._body = head_size + _TRANSPORT
        self.plain = PlainRows(bytearray(capacity * size), size, capacity)
        self._wire_bytes = bytearray(capacity * self.stride)
        nonces = bytearray(capacity * 12)
        self.wire = memoryview(self._wire_bytes)
        self._sealed = [self.wire[i * self.stride + self._body : (i + 1) * self.stride] for i in range(capacity)]
        self._nonce = octets(nonces, 0, 12, capacity)
        self._nonce_counters = column(nonces, LE8, 4, 12, capacity)
        self._wire_counters = column(self._wire_bytes, LE8, head_size + 8, self.stride, capacity)
        self._steps = np.arange(capacity, dtype=LE8)
        self._wire_table = np.frombuffer(self._wire_bytes, U8).reshape(capacity, self.stride)
        self._written: tuple[bytes, bytes] | None = None

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
            encrypt(b"\0\0\0\0" + counter, self.plain.row[0], None, self._sealed[0])
        elif full:
            counters = self._steps[:full] + np.uint64(first)
            self._nonce_counters[:full] = counters
            self._wire_counters[:full] = counters
            all(map(encrypt, self._nonce[:full], self.plain.row, repeat(None), self._sealed))
        end = full * self.stride
        if full < count:
            counter = (first + full).to_bytes(8, "little")
            end += self.head_size + OVERHEAD + last_size
            row = self.wire[full * self.stride : end]
            row[: self._body] = head(OVERHEAD + last_size) + session.header + counter
            encrypt(b"\0\0\0\0" + counter, self.plain.row[full][:last_size], None, row[self._body :])
            self._written = None  # the row's place holds another layout now
        return self.wire[:end]

    def _write_heads(self, start: bytes, header: bytes) -> None:
        fixed = np.frombuffer(start + header, U8)
        self._wire_table[:, : len(fixed)] = fixed
        self._written = (start, header)


class ReceivedRows:
    """Datagrams of one size as they lie in the receive buffer, and the plaintext rows that they become:

    | head | 04 00 00 00, index | counter | ciphertext | tag |
    """

    def __init__(self, buffer: bytearray, plain: bytearray, size: int, head_size: int) -> None:
        capacity = min(ROWS_MOST, len(buffer) // size)
        width = size - head_size - OVERHEAD
        view = memoryview(buffer)
        nonces = bytearray(capacity * 12)
        self.plain = PlainRows(plain, width, capacity) if width else None
        self._opened = octets(plain, 0, width, capacity) if self.plain is None else self.plain.row
        body = head_size + _TRANSPORT
        self._sealed = [view[at + body : at + size] for at in range(0, capacity * size, size)]
        self._nonce = octets(nonces, 0, 12, capacity)
        self._nonce_counters = column(nonces, LE8, 4, 12, capacity)
        self._first = buffer, head_size
        self._heads = np.ndarray((capacity, 2), LE8, buffer, head_size, (size, 8))
        self._steps = np.zeros((capacity, 2), LE8)
        self._steps[:, 1] = np.arange(capacity)
        self._scratch = np.empty((capacity, 2), LE8)

    def in_order(self, count: int) -> bool:
        """Whether the first `count` are of one session and their counters consecutive."""
        buffer, at = self._first
        found = self._scratch[:count]
        np.subtract(self._heads[:count], self._steps[:count], found)
        return found.tobytes() == bytes(buffer[at : at + 16]) * count

    def one_session(self, count: int) -> bool:
        """Whether the first `count` are of one session."""
        return not np.count_nonzero(self._heads[1:count, 0] != self._heads[0, 0])

    def counters(self, count: int) -> list[int]:
        return list(self._heads[:count, 1].tolist())

    def open(self, session: SessionState, count: int) -> None:
        """Decrypts the first `count`. Raises InvalidTag; the datagrams stay as they came."""
        self._nonce_counters[:count] = self._heads[:count, 1]
        deque(map(session.rx.decrypt_into, self._nonce[:count], self._sealed, repeat(None), self._opened), maxlen=0)


def reheaded(wire: memoryview, stride: int, head_size: int, other: Callable[[int], bytes]) -> tuple[bytearray, int]:
    """The same datagrams with another head (for the second path of a double). Returns them and their stride."""
    out = bytearray()
    for at in range(0, len(wire), stride):
        datagram = wire[at + head_size : at + stride]
        out += other(len(datagram))
        out += datagram
    return out, stride - head_size + len(other(stride - head_size))


_T = TypeVar("_T")


class Layouts(Generic[_T]):
    """Keeps a bounded number of row buffers or views for the sizes in use."""

    def __init__(self, make: Callable[..., _T], limit: int = 48) -> None:
        self._make = make
        self._limit = limit
        self._kept: dict[tuple[int, ...], _T] = {}

    def get(self, *key: int) -> _T:
        """What `make(*key)` made."""
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= self._limit:
                del self._kept[next(iter(self._kept))]
            found = self._kept[key] = self._make(*key)
        return found
