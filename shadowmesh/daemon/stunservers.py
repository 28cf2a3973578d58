"""Where the controllers' STUN servers are, where their URLs have host names: a map names addresses only.

Resolved here, since a name may mean another address on each network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from shadowmesh.model.addresses import LAST_PORT, IPAddress, SockAddr
from shadowmesh.protocol.signing import IdentityDocument

Resolve = Callable[[str], Awaitable[list[IPAddress]]]

_MOST_NAMES, _MOST_ADDRESSES = 4, 4  # of one controller


async def resolve(host: str) -> list[IPAddress]:
    """The addresses of a host name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(ipaddress.ip_address(info[4][0]) for info in found))


def host_names(urls: Iterable[str]) -> list[str]:
    """The host names in URLs, without those that are addresses."""
    hosts = dict.fromkeys(urlsplit(url).hostname or "" for url in urls)
    return [host for host in hosts if host and not _is_address(host)]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class StunServers:
    """`changed` is called with the fingerprint of a controller whose addresses are known now, or others than before."""

    def __init__(self, resolve: Resolve, changed: Callable[[str], None]) -> None:
        self._resolve = resolve
        self._changed = changed
        self._known: dict[str, tuple[SockAddr, ...]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    def of(self, fingerprint: str) -> tuple[SockAddr, ...]:
        return self._known.get(fingerprint, ())

    def look(self, fingerprint: str, identity: IdentityDocument, *, again: bool = True) -> None:
        """Resolves the controller's names; `again`: also where they were resolved before."""
        if (
            fingerprint in self._looking
            or (self._known.get(fingerprint) and not again)
            or not host_names(identity.urls)
        ):
            return
        task = asyncio.create_task(self._look(fingerprint, identity))
        self._looking[fingerprint] = task
        task.add_done_callback(lambda _: self._looking.pop(fingerprint, None))

    async def _look(self, fingerprint: str, identity: IdentityDocument) -> None:
        addresses: list[IPAddress] = []
        for name in host_names(identity.urls)[:_MOST_NAMES]:
            try:
                addresses += await self._resolve(name)
            except (OSError, UnicodeError):
                continue
        ports = [port for port in identity.stun_ports[:2] if 0 < port <= LAST_PORT]
        found = tuple(SockAddr(str(a), port) for a in dict.fromkeys(addresses[:_MOST_ADDRESSES]) for port in ports)
        if found and found != self._known.get(fingerprint):
            self._known[fingerprint] = found
            self._changed(fingerprint)

    async def stop(self) -> None:
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
