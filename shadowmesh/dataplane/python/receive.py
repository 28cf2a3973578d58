"""Many datagrams by one system call (recvmmsg), for underlays that gather nothing: 0.7 µs each instead of 2.4 µs.

Python's own `recvmsg_into` makes a text of the sender's address and a list of the control messages for each datagram. Here they stay bytes, are
compared as bytes, and are parsed once per sender.

Each datagram goes where it belongs as a row of the caller's buffer. If it is larger than a row after all (the
kernel may gather at any time) its rest goes to a place of its own, so nothing is ever cut.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Any, Final

import numpy as np

from shadowmesh.dataplane.python.rows import LE4, LE8, U8, column

MESSAGES: Final = 64
_LARGEST: Final = 65536
_NAME: Final = 32  # room for a sockaddr_in6
_CONTROL: Final = 128
_MSG_DONTWAIT: Final = 0x40
_CMSG: Final = struct.Struct("@nii")  # cmsghdr: length with itself, level, type
# struct mmsghdr in 64-bit words: name, its length, iovec, their number, control, its length, flags, length of what came
_WORDS: Final = 8

_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class Receiver:
    """Fills rows of one buffer from any socket."""

    def __init__(self, buffer: bytearray) -> None:
        self._view = memoryview(buffer)
        self._address = np.frombuffer(buffer, U8).ctypes.data
        self._names = bytearray(MESSAGES * _NAME)
        self._controls = bytearray(MESSAGES * _CONTROL)
        self._rests = np.empty((MESSAGES, _LARGEST), U8)  # pages that are never written take no memory
        self._numbers = np.arange(MESSAGES, dtype=LE8)
        self._pieces = np.zeros((MESSAGES, 4), LE8)  # two iovecs each
        self._pieces[:, 2] = self._rests.ctypes.data + self._numbers * _LARGEST
        self._pieces[:, 3] = _LARGEST
        fresh = np.zeros((MESSAGES, _WORDS), LE8)
        fresh[:, 0] = np.frombuffer(self._names, U8).ctypes.data + self._numbers * _NAME
        fresh[:, 1] = _NAME
        fresh[:, 2] = self._pieces.ctypes.data + self._numbers * self._pieces.strides[0]
        fresh[:, 3] = 2
        fresh[:, 4] = np.frombuffer(self._controls, U8).ctypes.data + self._numbers * _CONTROL
        fresh[:, 5] = _CONTROL
        self._fresh = fresh
        headers = bytearray(fresh.tobytes())
        self._headers = np.frombuffer(headers, LE8).reshape(MESSAGES, _WORDS)
        self._pointer = self._headers.ctypes.data
        self._sizes = column(headers, LE4, 56, _WORDS * 8, MESSAGES)
        self._at = self._row = 0

    def receive(self, fd: int, at: int, row: int, most: int) -> int:
        """Receives up to `most` datagrams into rows of `row` bytes from `at` on. Returns their number, 0 where there are none.

        Raises OSError.
        """
        self._at, self._row = at, row
        most = min(most, MESSAGES)
        np.copyto(self._headers, self._fresh)
        np.multiply(self._numbers, row, self._pieces[:, 0])
        self._pieces[:, 0] += self._address + at
        self._pieces[:, 1] = row
        got = _recvmmsg(fd, self._pointer, most, _MSG_DONTWAIT, None)
        if got < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(number, "recvmmsg")
        return int(got)

    def uniform(self, count: int) -> bool:
        """Whether all that came fill their rows, and came with equal addresses and control messages."""
        return (
            self._sizes[:count].tobytes() == self._row.to_bytes(4, "little") * count
            and self._headers[:count, 1].tobytes() == self._headers[0, 1].tobytes() * count
            and self._headers[:count, 5].tobytes() == self._headers[0, 5].tobytes() * count
            and self._same(self._names, _NAME, int(self._headers[0, 1]), count)
            and self._same(self._controls, _CONTROL, int(self._headers[0, 5]), count)
        )

    @staticmethod
    def _same(parts: bytearray, stride: int, size: int, count: int) -> bool:
        table = np.frombuffer(parts, U8, count * stride).reshape(count, stride)[:, :size]
        return table.tobytes() == bytes(parts[:size]) * count

    def raw(self, number: int) -> tuple[bytes, bytes]:
        """Address and control messages of a datagram, for `parsed`."""
        name, control = number * _NAME, number * _CONTROL
        words = self._headers[number]
        return bytes(self._names[name : name + int(words[1])]), bytes(self._controls[control : control + int(words[5])])

    def data(self, number: int) -> bytes:
        """A datagram, however large it is."""
        size, start = int(self._sizes[number]), self._at + number * self._row
        rest = max(0, size - self._row)
        return bytes(self._view[start : start + size - rest]) + self._rests[number, :rest].tobytes()


def parsed(raw: tuple[bytes, bytes]) -> tuple[list[tuple[int, int, bytes]], tuple[Any, ...]]:
    """Control messages and address as `socket.recvmsg` tells them."""
    name, rest = raw
    family, port = struct.unpack_from("=H", name)[0], int.from_bytes(name[2:4], "big")
    if family == socket.AF_INET:
        address: tuple[Any, ...] = (socket.inet_ntop(socket.AF_INET, name[4:8]), port)
    else:
        host, scope = socket.inet_ntop(socket.AF_INET6, name[8:24]), struct.unpack_from("=I", name, 24)[0]
        if scope:
            host += f"%{socket.if_indextoname(scope)}"
        address = (host, port, int.from_bytes(name[4:8], "big"), scope)
    control = []
    while len(rest) >= _CMSG.size:
        size, level, kind = _CMSG.unpack_from(rest)
        if size < _CMSG.size:
            break
        control.append((level, kind, rest[_CMSG.size : size]))
        rest = rest[(size + 7) & ~7 :]
    return control, address
