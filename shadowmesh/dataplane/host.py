"""The host's side of an overlay interface, by netlink: link state, MTU, addresses, routes; and what else the host has.

Blocking, and not to be called on a thread whose event loop runs (pyroute2 brings its own). Routes carry the routing protocol
number PROTOCOL, so that anyone can tell whose they are. Interfaces are TUN devices: with their last descriptor they go, and
all their addresses and routes with them, also after a crash.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shadowmesh.model.addresses import IPNetwork
from shadowmesh.model.errors import Kind, ShadowMeshError

PROTOCOL: Final = 83  # "S"; rtnetlink(7): values above RTPROT_STATIC are free for user space
PREFIX: Final = "shadowmesh"  # overlay interfaces are named so, with a number
_IFF_UP: Final = 1
_IFF_LOOPBACK: Final = 8
_UNUSABLE: Final = 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED
_SCOPE_LINK: Final = 253

HostAddress: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an overlay interface shall be: `addresses` with the prefixes that are routed into it."""

    interface: str
    addresses: tuple[HostAddress, ...]
    mtu: int


class Host:
    """One netlink connection. Methods raise ShadowMeshError (`no_permission`, `interface_failed`) or OSError."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute

        self._ip: Any = IPRoute()

    def close(self) -> None:
        self._ip.close()

    def apply(self, wanted: Wanted) -> None:
        """Makes an interface so: what is missing is added, what is too much is taken away; the rest isn't touched."""
        try:
            self._apply(wanted)
        except Exception as e:
            raise _explained(wanted.interface, e) from e

    def holds(self, wanted: Wanted) -> bool:
        """Whether the interface is as wanted; False too if it is gone."""
        found = self._ip.link_lookup(ifname=wanted.interface)
        if not found:
            return False
        link = self._ip.get_links(found[0])[0]
        return (
            bool(link["flags"] & _IFF_UP)
            and self._addresses(found[0]) >= set(_own_addresses(wanted))
            and self._routes(found[0]) >= set(_routes(wanted))
        )

    def _apply(self, wanted: Wanted) -> None:
        found = self._ip.link_lookup(ifname=wanted.interface)
        if not found:
            raise OSError(errno.ENODEV, "no such interface")
        index = found[0]
        self._ip.link("set", index=index, state="up", mtu=wanted.mtu)
        addresses, routes = set(_own_addresses(wanted)), set(_routes(wanted))
        for address in self._addresses(index) - addresses:
            if not address.is_link_local:
                self._ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for address in addresses - self._addresses(index):
            self._ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for route in self._routes(index) - routes:
            self._ip.route("del", dst=str(route), oif=index, proto=PROTOCOL)
        for address in wanted.addresses:
            source = {"prefsrc": str(address.ip)} if address.version == 4 else {}
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            self._ip.route(
                "replace", dst=str(address.network), oif=index, proto=PROTOCOL, scope=_SCOPE_LINK, family=family, **source
            )

    def _addresses(self, index: int) -> set[HostAddress]:
        return {a for i, _, a in self._all_addresses() if i == index}

    def _routes(self, index: int) -> set[IPNetwork]:
        found: set[IPNetwork] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in self._ip.get_routes(family=family, oif=index):
                if route["proto"] == PROTOCOL and route.get_attr("RTA_DST"):
                    found.add(ipaddress.ip_network(f"{route.get_attr('RTA_DST')}/{route['dst_len']}"))
        return found

    def _all_addresses(self) -> Iterator[tuple[int, int, HostAddress]]:
        """Interface index, flags, address."""
        for message in self._ip.get_addr():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                flags = message.get_attr("IFA_FLAGS") or message["flags"]
                yield message["index"], flags, ipaddress.ip_interface(f"{text}/{message['prefixlen']}")

    def underlay(self) -> list[tuple[str, HostAddress]]:
        """Interface and address of all that is up, usable from outside, and not an overlay's."""
        names = {
            link["index"]: str(link.get_attr("IFLA_IFNAME"))
            for link in self._ip.get_links()
            if link["flags"] & _IFF_UP and not link["flags"] & _IFF_LOOPBACK
        }
        return [
            (names[index], address)
            for index, flags, address in self._all_addresses()
            if index in names
            and not names[index].startswith(PREFIX)
            and not flags & _UNUSABLE
            and not (address.version == 6 and address.is_link_local)
        ]

    def overlaps(self, subnet: IPNetwork, ignore: Iterable[str]) -> list[tuple[str, IPNetwork]]:
        """Interfaces, other than those to ignore, that have an address whose network overlaps `subnet`."""
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in self._ip.get_links()}
        skip = {"lo", *ignore}
        return [
            (names[index], address.network)
            for index, _, address in self._all_addresses()
            if names.get(index, "lo") not in skip
            and address.version == subnet.version
            and address.network.overlaps(subnet)  # type: ignore[arg-type]  # versions are equal
        ]


def _own_addresses(wanted: Wanted) -> Sequence[HostAddress]:
    """Each alone, without its prefix: routes are ours to make."""
    return [ipaddress.ip_interface(a.ip) for a in wanted.addresses]


def _routes(wanted: Wanted) -> Sequence[IPNetwork]:
    return [a.network for a in wanted.addresses]


def _explained(interface: str, error: Exception) -> ShadowMeshError:
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    if number in (errno.EPERM, errno.EACCES):
        return ShadowMeshError(
            "no_permission", f"no permission to set up {interface}", "run the daemon as root", kind=Kind.NOT_ALLOWED
        )
    return ShadowMeshError("interface_failed", f"{interface} can't be set up: {error}", "see the daemon's log")


def open_watcher() -> socket.socket:
    """A non-blocking netlink socket that becomes readable when links, addresses or routes change."""
    from pyroute2.netlink import rtnl

    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    groups = (
        rtnl.RTMGRP_LINK
        | rtnl.RTMGRP_IPV4_IFADDR
        | rtnl.RTMGRP_IPV6_IFADDR
        | rtnl.RTMGRP_IPV4_ROUTE
        | rtnl.RTMGRP_IPV6_ROUTE
    )
    sock.bind((0, groups))
    return sock
