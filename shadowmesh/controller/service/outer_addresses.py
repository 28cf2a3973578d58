"""Addresses that no network's subnet may cover: this controller's own and its relays'. A client that routed them into a network would cut itself off.

What else a subnet covers is each client's to judge: it knows its own LAN and where its peers are.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model.addresses import IPAddress, IPNetwork, SockAddr
from shadowmesh.model.errors import MalformedError

_RESOLVING = 2.0  # seconds for all names together; one that takes longer is passed over


async def outer_addresses(context: ServiceContext) -> dict[IPAddress, str]:
    """Address → whose it is, for people. Names in URLs are resolved as this host does."""
    hosts: dict[str, str] = {urlsplit(url).hostname or "": "this controller" for url in context.settings.announced_urls}
    listen = context.settings.address.host
    if not ip_address(listen).is_unspecified:
        hosts.setdefault(listen, "this controller")

    def relays(conn: Connection) -> dict[str, str]:
        r, found = schema.relays, {}
        for row in conn.execute(sa.select(r.c.name, r.c.url, r.c.udp).where(r.c.removed_at.is_(None))):
            found[urlsplit(row.url or "").hostname or ""] = f"relay {row.name}"
            with suppress(MalformedError):
                found[SockAddr.parse(row.udp or "").host] = f"relay {row.name}"
        return found

    hosts = {**await context.read(relays), **hosts}
    known: dict[IPAddress, str] = {}
    names = []
    for host, whose in hosts.items():
        try:
            known[ip_address(host)] = whose
        except ValueError:
            names += [_resolve(host, whose)] if host else []
    for found in await asyncio.gather(*names):
        known = {**found, **known}
    return {address: whose for address, whose in known.items() if not address.is_loopback}


async def _resolve(host: str, whose: str) -> dict[IPAddress, str]:
    with suppress(OSError, UnicodeError, TimeoutError):
        async with asyncio.timeout(_RESOLVING):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return {ip_address(str(info[4][0]).partition("%")[0]): f"{whose} ({host})" for info in found}
    return {}


def refuse_covering(subnet: IPNetwork | None, outer: Mapping[IPAddress, str]) -> None:
    """Raises ShadowMeshError(subnet_covers, CONFLICT)."""
    if subnet is None:
        return
    for address, whose in outer.items():
        if address.version == subnet.version and address in subnet:
            raise conflict(
                "subnet_covers",
                f"{subnet} covers {address}, the address of {whose}: its clients would lose the way there",
                "choose another subnet, for example one of 10.0.0.0/8 that nothing here uses",
            )
