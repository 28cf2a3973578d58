"""What kind of NAT this host is behind, as far as STUN answers tell (RFC 5780, sections 4.3 and 4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def verdict(
    view: HostView,
    answers: Mapping[SockAddr, SockAddr],
    unanswered: Iterable[SockAddr] = (),
    other_port_arrived: bool | None = None,
) -> NatVerdict:
    """The verdict for one socket.

    `answers`: reflexive address by server asked. `unanswered`: servers that were given up. `other_port_arrived`:
    whether an answer came from a port that the socket had never sent to (None: not tried).
    Full cone can't be told from restricted without a server that was never sent to, so it isn't.
    """
    if not answers:
        return NatVerdict("udp_blocked") if any(unanswered) else NatVerdict()
    seen = list(dict.fromkeys(answers.values()))
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
