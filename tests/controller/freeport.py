"""Ports for what tests start: reserved, not guessed."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Final

# Below the range from which the kernel takes ports for connections (net.ipv4.ip_local_port_range), so that none of these takes one
# between its choice and its use.
_PORTS: Final = range(20_000, 32_000, 2)
_turns = itertools.count(os.getpid() * 7)
_reserved: list[socket.socket] = []


def free_port() -> int:
    """A TCP port that is free now, as are its UDP twin and the next one of both; no other test gets it while this process lives."""
    for turn in itertools.islice(_turns, len(_PORTS)):
        port = _PORTS[turn % len(_PORTS)]
        if _reserve(port) and all(
            _is_free(kind, port + i) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for i in (0, 1)
        ):
            return port
    raise OSError(f"no free port from {_PORTS.start} to {_PORTS.stop}")


def _reserve(port: int) -> bool:
    """By an abstract unix socket (unix(7)): seen by all of this network namespace, gone with the process."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0shadowmesh test port {port}")
    except OSError:
        claim.close()
        return False
    _reserved.append(claim)
    return True


def _is_free(kind: socket.SocketKind, port: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if kind is socket.SOCK_STREAM else 0)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
