"""Where a peer might be reached: candidates, how good each kind is, and which are worth pairing.

A candidate is an address with the way it was learnt. A *path* is (local socket slot, remote address): one remote
address may be tried from several sockets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.pump import Slot
from shadowmesh.model.reasons import Reason

MAX_CANDIDATES = 16  # told to a peer
MAX_REMOTE = 24  # taken from a peer


class CandidateKind(IntEnum):
    """How an address was learnt; the numbers are those of the wire."""

    HOST = 1
    REFLEXIVE = 2
    MAPPED = 3
    IPV6 = 4
    GUESS = 5
    TURN = 6
    NESTED = 7


class Candidate(NamedTuple):
    addr: SockAddr
    kind: CandidateKind


class PathKey(NamedTuple):
    """A way to send: local socket and remote address."""

    slot: Slot
    remote: SockAddr


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A UDP socket that paths may start from. `port` is its local port."""

    slot: Slot
    port: int
    ipv6: bool = False


class Rank(IntEnum):
    """Order among direct paths: a lower one is preferred whatever the round trip."""

    LAN = 0
    OPEN = 1  # public, IPv6 or mapped: nothing has to be kept open
    PUNCHED = 2
    TURN = 3
    NESTED = 4  # inside another program's tunnel: after the relay, too


@dataclass(frozen=True, slots=True)
class HostView:
    """What this host knows of its own addresses.

    `symmetric`: its NAT gives every destination another port. `filters_ports`: its NAT is known to let in only what
    comes from an address and port that was sent to.
    """

    host: HostAddresses = field(default_factory=HostAddresses)
    reflexive: tuple[SockAddr, ...] = ()
    symmetric: bool = False
    filters_ports: bool = False

    def is_own(self, ip: IPAddress) -> bool:
        host = self.host
        return any(i.ip == ip for i in (*host.real, *host.tunnels, *host.containers))

    def on_link(self, ip: IPAddress) -> bool:
        return any(i.version == ip.version and ip in i.network for i in self.host.real)

    def is_nested(self, ip: IPAddress) -> bool:
        """Whether only another program's tunnel leads there."""
        return any(n.version == ip.version and ip in n for n in self.host.nested) and not self.on_link(ip)

    @property
    def is_public(self) -> bool:
        """Whether a reflexive address is one of the host's own: no NAT on the way."""
        return any(self.is_own(parse_ip(a.host)) for a in self.reflexive)


@lru_cache(4096)
def parse_ip(host: str) -> IPAddress:
    return ipaddress.ip_address(host)


_SITE_LOCAL = tuple(
    ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


@lru_cache(4096)
def is_site_local(ip: IPAddress) -> bool:
    """Whether an address means something within one site only (RFC 1918, RFC 6598, RFC 4193)."""
    return any(ip in net for net in _SITE_LOCAL if net.version == ip.version)


def usable(ip: IPAddress) -> bool:
    """Whether an address may be a candidate at all: unicast, not link-local."""
    return not (ip.is_multicast or ip.is_unspecified or ip.is_link_local or ip.is_loopback)


def gather(
    view: HostView,
    sockets: Sequence[BoundSocket],
    mapped: Iterable[SockAddr] = (),
    guesses: Iterable[SockAddr] = (),
    turn: Iterable[SockAddr] = (),
) -> tuple[Candidate, ...]:
    """This host's candidates, best first, at most MAX_CANDIDATES, each address once.

    A host behind an endpoint-dependent NAT names each reflexive address that it saw: the peer can tell from two
    ports of one address that punching has to come from the other side.
    """
    found: dict[SockAddr, CandidateKind] = {}
    for addr in mapped:
        found.setdefault(addr, CandidateKind.MAPPED)
    nested = {t.ip for t in view.host.tunnels}
    for interface in (*view.host.real, *view.host.tunnels):
        ip = interface.ip
        if not usable(ip):
            continue
        kind = CandidateKind.IPV6 if ip.version == 6 and not is_site_local(ip) else CandidateKind.HOST
        if ip in nested:
            kind = CandidateKind.NESTED
        for sock in sockets:
            if sock.ipv6 == (ip.version == 6):
                found.setdefault(SockAddr(str(ip), sock.port), kind)
    for addr in view.reflexive:
        found.setdefault(addr, CandidateKind.REFLEXIVE)
    for addr in guesses:
        found.setdefault(addr, CandidateKind.GUESS)
    for addr in turn:
        found.setdefault(addr, CandidateKind.TURN)
    order = {
        CandidateKind.MAPPED: 0,
        CandidateKind.REFLEXIVE: 1,
        CandidateKind.IPV6: 2,
        CandidateKind.HOST: 3,
        CandidateKind.TURN: 4,
        CandidateKind.GUESS: 5,
        CandidateKind.NESTED: 6,
    }
    ranked = sorted(found.items(), key=lambda item: order[item[1]])
    return tuple(Candidate(addr, kind) for addr, kind in ranked[:MAX_CANDIDATES])


def pair(
    view: HostView, sockets: Sequence[BoundSocket], remote: Iterable[Candidate]
) -> list[tuple[PathKey, CandidateKind]]:
    """All pairs worth a ping, each once.

    Left out: this host's own addresses (two homes often number alike), another family than the socket's.
    """
    pairs: dict[PathKey, CandidateKind] = {}
    for addr, kind in list(remote)[:MAX_REMOTE]:
        ip = parse_ip(addr.host)
        if not usable(ip) or (view.is_own(ip) and any(s.port == addr.port for s in sockets)):
            continue
        for sock in sockets:
            if sock.ipv6 == (ip.version == 6):
                pairs.setdefault(PathKey(sock.slot, addr), kind)
    return list(pairs.items())


def judge(view: HostView, remote: SockAddr, kind: CandidateKind | None) -> tuple[Rank, Reason]:
    """How good a path to `remote` is and what it is called. `kind` None: learnt from a ping out of the blue."""
    ip = parse_ip(remote.host)
    if kind is CandidateKind.TURN:
        return Rank.TURN, Reason.DIRECT_PUNCHED
    if kind is CandidateKind.NESTED or view.is_nested(ip):
        return Rank.NESTED, Reason.DIRECT_NESTED
    if view.on_link(ip):
        return Rank.LAN, Reason.DIRECT_LAN
    if kind is CandidateKind.MAPPED:
        return Rank.OPEN, Reason.DIRECT_MAPPED_PORT
    if ip.version == 6:
        return Rank.OPEN, Reason.DIRECT_IPV6
    if kind is CandidateKind.HOST or view.is_public:
        return Rank.OPEN, Reason.DIRECT_PUBLIC
    return Rank.PUNCHED, Reason.DIRECT_PUNCHED


def open_to(view: HostView, candidates: Iterable[Candidate]) -> bool:
    """Whether a peer may be reached whatever the NATs do: on one's own LAN, by IPv6, a mapped port, a public address."""
    return any(
        view.on_link(parse_ip(addr.host))
        or kind in (CandidateKind.MAPPED, CandidateKind.IPV6, CandidateKind.TURN)
        or (kind is CandidateKind.HOST and not is_site_local(parse_ip(addr.host)))
        for addr, kind in candidates
    )


def reachable(view: HostView, candidates: Iterable[Candidate]) -> list[SockAddr]:
    """Where whoever knows nothing but an address reaches a peer, best first: on one's own LAN, at a mapped port, at a
    public address of its own. A reflexive one, or one where a ping came from, is a hole in a NAT: made by the peer's own
    pings, and often for one source alone (RFC 4787)."""
    ipv6 = any(i.version == 6 and usable(i.ip) and not is_site_local(i.ip) for i in view.host.real)
    found: dict[SockAddr, int] = {}
    for addr, kind in candidates:
        ip = parse_ip(addr.host)
        if not usable(ip) or view.is_nested(ip):
            continue
        if kind in (CandidateKind.HOST, CandidateKind.IPV6) and view.on_link(ip):
            found.setdefault(addr, 0)
        elif kind is CandidateKind.MAPPED or (kind is CandidateKind.HOST and not is_site_local(ip)):
            found.setdefault(addr, 1)
        elif kind is CandidateKind.IPV6 and ipv6:
            found.setdefault(addr, 2)
    return sorted(found, key=found.__getitem__)


def looks_symmetric(candidates: Iterable[Candidate]) -> bool:
    """Whether reflexive addresses show one public host with several ports: an endpoint-dependent NAT."""
    ports: dict[str, set[int]] = {}
    for addr, kind in candidates:
        if kind is CandidateKind.REFLEXIVE:
            ports.setdefault(addr.host, set()).add(addr.port)
    return any(len(seen) > 1 for seen in ports.values())


def obstacle(
    view: HostView, remote: Sequence[Candidate], remote_filters_ports: bool, remote_udp_blocked: bool = False
) -> tuple[Reason, bool]:
    """What keeps the two from a direct path if nothing answers, and whether that is known before trying."""
    if remote_udp_blocked:
        return Reason.RELAY_UDP_BLOCKED, True
    ours, theirs = view.symmetric, looks_symmetric(remote)
    if ours and theirs:
        return Reason.RELAY_BOTH_SYMMETRIC, True
    if ours or theirs:
        return Reason.RELAY_SYMMETRIC_PORT_RESTRICTED, remote_filters_ports if ours else view.filters_ports
    if _behind_one_nat(view, remote):
        return Reason.RELAY_NO_HAIRPIN, False
    return Reason.RELAY_NO_ANSWER, False


def _behind_one_nat(view: HostView, remote: Sequence[Candidate]) -> bool:
    """Whether both have the same public address, which is neither's own."""
    ours = {a.host for a in view.reflexive if not view.is_own(parse_ip(a.host))}
    return any(kind is CandidateKind.REFLEXIVE and addr.host in ours for addr, kind in remote)
