"""What a pair of NATs allows: the matrix of `docs/lab.md`, as a function."""

from __future__ import annotations

from enum import StrEnum

from shadowmesh.lab.nat import NatType


class Reach(StrEnum):
    """How two hosts are expected to reach each other once they have talked for a while."""

    DIRECT = "direct"  # plain punching works, every time
    SPRAY = "spray"  # only with many ports tried; else the relay
    RELAY = "relay"  # never, without IPv6 or a mapped port


class Ease(StrEnum):
    """How hard it is to send to a host: what is left of a NAT's type once punching is all that matters."""

    CONE = "cone"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"
    CLOSED = "closed"  # no UDP


_EASE = {
    NatType.NONE: Ease.CONE,
    NatType.FULL_CONE: Ease.CONE,
    NatType.ADDRESS_RESTRICTED: Ease.CONE,
    NatType.PORT_RESTRICTED: Ease.PORT_RESTRICTED,
    NatType.HAIRPIN: Ease.PORT_RESTRICTED,
    NatType.CGNAT: Ease.PORT_RESTRICTED,
    NatType.IGD: Ease.PORT_RESTRICTED,  # without a mapping
    NatType.SYMMETRIC: Ease.SYMMETRIC,
    NatType.SYMMETRIC_SEQUENTIAL: Ease.SYMMETRIC,
    NatType.UDP_BLOCKED: Ease.CLOSED,
    NatType.HTTPS_ONLY: Ease.CLOSED,
}


def ease(nat: NatType) -> Ease:
    return _EASE[nat]


def reach(a: NatType, b: NatType, *, same_lan: bool = False, same_carrier: bool = False) -> Reach:
    """What is expected of two hosts in sites of these types, in whichever order, over IPv4 and where no router opens a port on request.

    `same_lan`: both are behind one router. `same_carrier`: one carrier's NAT is above both, and it doesn't hairpin.
    """
    if same_lan:
        return Reach.DIRECT
    pair = {ease(a), ease(b)}
    if same_carrier or Ease.CLOSED in pair or pair == {Ease.SYMMETRIC}:
        return Reach.RELAY
    return Reach.SPRAY if pair == {Ease.SYMMETRIC, Ease.PORT_RESTRICTED} else Reach.DIRECT
