"""What an operator set that is in every network's map: in the database, so that all nodes make the same maps."""

from __future__ import annotations

import ipaddress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.controller.store.relayuse import is_for
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import Struct, from_json, to_json

_KEY = "map_settings"


class MapSettings(Struct, frozen=True, kw_only=True):
    """`stun_servers`: as `stun:HOST:PORT`. Without `relays` clients are told of no relay but the one at `fallback_relay`."""

    p2p: bool = True
    stun_servers: tuple[str, ...] = ()
    relays: bool = True
    fallback_relay: str | None = None

    @property
    def stun(self) -> tuple[SockAddr, ...]:
        """Those that are given by address."""
        return tuple(a for a in map(_by_address, self.stun_servers) if a is not None)

    @property
    def stun_names(self) -> tuple[str, ...]:
        """Those that are given by name, as HOST:PORT."""
        return tuple(s.removeprefix("stun:") for s in self.stun_servers if _by_address(s) is None)


def _by_address(server: str) -> SockAddr | None:
    host, _, port = server.removeprefix("stun:").rpartition(":")
    try:
        return SockAddr(str(ipaddress.ip_address(host.strip("[]"))), int(port))
    except ValueError:
        return None


def keep_map_settings(conn: Connection, settings: MapSettings) -> None:
    """The caller bumps the serials of the networks whose head is another now."""
    t, text = schema.meta, to_json(settings).decode()
    if not conn.execute(t.update().where(t.c.key == _KEY).values(value=text)).rowcount:
        conn.execute(t.insert().values(key=_KEY, value=text))


@prepared
def _kept(key: str) -> sa.Select[Any]:
    return sa.select(schema.meta.c.value).where(schema.meta.c.key == key)


def map_settings(conn: Connection) -> MapSettings:
    text = conn.execute(*_kept(_KEY)).scalar()
    return MapSettings() if text is None else from_json(text.encode(), MapSettings)


def is_told(relay: Row[Any], network: Row[Any], settings: MapSettings) -> bool:
    """Whether a network's clients are told of a relay, one that is there and takes clients."""
    return is_for(relay, network) and (settings.relays or relay.url == settings.fallback_relay)
