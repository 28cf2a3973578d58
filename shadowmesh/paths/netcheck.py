"""What kind of NAT this host is behind, as far as STUN answers tell (RFC 5780, sections 4.3 and 4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shadowmesh.model.addresses import SockAddr
from shadowmesh.paths.candidates import HostView, parse_ip

NatType = Literal["none", "full_cone", "restricted", "port_restricted", "symmetric", "udp_blocked", "unknown"]
NatMapping = Literal["endpoint-independent", "address-and-port-dependent", "unknown"]


@dataclass(frozen=True, slots=True)
class NatVerdict:
    """`public`: the reflexive address, None if none was seen."""

    type: NatType = "unknown"
    mapping: NatMapping = "unknown"
    public: SockAddr | None = None

    @property
    def symmetric(self) -> bool:
        return self.type == "symmetric"


def agreed(answers: Mapping[SockAddr, SockAddr]) -> SockAddr | None:
    """The reflexive address that servers on two hosts saw alike; None without one.

    It makes the mapping endpoint-independent, whatever port another server saw: a router that accepts a stray packet
    of a destination for its own gives that destination another port for a while.
    """
    hosts: dict[SockAddr, set[str]] = {}
    for server, mapped in answers.items():
        hosts.setdefault(mapped, set()).add(server.host)
    return next((mapped for mapped, seen_by in hosts.items() if len(seen_by) > 1), None)


def verdict(
    view: HostView,
    answers: Mapping[SockAddr, SockAddr],
    other_port_arrived: bool | None = None,
    common: SockAddr | None = None,
) -> NatVerdict:
    """The verdict for one socket.

    `answers`: reflexive address by server asked. `other_port_arrived`:
    whether an answer came from a port that the socket had never sent to (None: not tried). That UDP is blocked is for
    the client to find: it knows whom it asked in vain. `common`: the address known to be that of all destinations, but for
    some that the router treats otherwise.
    Full cone can't be told from restricted without a server that was never sent to, so it isn't.
    """
    if not answers:
        return NatVerdict()
    seen = list(dict.fromkeys(answers.values()))
    common = common or agreed(answers)
    if common is not None:
        seen = [common]
    public = seen[-1]
    if any(view.is_own(parse_ip(a.host)) for a in seen):
        return NatVerdict("none", "endpoint-independent", public)
    if len(seen) > 1:
        return NatVerdict("symmetric", "address-and-port-dependent", public)
    if len(answers) < 2:
        return NatVerdict("unknown", "unknown", public)
    if other_port_arrived is None:
        return NatVerdict("restricted", "endpoint-independent", public)
    return NatVerdict("restricted" if other_port_arrived else "port_restricted", "endpoint-independent", public)
