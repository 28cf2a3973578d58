"""What kind of network is behind an interface, by what the kernel tells of it (ip-link(8))."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

_UP, _LOOPBACK = 0x1, 0x8

TUNNELS: Final = frozenset({
    "tun", "wireguard", "ovpn", "xfrm", "vti", "vti6", "gre", "gretap", "ip6gre", "ip6gretap", "erspan", "ip6erspan",
    "ipip", "sit", "ip6tnl", "vxlan", "geneve", "bareudp", "gtp", "l2tpeth", "amt",
})  # fmt: skip
"""Kinds of interfaces whose packets travel inside others. PPP isn't among them: that is how DSL comes."""

_CONTAINER_PORTS: Final = frozenset({"veth", "tun"})  # of containers and virtual machines


class InterfaceRole(Enum):
    REAL = "real"
    TUNNEL = "tunnel"
    CONTAINERS = "containers"  # a bridge behind which are this host's own containers and nothing else


@dataclass(frozen=True, slots=True)
class HostInterface:
    """`kind` as in `ip -d link`, empty for hardware; `master` the index of the bridge or bond it is a port of, 0 for none."""

    index: int
    name: str
    kind: str = ""
    master: int = 0
    up: bool = True
    loopback: bool = False

    @classmethod
    def of(cls, message: Any) -> HostInterface:
        """From pyroute2's message."""
        info = message.get_attr("IFLA_LINKINFO")
        return cls(
            message["index"],
            message.get_attr("IFLA_IFNAME"),
            (None if info is None else info.get_attr("IFLA_INFO_KIND")) or "",
            message.get_attr("IFLA_MASTER") or 0,
            bool(message["flags"] & _UP),
            bool(message["flags"] & _LOOPBACK),
        )


def roles(interfaces: Iterable[HostInterface], in_use: Collection[int] = ()) -> dict[int, InterfaceRole]:
    """By index. `in_use`: interfaces by which default routes lead, or the ways to relays and controllers; no bridge of these is a container's."""
    interfaces = list(interfaces)
    found = {}
    for interface in interfaces:
        ports = {port.kind for port in interfaces if port.master == interface.index}
        if interface.kind in TUNNELS:
            found[interface.index] = InterfaceRole.TUNNEL
        elif interface.kind == "bridge" and interface.index not in in_use and ports <= _CONTAINER_PORTS:
            found[interface.index] = InterfaceRole.CONTAINERS
        else:
            found[interface.index] = InterfaceRole.REAL
    return found
