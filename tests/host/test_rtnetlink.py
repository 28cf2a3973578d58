"""Dumps of routes, as the kernel's bytes tell them (netlink(7), rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from shadowmesh.host.rtnetlink import _dump, whole_dump

NEW_ROUTE, ERROR, DONE = 24, 2, 3
MULTI, INTERRUPTED = 0x2, 0x10  # flags


def message(kind: int, body: bytes = b"", flags: int = MULTI) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def dump(*routes: bytes, interrupted: bool = False) -> bytes:
    end = message(DONE, bytes(4), MULTI | INTERRUPTED if interrupted else MULTI)
    return b"".join(message(NEW_ROUTE, route) for route in routes) + end


class Kernel:
    """Answers each request with the next of its dumps, the last one again and again."""

    def __init__(self, *dumps: bytes) -> None:
        self.dumps = list(dumps)
        self.requests = 0

    def send(self, data: bytes, /) -> int:
        self.requests += 1
        return len(data)

    def recv(self, _size: int, /) -> bytes:
        return self.dumps.pop(0) if len(self.dumps) > 1 else self.dumps[0]


A, B = b"AAAA", b"BBBB"


def test_a_dump_that_was_interrupted_is_made_again_and_what_it_told_is_dropped() -> None:
    kernel = Kernel(dump(A, A, interrupted=True), dump(A, B))
    assert _dump(kernel, b"") == [A, B]
    assert kernel.requests == 2


def test_the_flag_counts_on_any_message_of_the_dump() -> None:
    kernel = Kernel(message(NEW_ROUTE, A, MULTI | INTERRUPTED) + dump(B), dump(B))
    assert _dump(kernel, b"") == [B]


def test_a_table_that_never_stands_still_keeps_nobody_for_ever() -> None:
    kernel = Kernel(dump(A, interrupted=True))
    assert _dump(kernel, b"") == [A]
    assert 2 <= kernel.requests <= 10


def test_a_table_that_was_never_used_is_empty_and_other_errors_are_raised() -> None:
    assert _dump(Kernel(message(ERROR, struct.pack("=i", -errno.ENOENT))), b"") == []
    with pytest.raises(OSError, match="Operation not permitted"):
        _dump(Kernel(message(ERROR, struct.pack("=i", -errno.EPERM))), b"")


def test_the_kernel_of_this_host_answers() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        _dump(sock, struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))


def test_a_dump_of_pyroute2s_that_changed_meanwhile_is_asked_again() -> None:
    interrupted, whole = (
        [{"header": {"flags": flags}, "name": name}] for flags, name in ((0x12, "half"), (0x2, "all"))
    )
    answers = iter([interrupted, whole])
    assert whole_dump(lambda: next(answers)) == whole
    assert whole_dump(lambda: interrupted) == interrupted, "one that never stands still"
