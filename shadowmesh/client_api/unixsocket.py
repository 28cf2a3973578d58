"""Unix sockets in directories of any length.

`sun_path` holds 107 bytes; a longer path is reached through `/proc/self/fd/N/NAME`, N being the open directory.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, valid inside the block."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(path: Path, timeout: float | None) -> socket.socket:
    """A connected stream socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with short_path(path) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of who connected, or of who listens (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid


def peer_pid(sock: socket.socket) -> int | None:
    """The pid at the other end, None if it is in no namespace of ours."""
    return peer_credentials(sock)[0] or None


def hung_up(sock: socket.socket) -> bool:
    """Whether the other end is closed for both directions; one that only has nothing more to say is still there."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def answers(path: Path) -> bool:
    """Whether a living process accepts connections there."""
    try:
        connect(path, 1.0).close()
    except OSError as e:
        return e.errno == errno.EAGAIN  # alive, its backlog is full
    return True


def listen(path: Path, mode: int) -> socket.socket:
    """A listening stream socket with these permissions; a dead process's leftover file is replaced.

    Raises OSError(EADDRINUSE) if something answers there.
    """
    if answers(path):
        raise OSError(errno.EADDRINUSE, "a running process already answers at this socket", str(path))
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        with short_path(path) as name:
            sock.bind(name)
        path.chmod(mode)
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(old_mask)
    return sock
