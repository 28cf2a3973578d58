"""Finds out what a NAT does, by sending through it: mapping, filtering, hairpin (RFC 4787 sections 4.1, 5, 6).

The probe holds sockets of the host behind the NAT and of the servers in one process, so nothing has to be agreed on:
a server's packet says who sent it, and what a server saw is read from its socket.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from shadowmesh.lab.internet import Host
from shadowmesh.model.addresses import SockAddr

PATIENCE = 0.6  # seconds that an answer inside one machine may take, generously
QUIET = 0.1  # seconds after a later packet has come through in which an earlier one could still come


class Mapping(StrEnum):
    """Which public port an inside socket has towards different servers."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    BLOCKED = "blocked"


class Filtering(StrEnum):
    """Whose packets come in to a public port that is in use."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `translated`: the public address is not the host's own. `sequential`: ports of one socket
    towards several servers follow each other. `tcp_ports`: those of the asked-for ones that can be connected to."""

    mapping: Mapping
    filtering: Filtering
    translated: bool
    keeps_port: bool
    sequential: bool
    hairpin: bool
    tcp_ports: tuple[int, ...]


def probe(
    host: Host, near: Host, far: Host, stranger: Host, *, tcp_ports: tuple[int, ...] = (443, 8443, 9545)
) -> Verdict:
    """The verdict on the NAT in front of `host`, using three public hosts; `stranger` is never sent to first."""
    with _udp(host) as inside, _udp(near) as near1, _udp(near) as near2, _udp(far) as far1, _udp(far) as far2:
        own = SockAddr(host.address, inside.getsockname()[1])
        observed: list[SockAddr] = []
        for server in (near1, near2, far1, far2):
            seen = _observe(inside, server)
            if seen is None:
                break
            observed.append(seen)
    tcp = tuple(port for port in tcp_ports if _tcp_passes(host, near, port))
    if not observed:
        return Verdict(Mapping.BLOCKED, Filtering.BLOCKED, False, False, False, False, tcp)
    ports = [s.port for s in observed]
    return Verdict(
        mapping=_mapping(observed),
        filtering=_filtering(host, near, stranger),
        translated=observed[0].host != own.host,
        keeps_port=set(ports) == {own.port},
        sequential=all(b - a == 1 for a, b in pairwise(ports)),
        hairpin=_hairpin(host, near),
        tcp_ports=tcp,
    )


def _mapping(observed: list[SockAddr]) -> Mapping:
    if len(observed) < 4:
        return Mapping.BLOCKED
    if len(set(observed)) == 1:
        return Mapping.ENDPOINT_INDEPENDENT
    if observed[0] == observed[1] and observed[2] == observed[3]:
        return Mapping.ADDRESS_DEPENDENT
    return Mapping.ADDRESS_AND_PORT_DEPENDENT


def _filtering(host: Host, near: Host, stranger: Host) -> Filtering:
    """A fresh socket speaks to one port of one server only; then others speak to its public address."""
    with _udp(host) as inside, _udp(near) as known, _udp(near) as other_port, _udp(stranger) as other_host:
        public = _observe(inside, known)
        if public is None:
            return Filtering.BLOCKED
        other_host.sendto(b"stranger", public)
        other_port.sendto(b"other port", public)
        known.sendto(b"known", public)
        came = _collect(inside, until=b"known")
    if b"known" not in came:
        return Filtering.BLOCKED
    if b"stranger" in came:
        return Filtering.ENDPOINT_INDEPENDENT
    return Filtering.ADDRESS_DEPENDENT if b"other port" in came else Filtering.ADDRESS_AND_PORT_DEPENDENT


def _hairpin(host: Host, near: Host) -> bool:
    """Whether a second socket of the host gets through to the first one's public address."""
    with _udp(host) as first, _udp(host) as second, _udp(near) as server:
        public = _observe(first, server)
        if public is None or _observe(second, server) is None:
            return False
        second.sendto(b"around", public)
        server.sendto(b"known", public)
        return b"around" in _collect(first, until=b"known")


def _tcp_passes(host: Host, server: Host, port: int) -> bool:
    with ExitStack() as stack:
        listener = stack.enter_context(server.socket(socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server.address, port))
        listener.listen()
        client = stack.enter_context(host.socket(socket.SOCK_STREAM))
        client.settimeout(PATIENCE)
        try:
            client.connect((server.address, port))
        except TimeoutError:
            return False
        listener.accept()[0].close()
        return True


@contextmanager
def _udp(host: Host) -> Iterator[socket.socket]:
    with host.socket() as sock:
        sock.bind((host.address, 0))
        yield sock


def _observe(inside: socket.socket, server: socket.socket) -> SockAddr | None:
    """The public address of `inside` as the server sees it; None if nothing arrives."""
    address = SockAddr(*server.getsockname())
    inside.sendto(b"probe", address)
    if not select.select([server], [], [], PATIENCE)[0]:
        return None
    return SockAddr(*server.recvfrom(64)[1])


def _collect(sock: socket.socket, *, until: bytes) -> list[bytes]:
    """What arrives up to the packet that was sent last; a little longer, as packets from two machines may overtake."""
    came: list[bytes] = []
    patience = PATIENCE
    while select.select([sock], [], [], patience)[0]:
        came.append(sock.recv(64))
        if came[-1] == until:
            patience = QUIET
    return came
