"""This host's addresses on the underlay, sorted by what stands behind them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import TypeAlias

from shadowmesh.model.addresses import IPNetwork

IPInterface: TypeAlias = IPv4Interface | IPv6Interface
"""An address with its on-link prefix."""


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """`real`: on links to the world. `tunnels`: inside other programs' tunnels. `containers`: on bridges that lead to this host's own
    containers only. `nested`: networks to which only other programs' tunnels lead.

    Overlays of our own are in none of them.
    """

    real: tuple[IPInterface, ...] = ()
    tunnels: tuple[IPInterface, ...] = ()
    containers: tuple[IPInterface, ...] = ()
    nested: tuple[IPNetwork, ...] = ()
