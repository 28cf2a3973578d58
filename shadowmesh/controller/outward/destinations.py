"""Which addresses an owner's webhook may lead to, so that nobody makes the controller ask what only the controller reaches.

Public ones, and those of networks that the operator has named (`webhook_networks` in `controller.json`); never this host.
An administrator's may lead anywhere. Names are looked up for each connection, all that they stand for is looked at, and
the connection goes to an address that was looked at: a name that means something else a moment later gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import httpcore

from shadowmesh.controller.outward.lookups import look_up
from shadowmesh.model.errors import Kind, ShadowMeshError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is given out of IPv6


@dataclass(frozen=True, slots=True)
class Destinations:
    """`anywhere`: an administrator's. `networks`: what the operator has named. `own`: where this controller is reached."""

    anywhere: bool = False
    networks: tuple[IPNetwork, ...] = ()
    own: frozenset[str] = frozenset()

    def refuses(self, ip: IPAddress) -> str | None:
        """Why this one may not be reached; None: it may."""
        if self.anywhere:
            return None
        inner = _inner(ip)
        if inner.is_unspecified or inner.is_multicast:
            return "is no host's"
        if inner.is_loopback or str(inner) in self.own or _is_ours(inner):
            return "is this controller's own"
        if any(inner in network for network in self.networks if network.version == inner.version):
            return None
        return None if _is_public(inner) else "isn't a public one"


def _inner(ip: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one leads to, if it does."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.sixtofour is not None:
            return ip.sixtofour
    return ip


def _is_public(ip: IPAddress) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and (ip.teredo is not None or ip not in _GLOBAL_UNICAST):
        return False
    return ip.is_global and not ip.is_reserved


def _is_ours(ip: IPAddress) -> bool:
    """Whether this host has the address: only then can a socket be bound to it."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
    return True


async def resolve(host: str, port: int, destinations: Destinations) -> list[str]:
    """Addresses of this host, in the system's order. Raises ShadowMeshError: host_unknown, address_refused."""
    try:
        addresses = await look_up(host, port)
    except (OSError, UnicodeError) as e:
        raise ShadowMeshError("host_unknown", f"{host} can't be looked up ({e})", kind=Kind.FAILED) from e
    check(host, addresses, destinations)
    return addresses


def check(host: str, addresses: Iterable[str], destinations: Destinations) -> None:
    """Raises ShadowMeshError(address_refused) if one of them may not be reached; of a name it isn't told what it stands for."""
    for text in addresses:
        why = destinations.refuses(ipaddress.ip_address(text.partition("%")[0]))
        if why is not None:
            raise ShadowMeshError(
                "address_refused",
                f"{host} stands for an address that {why}: no owner's webhook may lead there",
                "use a public address, or have the operator name its network by webhooks.networks in the configuration",
                kind=Kind.NOT_ALLOWED,
            )


def networks_of(texts: Collection[str]) -> tuple[IPNetwork, ...]:
    """Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were looked at."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception | None = None
        for address in await resolve(host, port, self._destinations):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as e:
                failed = e
        raise failed or httpcore.ConnectError("no address")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
