"""Under which URLs the controller's nodes are reached: in the database, so that all nodes put the same into maps."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model.addresses import SockAddr

KEPT = dt.timedelta(days=30)
"""How long a URL is announced that no node has any more: who was asleep still finds one that has."""


def announce(conn: Connection, urls: Iterable[str], stun_port: int, now: dt.datetime, *, alone: bool) -> None:
    """This node is reached by these URLs; its STUN ports are `stun_port` and the next. `alone`: there is no other node.

    The caller bumps the serials of the networks whose head is another now.
    """
    t, ours = schema.announced_urls, set(urls)
    old = sa.true() if alone else t.c.seen_at < now - KEPT
    conn.execute(t.delete().where(old, t.c.url.not_in(ours)))
    known = set(conn.execute(sa.select(t.c.url)).scalars())
    for url in sorted(ours):
        values = {"stun_port": stun_port, "seen_at": now}
        if url in known:
            conn.execute(t.update().where(t.c.url == url).values(**values))
        else:
            conn.execute(t.insert().values(url=url, **values))


@prepared
def _by_url() -> sa.Select[Any]:
    return sa.select(schema.announced_urls).order_by(schema.announced_urls.c.url)


def announced(conn: Connection) -> tuple[tuple[str, ...], tuple[SockAddr, ...]]:
    """The URLs in order, and the STUN servers as far as URLs name them by address."""
    urls: list[str] = []
    stun: list[SockAddr] = []
    for row in conn.execute(*_by_url()):
        urls.append(row.url)
        try:
            host = str(ipaddress.ip_address(urlsplit(row.url).hostname or ""))
        except ValueError:
            continue
        stun += [SockAddr(host, row.stun_port), SockAddr(host, row.stun_port + 1)]
    return tuple(urls), tuple(dict.fromkeys(stun))
