"""How clients are connected, for people: the log of what changed, and the whole network as it is now.

Both are what devices reported (`service.reports`). Who may read a network's logs and isn't an owner of it sees what their
own machines said.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, permissions_in, sees_others
from shadowmesh.controller.service.clients import find_client, relay_names
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.mapcontent import load_head
from shadowmesh.controller.service.reports import MOST_AGO, NOTHING_KNOWN, Reports
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.relayuse import relays_for
from shadowmesh.model import api
from shadowmesh.model.connectivity import (
    ConnectionLog,
    Topology,
    TopologyClient,
    TopologyPair,
    TopologyRelay,
    TopologyView,
)
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID, is_id
from shadowmesh.model.reasons import connection_type

MOST_VIEWS = 20_000  # of pairs, in one answer


@dataclass(frozen=True, slots=True)
class LogWish:
    """Which lines: of this client (as it told them), about this peer (with both: as either told them), of this time, type
    and source (client, controller, relay)."""

    client: str | None = None
    peer: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    event_type: str | None = None
    source: str | None = None


class ConnectionViews:
    def __init__(self, context: ServiceContext, hub: Hub, reports: Reports) -> None:
        self._context = context
        self._hub = hub
        self._reports = reports

    async def log(
        self, who: Principal, network_name: str, wish: LogWish, after: int, limit: int
    ) -> api.Page[ConnectionLog]:
        """Lines after number `after`, oldest first."""

        def tx(conn: Connection) -> api.Page[ConnectionLog]:
            network = find_network(conn, who, network_name, Permission.LOGS_VIEW)
            own = None if sees_others(conn, who, network.ref) else _own(who)
            queries = _queries(conn, network, wish, own)
            rows = [
                row
                for table, query in queries
                for row in conn.execute(query.where(table.c.log_id > after).order_by(table.c.log_id).limit(limit + 1))
            ]
            rows.sort(key=lambda row: row.log_id)
            more = str(rows[limit - 1].log_id) if len(rows) > limit else None
            names, relays = _names(conn, network.ref), all_relays(conn)
            return api.Page(items=[log_line(row, names, relays) for row in rows[:limit]], next=more)

        return await self._context.read(tx)

    async def topology(self, who: Principal, network_name: str, client: str | None = None) -> Topology:
        """Controllers, relays, clients; and the pairs in use, as far as `who` may read the logs. `client`: around it alone.

        Raises ShadowMeshError: network_unknown, not_allowed, client_unknown.
        """

        def tx(conn: Connection) -> Topology:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            head, _ = load_head(conn, network)
            c = schema.clients
            members = sa.select(c).where(c.c.network_ref == network.ref, c.c.state == "approved").order_by(c.c.name)
            relays = relay_names(conn)
            around = None if client is None else str(find_client(conn, network, client).id)
            views = self._views(conn, who, network.ref, around)
            if around is not None:
                near = {around, *(row.client_id for row in views), *(row.peer_id for row in views)}
                members = members.where(c.c.id.in_(near))
            clients = conn.execute(members).all()
            return Topology(
                network_id=network.ref,
                name=network.name,
                reports=network.reports,
                controllers=list(head.controller_urls),
                relays=[
                    TopologyRelay(
                        relay_id=r.relay_id,
                        name=r.name,
                        region=r.region,
                        online=self._hub.relay_online(RelayID(r.relay_id)),
                    )
                    for r in head.relays
                ],
                clients=self._clients(conn, network, clients, relays),
                pairs=_pairs(views[:MOST_VIEWS], relays),
                complete=len(views) <= MOST_VIEWS,
            )

        return await self._context.read(tx)

    def _clients(
        self, conn: Connection, network: Row[Any], rows: Any, relays: Mapping[str, str]
    ) -> list[TopologyClient]:
        healths = self._reports.of(conn, [row.id for row in rows])
        presences = self._hub.presence.get(NetworkRef(network.ref), {})
        found = []
        for row in rows:
            known = healths.get(row.id, NOTHING_KNOWN)
            presence = presences.get(ClientID(row.id)) or Presence(client_id=ClientID(row.id), online=False)
            found.append(
                TopologyClient(
                    client_id=row.id,
                    name=row.name,
                    ip=str(ipaddress.IPv4Address(row.ip)),
                    online=presence.online,
                    relay=relays.get(presence.home or ""),
                    nat_type=known.nat_type,
                    capabilities=list(known.capabilities),
                    connection_type=known.connection_type,
                    latency_ms=known.latency_ms,
                )
            )
        return found

    def _views(self, conn: Connection, who: Principal, ref: str, client: str | None = None) -> Any:
        """Rows of pairs as their first side sees them, with the bytes of the last day; one more than are shown. `client`: its own."""
        if Permission.LOGS_VIEW not in permissions_in(conn, who, ref):
            return []
        p, c, peers, h, t = schema.pairs, schema.clients, schema.clients.alias(), schema.health, schema.traffic
        day = self._context.now() - dt.timedelta(days=1)
        own = sa.true() if sees_others(conn, who, ref) else c.c.owner_id == who.user_id
        theirs = sa.and_(t.c.client_id == p.c.client_id, t.c.peer_id == p.c.peer_id, t.c.hour >= day)
        rx, tx = (
            sa.select(sa.func.sum(column)).where(theirs).scalar_subquery() for column in (t.c.rx_bytes, t.c.tx_bytes)
        )
        query = (
            sa.select(p, rx.label("rx_bytes"), tx.label("tx_bytes"))
            .join(c, c.c.id == p.c.client_id)
            .join(peers, peers.c.id == p.c.peer_id)
            .join(h, h.c.client_id == p.c.client_id)
            .where(c.c.network_ref == ref, c.c.state == "approved", peers.c.state == "approved", own)
            .where(h.c.at >= self._reports.fresh())
            .order_by(p.c.client_id, p.c.peer_id)
        )
        if client is not None:
            query = query.where(sa.or_(p.c.client_id == client, p.c.peer_id == client))
        return conn.execute(query.limit(MOST_VIEWS + 1)).all()


def _own(who: Principal) -> sa.Select[Any]:
    c = schema.clients
    return sa.select(c.c.id).where(c.c.owner_id == who.user_id)


_Query = tuple[sa.Table, sa.Select[Any]]


def _queries(conn: Connection, network: Row[Any], wish: LogWish, own: sa.Select[Any] | None) -> list[_Query]:
    """Of each table the lines that are meant; `own`: the clients whose lines alone are seen."""
    t, o = schema.connection_logs, schema.controller_logs
    client, peer = (None if name is None else _client_id(conn, network, name) for name in (wish.client, wish.peer))
    found: list[_Query] = []
    if wish.source in (None, "client"):
        query = sa.select(t).where(t.c.network_ref == network.ref)
        if client is not None and peer is not None:
            ends = sa.tuple_(t.c.client_id, t.c.remote_peer_id)
            query = query.where(ends.in_([(client, peer), (peer, client)]))
        elif client is not None:
            query = query.where(t.c.client_id == client)
        elif peer is not None:
            query = query.where(t.c.remote_peer_id == peer)
        found.append((t, query))
    if wish.source in (None, "controller") and peer is None:
        query = sa.select(o).where(o.c.network_ref == network.ref)
        found.append((o, query if client is None else query.where(o.c.client_id == client)))
    if (
        wish.source in (None, "relay") and client is None and peer is None and own is None
    ):  # a relay is nobody's machine
        query = sa.select(o).where(o.c.network_ref.is_(None), o.c.timestamp >= network.created_at)
        found.append((o, query.where(o.c.relay_id.in_(relays_for(conn, [network])))))
    first = 0 if wish.since is None else _last_before(conn, network, wish.since)
    return [(table, query.where(*_of_time(table, wish, first, own))) for table, query in found]


def _of_time(table: sa.Table, wish: LogWish, first: int, own: sa.Select[Any] | None) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wish.since is not None:
        found += [table.c.timestamp >= wish.since, table.c.log_id > first]
    if wish.until is not None:
        found.append(table.c.timestamp < wish.until)
    if wish.event_type is not None:
        found.append(table.c.event_type == wish.event_type)
    if own is not None:
        found.append(table.c.client_id.in_(own))
    return found


def _last_before(conn: Connection, network: Row[Any], since: dt.datetime) -> int:
    """A number below those of all lines since then, found without looking at all that came before: a line is written at
    most MOST_AGO after what it tells of."""
    t = schema.connection_logs
    old = sa.select(t.c.log_id).where(t.c.network_ref == network.ref, t.c.timestamp < since - MOST_AGO)
    return conn.execute(old.order_by(t.c.timestamp.desc()).limit(1)).scalar() or 0


def _client_id(conn: Connection, network: Row[Any], name: str) -> str:
    """By id, also of one that was removed; else by name or address. Raises ShadowMeshError(client_unknown)."""
    c = schema.clients
    if is_id(name, "cli"):
        known = sa.select(c.c.id).where(c.c.id == name, c.c.network_ref == network.ref)
        if (found := conn.execute(known).scalar()) is not None:
            return str(found)
    return str(find_client(conn, network, name).id)


def _names(conn: Connection, ref: str) -> Mapping[str, str]:
    c = schema.clients
    return {row.id: row.name for row in conn.execute(sa.select(c.c.id, c.c.name).where(c.c.network_ref == ref))}


def all_relays(conn: Connection) -> Mapping[str, str]:
    """Names by id, also of those that were removed."""
    r = schema.relays
    return {row.id: row.name for row in conn.execute(sa.select(r.c.id, r.c.name))}


def log_line(row: Row[Any], names: Mapping[str, str], relays: Mapping[str, str]) -> ConnectionLog:
    """Of a row of either table."""
    of = row._mapping
    shared = {
        "log_id": row.log_id,
        "timestamp": row.timestamp,
        "client_id": row.client_id or "",
        "client_name": names.get(row.client_id, ""),
        "event_type": row.event_type,
    }
    if "source" in of:
        return ConnectionLog(
            **shared,
            remote_peer_id="",
            remote_peer_name="",
            path="",
            reason="",
            source=row.source,
            relay_id=row.relay_id,
            relay_name=relays.get(row.relay_id),
            detail=row.detail,
        )
    return ConnectionLog(
        **shared,
        remote_peer_id=row.remote_peer_id,
        remote_peer_name=names.get(row.remote_peer_id, ""),
        connection_type=row.connection_type,
        path=row.reason.partition(".")[0],
        reason=row.reason,
        latency_ms=row.latency_ms,
    )


def _pairs(rows: Any, relays: Mapping[str, str]) -> list[TopologyPair]:
    """With what each of both sides says."""
    views: dict[tuple[str, str], list[TopologyView]] = {}
    for row in rows:
        view = TopologyView(
            client_id=row.client_id,
            connection_type=connection_type(row.reason) or "",
            reason=row.reason,
            relay=relays.get(row.relay_id or ""),
            latency_ms=row.latency_ms,
            since=row.since,
            rx_bytes=row.rx_bytes,
            tx_bytes=row.tx_bytes,
        )
        low, high = sorted((row.client_id, row.peer_id))
        views.setdefault((low, high), []).append(view)
    return [_pair(ends, both) for ends, both in views.items()]


def _pair(ends: tuple[str, str], views: list[TopologyView]) -> TopologyPair:
    kinds = {view.connection_type for view in views}
    latencies = [view.latency_ms for view in views if view.latency_ms is not None]
    return TopologyPair(
        client_ids=list(ends),
        connection_type=kinds.pop() if len(kinds) == 1 else "hybrid",
        latency_ms=min(latencies, default=None),
        views=views,
    )
