"""What was taken away, numbered in the order of commits, so that every controller on the database can follow.

A controller acts at once on what it took away itself, and within a second on what another did (`Timing.follow`).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema, sequences
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import DevicePublicKey, NetworkID
from shadowmesh.model.relaylink import Revocation

_SLACK = dt.timedelta(hours=1)  # a token made while its client was removed runs out later than the others
_RIGHTS_KEPT = dt.timedelta(hours=1)  # a controller that was away for longer starts anew, with no open connection


def revoke_client(
    context: ServiceContext, conn: Connection, network: Row[Any], client: Row[Any], reason: str
) -> Revocation:
    """The client is cut off, and all its relay tokens are void. `reason`: removed, denied, left."""
    what = {"device_key": client.device_key, "client_id": client.id, "reason": reason}
    return _revoke_tokens(context, conn, network, before=context.now(), **what)


def revoke_network(context: ServiceContext, conn: Connection, network: Row[Any]) -> Revocation:
    """The network is no more: all relay tokens for it are void, whenever they were issued."""
    return _revoke_tokens(context, conn, network, before=_until(context), reason="deleted")


def rights_changed(context: ServiceContext, conn: Connection, user_id: str) -> None:
    """The user's open connections have to be looked at again. Before `record`: transactions lock in one order."""
    _insert(conn, user_id=user_id, before=context.now(), until=context.now() + _RIGHTS_KEPT)


def _until(context: ServiceContext) -> dt.datetime:
    """When the last token that is revoked now has run out."""
    return context.now() + dt.timedelta(seconds=context.timing.offline_grace) + _SLACK


def _revoke_tokens(context: ServiceContext, conn: Connection, network: Row[Any], **what: Any) -> Revocation:
    return relay_revocation(_insert(conn, network_id=network.network_id, until=_until(context), **what))


def _insert(conn: Connection, **values: Any) -> Row[Any]:
    t, number = schema.revocations, sequences.take(conn, sequences.REVOCATIONS)
    return conn.execute(t.insert().values(id=number, **values).returning(t)).one()


def after(conn: Connection, number: int) -> list[Row[Any]]:
    """The revocations after this one, with the network's `ref` where one is meant, oldest first."""
    t, n = schema.revocations, schema.networks
    query = sa.select(t, n.c.ref).outerjoin(n, n.c.network_id == t.c.network_id).where(t.c.id > number)
    return list(conn.execute(query.order_by(t.c.id)))


def for_relays(conn: Connection, now: dt.datetime, number: int = 0) -> tuple[int, list[Revocation]]:
    """All after this one that relays still have to know, and the number of the last that was looked at."""
    last = sequences.newest(conn, sequences.REVOCATIONS)  # first: what is committed in between comes twice, then
    t = schema.revocations
    query = sa.select(t).where(t.c.id > number, t.c.until > now, t.c.network_id.is_not(None)).order_by(t.c.id)
    return last, [relay_revocation(row) for row in conn.execute(query)]


def relay_revocation(row: Row[Any]) -> Revocation:
    return Revocation(
        client_id=None if row.client_id is None else ClientID(row.client_id),
        device_key=None if row.device_key is None else DevicePublicKey(row.device_key),
        network_id=NetworkID(row.network_id),
        before=row.before.timestamp(),
        until=row.until.timestamp(),
    )
