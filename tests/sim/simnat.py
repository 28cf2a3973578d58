"""NAT routers as objects in virtual time: mapping tables, filtering, timeouts, restarts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from shadowmesh.model.addresses import SockAddr

KINDS = (
    "none",
    "full_cone",
    "address_restricted",
    "port_restricted",
    "symmetric",
    "cgnat",
    "hairpin",
    "udp_blocked",
)
ACCEPTED = 30.0  # seconds for which a router that accepts stray packets keeps each as a flow of its own
CONES = frozenset({"none", "full_cone", "address_restricted"})
PORT_RESTRICTED = frozenset({"port_restricted", "cgnat", "hairpin"})


def punchable(a: str, b: str) -> bool:
    """Whether the matrix of docs/paths.md gives a pair of NATs 3/3 by plain punching (without a mapped port)."""
    if "udp_blocked" in (a, b):
        return False
    if a in CONES or b in CONES:
        return True
    return a in PORT_RESTRICTED and b in PORT_RESTRICTED


@dataclass(slots=True, eq=False)
class Mapping:
    """One public address; `seen` holds the remote ends (or hosts) that were sent to, with the time."""

    inside: SockAddr
    public: SockAddr
    used: float
    seen: dict[object, float] = field(default_factory=dict)


class Nat:
    """A router with one public address. `timeout`: seconds of silence after which a mapping is gone.

    `accepting` is a port-restricted one that takes what comes to a port of its own, and nobody inside expects, for a flow to
    itself: for as long, the inside's packets to that place leave from another port (as conntrack on Linux does).
    """

    def __init__(
        self, kind: str, public_ip: str, rng: random.Random, *, timeout: float = 120.0, ports: range | None = None
    ) -> None:
        self.kind = kind
        self.public_ip = public_ip
        self.timeout = timeout
        self.hairpins = kind == "hairpin"
        self.symmetric = kind == "symmetric"
        self._rng = rng
        self._ports = ports or range(1024, 65536)
        self._keeps_port = ports is None and not self.symmetric
        self.accepts = kind == "accepting"  # what comes to a port of its own, for half a minute
        self._accepted: dict[tuple[int, SockAddr], float] = {}  # … and from where: the inside gets another port there
        self._out: dict[object, Mapping] = {}
        self._in: dict[int, Mapping] = {}
        if kind in ("full_cone",):
            self._permit = None
        elif kind == "address_restricted":
            self._permit = "host"
        else:
            self._permit = "end"

    def outbound(self, src: SockAddr, dst: SockAddr, now: float) -> SockAddr:
        """The public address under which a packet leaves."""
        key: object = (src, dst) if self.symmetric else src
        mapping = self._out.get(key)
        if mapping is None or now - mapping.used > self.timeout:
            if mapping is not None:
                self._in.pop(mapping.public.port, None)
            mapping = self._new(key, src, now)
        mapping.used = now
        if now - self._accepted.get((mapping.public.port, dst), -ACCEPTED) < ACCEPTED:
            self._accepted[mapping.public.port, dst] = now
            odd = self._out.get((src, dst))
            if odd is None or now - odd.used > self.timeout:
                port = self._free()
                odd = self._out[src, dst] = self._in[port] = Mapping(src, SockAddr(self.public_ip, port), now)
            mapping = odd
            mapping.used = now
        if self._permit is not None:
            mapping.seen[dst if self._permit == "end" else dst.host] = now
        return mapping.public

    def inbound(self, port: int, src: SockAddr, now: float) -> SockAddr | None:
        """The inside address that a packet to `port` is for, None where it is dropped."""
        mapping = self._in.get(port)
        if mapping is None or now - mapping.used > self.timeout:
            return self._stray(port, src, now)
        if self._permit is not None:
            key: object = src if self._permit == "end" else src.host
            last = mapping.seen.get(key)
            if last is None or now - last > self.timeout:
                return self._stray(port, src, now)
            mapping.seen[key] = now
        mapping.used = now
        return mapping.inside

    def _stray(self, port: int, src: SockAddr, now: float) -> None:
        if self.accepts:
            self._accepted[port, src] = now

    def _free(self) -> int:
        port = 0
        while not port or port in self._in:
            port = self._rng.choice(self._ports)
        return port

    def _new(self, key: object, src: SockAddr, now: float) -> Mapping:
        port = src.port if self._keeps_port and src.port not in self._in else 0
        if not port:
            port = self._free()
        mapping = self._out[key] = self._in[port] = Mapping(src, SockAddr(self.public_ip, port), now)
        return mapping

    def restart(self, public_ip: str | None = None) -> None:
        """Forgets all mappings; from now on no port is kept, as another host might have it; maybe a new address."""
        self._out.clear()
        self._in.clear()
        self._keeps_port = False
        if public_ip is not None:
            self.public_ip = public_ip


def build(kind: str, public_ip: str, rng: random.Random, *, timeout: float = 120.0) -> list[Nat]:
    """The routers between a site and the internet, inside first; none for a public site."""
    if kind == "none":
        return []
    if kind == "cgnat":
        inner = Nat("port_restricted", "100.64.0.2", rng, timeout=timeout)
        return [inner, Nat("port_restricted", public_ip, rng, timeout=timeout, ports=range(21000, 22000))]
    return [Nat("port_restricted" if kind == "udp_blocked" else kind, public_ip, rng, timeout=timeout)]
