"""Ports for controllers that tests start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port whose UDP twin and the next one are free, too."""
    while True:
        with socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            try:
                for number in (port, port + 1):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                        udp.bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
