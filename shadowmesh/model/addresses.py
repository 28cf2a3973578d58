"""Addresses: of sockets on the underlay, of networks inside the overlay."""

from __future__ import annotations

import ipaddress
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.text import whole_number

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

OVERLAY_PREFIXES = range(8, 31)  # lengths that an overlay's IPv4 subnet may have; an IPv6 one has OVERLAY_PREFIX6
OVERLAY_PREFIX6 = 64
NO_OVERLAY = tuple(map(ipaddress.IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")  # RFC 4193


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_FIELD = r"(?:0|[1-9a-f][0-9a-f]{0,3})"
_FIELDS = rf"{_FIELD}(?::{_FIELD})*"
_WHOLE_IPV6 = rf"{_FIELD}(?::{_FIELD}){{7}}"
_SHORT_IPV6 = rf"(?=(?:[^:]*:){{2,7}}[^:]*\Z)(?:{_FIELDS})?::(?:{_FIELDS})?"
_IP = rf"\A(?:{IPV4}|{_WHOLE_IPV6}|{_SHORT_IPV6})\Z"


LAST_PORT = 65535


class SockAddr(NamedTuple):
    """An IP address in canonical text form and a UDP or TCP port. Passes straight to `socket.sendto`.

    IPv4-mapped IPv6 addresses never appear: whoever reads a socket unmaps them; nor do those with a zone. What comes in
    a message is checked as it is read: a host name here would be looked up, and anything else raise later.
    """

    host: Annotated[str, msgspec.Meta(pattern=_IP)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]

    @property
    def ip(self) -> IPAddress:
        return ipaddress.ip_address(self.host)

    @property
    def next_port(self) -> SockAddr | None:
        """The same host's next port; None after the last."""
        return SockAddr(self.host, self.port + 1) if self.port < LAST_PORT else None

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> SockAddr:
        """`1.2.3.4:5` or `[2001:db8::1]:5`. Raises MalformedError."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise MalformedError(f"an IPv6 address stands in brackets before its port: {text!r}")
        try:
            number = whole_number(port)
            if not 0 < number < 65536 or "%" in host:
                raise ValueError
            return cls(str(ipaddress.ip_address(host)), number)
        except ValueError as e:
            raise MalformedError(f"not an address and port: {text!r}") from e


def may_be_overlay(subnet: IPNetwork) -> bool:
    """Whether a network's members may have their addresses there: not among a host's own, multicast, or all of the internet."""
    if isinstance(subnet, ipaddress.IPv6Network):
        return subnet.prefixlen == OVERLAY_PREFIX6 and subnet.subnet_of(UNIQUE_LOCAL)
    return subnet.prefixlen in OVERLAY_PREFIXES and not any(subnet.overlaps(other) for other in NO_OVERLAY)


def source_of(host: str) -> str:
    """Whose attempts are counted together: an IPv4 address, an IPv6 /64 (one line's customer has 2^64 addresses)."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
