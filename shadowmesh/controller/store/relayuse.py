"""Which relays are for which networks: by the network's choice of one, and by the token that the relay registered with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema


def is_for(relay: Any, network: Any) -> bool:
    """Rows with a relay's `id` and `networks`, a network's `ref` and `relay_id`."""
    return network.relay_id in (None, relay.id) and (relay.networks is None or network.ref in relay.networks)


def served_by(conn: Connection, relay_id: str) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those that this relay is for."""
    n, r = schema.networks, schema.relays
    chosen = sa.or_(n.c.relay_id.is_(None), n.c.relay_id == relay_id)
    only = conn.execute(sa.select(r.c.networks).where(r.c.id == relay_id)).scalar()
    return chosen if only is None else sa.and_(chosen, n.c.ref.in_(only))


def relays_for(conn: Connection, networks: Iterable[Any]) -> list[str]:
    """The ids of relays that are for one of these networks, also of those that were removed."""
    r, networks = schema.relays, list(networks)
    rows = conn.execute(sa.select(r.c.id, r.c.networks).order_by(r.c.id))
    return [row.id for row in rows if any(is_for(row, network) for network in networks)]
