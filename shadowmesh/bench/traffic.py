"""Senders and receivers that cost little, so that what is measured is the way between them.

TCP: a megabyte per call, and a receiver that lets the kernel throw the bytes away (MSG_TRUNC, tcp(7)): more than 30 Gbit/s.
UDP: up to 64 datagrams per sendmmsg(2) and recvmmsg(2), each a packet of its own on its way, as an application's are.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

CHUNK = 1 << 20
BATCH = 64
BUFFER = 4 << 20  # of a UDP socket; the kernel may give less
QUIET = 0.25  # seconds without a datagram after which none is on its way any more
_LATEST = 3.0  # seconds after the sender's end in which datagrams still count, if they go on coming
_MSG_WAITFORONE = 0x10000
_BATCHES_PER_SECOND = 2000  # below this rate of batches they get smaller, so that a paced stream is no train of bursts
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Flow:
    """What one side saw: bytes or datagrams, and in how many seconds (a receiver's: first to last arrival)."""

    count: int
    seconds: float

    @property
    def rate(self) -> float:
        """Per second; 0 if there was no time."""
        return self.count / self.seconds if self.seconds else 0.0


def use_cubic(sock: socket.socket) -> None:
    """The same congestion control everywhere, as a host's default may be one that suffers in a tunnel that loses packets."""
    with suppress(OSError):  # not there, or not allowed: the host's own
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def send_streams(socks: Sequence[socket.socket], seconds: float) -> Flow:
    """Sends over all of them for so long, then shuts them down for writing. Raises OSError if one breaks."""
    chunk = memoryview(bytes(CHUNK))
    began = time.monotonic()
    counts = _each(socks, lambda sock: _send(sock, chunk, began + seconds))
    return Flow(sum(counts), time.monotonic() - began)


def _send(sock: socket.socket, chunk: memoryview, until: float) -> int:
    sent = 0
    while time.monotonic() < until:
        sent += sock.send(chunk)
    sock.shutdown(socket.SHUT_WR)
    return sent


def receive_streams(socks: Sequence[socket.socket]) -> Flow:
    """Receives from all until each is at its end. Raises OSError if one breaks."""
    spans: list[tuple[float, float]] = []
    counts = _each(socks, lambda sock: _discard(sock, spans))
    return Flow(sum(counts), max(b for _, b in spans) - min(a for a, _ in spans))


def _discard(sock: socket.socket, spans: list[tuple[float, float]]) -> int:
    buffer = bytearray(CHUNK)
    received = 0
    first = last = time.monotonic()
    while count := sock.recv_into(buffer, CHUNK, socket.MSG_TRUNC):
        last = time.monotonic()
        if not received:
            first = last
        received += count
    spans.append((first, last))
    return received


def _each(socks: Sequence[socket.socket], work: Callable[[socket.socket], int]) -> list[int]:
    """Runs `work` for each in a thread of its own."""
    with ThreadPoolExecutor(len(socks)) as pool:
        return list(pool.map(work, socks))


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


class _Batch:
    """BATCH messages for sendmmsg or recvmmsg, all of them over one buffer, as nobody looks into them."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self._iovec = _Iovec(ctypes.addressof(self._buffer), size)
        self.messages = (_Mmsghdr * BATCH)()
        for message in self.messages:
            message.header.iov = ctypes.pointer(self._iovec)
            message.header.iovlen = 1


def open_udp(address: str, port: int = 0) -> socket.socket:
    """A UDP socket bound there, with large buffers. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def send_datagrams(sock: socket.socket, size: int, rate: float, seconds: float) -> Flow:
    """Sends datagrams of `size` bytes on a connected socket for so long; `rate` per second, 0 for as many as go.

    What the kernel took counts as sent. Raises OSError, but not where nobody listens (ECONNREFUSED).
    """
    sock.settimeout(None)
    batch = _Batch(size)
    burst = BATCH if not rate else max(1, min(BATCH, int(rate / _BATCHES_PER_SECOND)))
    began = time.monotonic()
    sent = 0
    while (now := time.monotonic() - began) < seconds:
        if rate and (ahead := sent / rate - now) > 0:
            time.sleep(min(ahead, seconds - now))
            continue
        count = _libc.sendmmsg(sock.fileno(), batch.messages, burst, 0)
        if count < 0:
            number = ctypes.get_errno()
            if number not in (errno.ENOBUFS, errno.ECONNREFUSED, errno.EINTR, errno.EAGAIN):
                raise OSError(number, os.strerror(number))
            time.sleep(0.0005)
            continue
        sent += count
    return Flow(sent, time.monotonic() - began)


class DatagramCounter:
    """Counts what comes on a connected socket, in a thread, until `finish`."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self._sock = sock
        self._batch = _Batch(size)
        self._ending = threading.Event()
        self._latest = 0.0
        self._flow = Flow(0, 0.0)
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(QUIET * 1e6)))
        self._thread = threading.Thread(target=self._run, name="datagrams", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = 0
        first = last = 0.0
        number = self._sock.fileno()
        while True:
            got = _libc.recvmmsg(number, self._batch.messages, BATCH, _MSG_WAITFORONE, None)
            if got > 0:
                last = time.monotonic()
                first = first or last
                count += got
            if self._ending.is_set() and (got <= 0 or time.monotonic() > self._latest):
                break
        self._flow = Flow(count, last - first)

    def finish(self) -> Flow:
        """What came, once nothing came for `QUIET` seconds. The sender has to have ended."""
        self._latest = time.monotonic() + _LATEST
        self._ending.set()
        self._thread.join()
        return self._flow
