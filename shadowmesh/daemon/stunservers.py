"""Where the controllers' STUN servers are, where their URLs have host names: a map names addresses only.

Resolved here, since a name may mean another address on each network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import urlsplit

from shadowmesh.model.addresses import LAST_PORT, IPAddress, SockAddr
from shadowmesh.protocol.signing import IdentityDocument

Resolve = Callable[[str], Awaitable[list[IPAddress]]]

_MOST_NAMES, _MOST_ADDRESSES, _MOST_OTHERS = 4, 4, 8  # of one controller


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


def _host_and_port(text: str) -> tuple[str, tuple[int]] | None:
    host, _, port = text.rpartition(":")
    good = bool(host) and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= LAST_PORT
    return (host.strip("[]"), (int(port),)) if good else None


class StunServers:
    """`changed` is called with the fingerprint of a controller whose addresses are known now, or others than before.
    `also`: further servers, HOST:PORT, which count as every controller's."""

    def __init__(self, resolve: Resolve, changed: Callable[[str], None], also: Sequence[str] = ()) -> None:
        self._resolve = resolve
        self._changed = changed
        self._also = tuple(also)
        self._known: dict[str, tuple[SockAddr, ...]] = {}
        self._looked_for: dict[str, tuple[tuple[str, Sequence[int]], ...]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    def of(self, fingerprint: str) -> tuple[SockAddr, ...]:
        return self._known.get(fingerprint, ())

    def look(
        self, fingerprint: str, identity: IdentityDocument, names: Sequence[str] = (), *, again: bool = True
    ) -> None:
        """Resolves the controller's names, and `names` (HOST:PORT) that its maps have; `again`: also where they were resolved before."""
        wanted = self._wanted(identity, names)
        known = self._known.get(fingerprint) and self._looked_for.get(fingerprint) == wanted
        if not wanted and self._known.pop(fingerprint, ()):
            self._changed(fingerprint)
        if fingerprint in self._looking or (known and not again) or not wanted:
            return
        self._looked_for[fingerprint] = wanted
        task = asyncio.create_task(self._look(fingerprint, wanted))
        self._looking[fingerprint] = task
        task.add_done_callback(lambda _: self._looking.pop(fingerprint, None))

    def _wanted(self, identity: IdentityDocument, names: Sequence[str]) -> tuple[tuple[str, Sequence[int]], ...]:
        """Hosts with their ports."""
        ports = tuple(port for port in identity.stun_ports[:2] if 0 < port <= LAST_PORT)
        own: list[tuple[str, Sequence[int]]] = [(name, ports) for name in host_names(identity.urls)[:_MOST_NAMES]]
        others = dict.fromkeys((*self._also, *names[:_MOST_OTHERS]))
        return (*own, *(found for found in map(_host_and_port, others) if found is not None))

    async def _look(self, fingerprint: str, wanted: Iterable[tuple[str, Sequence[int]]]) -> None:
        servers: list[SockAddr] = []
        for name, ports in wanted:
            try:
                addresses = [ipaddress.ip_address(name)] if _is_address(name) else await self._resolve(name)
            except (OSError, UnicodeError):
                continue
            servers += [SockAddr(str(a), port) for a in dict.fromkeys(addresses[:_MOST_ADDRESSES]) for port in ports]
        found = tuple(dict.fromkeys(servers))
        if found and found != self._known.get(fingerprint):
            self._known[fingerprint] = found
            self._changed(fingerprint)

    async def stop(self) -> None:
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
