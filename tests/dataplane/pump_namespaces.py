"""Network namespaces for the tests of this folder, and what is done between two of them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
_BLOCK = os.urandom(1 << 20)


@contextmanager
def entered(space: str) -> Iterator[None]:
    """This thread is in the named network namespace meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{space}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        libc.setns(back, CLONE_NEWNET)
        os.close(back)
        os.close(there)


def checksum_errors(spaces: Sequence[str]) -> int:
    """TCP segments with a wrong checksum and packets with a wrong IPv4 header that the kernel saw in these namespaces."""
    total = 0
    for space in spaces:
        with entered(space):
            lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        for protocol, field in (("Tcp:", "InCsumErrors"), ("Ip:", "InHdrErrors")):
            names, values = [line.split() for line in lines if line.startswith(protocol)]
            total += int(values[names.index(field)])
    return total


def transfer(source: str, target: str, address: str, megabytes: int) -> None:
    """Over TCP from one namespace to another's address; both ends must have hashed the same."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with entered(target):
        server = socket.create_server((address, 0), family=family)
    with entered(source):
        client = socket.socket(family, socket.SOCK_STREAM)

    def receive() -> str:
        connection, _ = server.accept()
        connection.settimeout(20)
        digest = hashlib.sha256()
        while data := connection.recv(1 << 18):
            digest.update(data)
        connection.close()
        return digest.hexdigest()

    with server, client, ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive)
        client.settimeout(20)
        client.connect(server.getsockname()[:2])
        digest = hashlib.sha256()
        for i in range(megabytes):
            block = i.to_bytes(4, "big") + _BLOCK[4:]
            client.sendall(block)
            digest.update(block)
        client.shutdown(socket.SHUT_WR)
        assert received.result(30) == digest.hexdigest()
