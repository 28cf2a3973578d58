"""What a sink is to be sent: a stream of the database from a number on. The database is the spool: nothing is kept a second time.

Each stream is numbered in the order of commits, so who has been sent all up to a number misses none below it. What a stream
keeps no longer than its time is what bounds the disk, and what a receiver that is away for longer loses: that is counted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.auditing import audit_entry
from shadowmesh.controller.service.connectionviews import all_relays, log_line
from shadowmesh.controller.service.events import stored_event
from shadowmesh.controller.store import schema, sequences
from shadowmesh.controller.store.relayuse import relays_for
from shadowmesh.model.api import Answer
from shadowmesh.model.ids import NetworkRef


@dataclass(frozen=True, slots=True)
class Item:
    """`kind` is what happened; `content` what is told of it, as the API has it."""

    number: int
    at: dt.datetime
    kind: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Items after a number, oldest first; `upto`: all up to this number is in it, or isn't wanted. `lost`: so many numbers
    are kept no longer."""

    items: tuple[Item, ...]
    upto: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of which network (None: all), and of the stream of events which types (none: all)."""

    stream: str
    network: NetworkRef | None = None
    events: frozenset[str] = frozenset()


def newest(conn: Connection) -> dict[str, int]:
    """The last number of each stream."""
    head = schema.audit_head
    return {
        "events": sequences.newest(conn, sequences.EVENTS),
        "logs": sequences.newest(conn, sequences.CONNECTION_LOGS),
        "audit": int(conn.execute(sa.select(head.c.seq)).scalar_one()),
    }


def read_stream(conn: Connection, wanted: Wanted, after: int, most: int) -> Batch:
    """Up to `most` items."""
    last = newest(conn)[wanted.stream]
    if last <= after:  # or the database was put back to before: what comes is numbered on from there
        return Batch((), min(after, last))
    first = first_kept(conn, wanted.stream, last)
    lost = max(0, first - after - 1)
    items = _READERS[wanted.stream](conn, wanted, after, most)
    return Batch(tuple(items), items[-1].number if len(items) == most else last, lost)


def first_kept(conn: Connection, stream: str, last: int) -> int:
    """The number of the oldest one that is there; the one after `last` where none is."""
    tables = {
        "events": (schema.events.c.seq,),
        "logs": (schema.connection_logs.c.log_id, schema.controller_logs.c.log_id),
        "audit": (schema.audit.c.seq,),
    }
    found = [conn.execute(sa.select(sa.func.min(column))).scalar() for column in tables[stream]]
    return min((number for number in found if number is not None), default=last + 1)


def _events(conn: Connection, wanted: Wanted, after: int, most: int) -> list[Item]:
    t = schema.events
    query = sa.select(t).where(t.c.seq > after).order_by(t.c.seq).limit(most)
    if wanted.network is not None:
        query = query.where(sa.or_(t.c.network_ref == wanted.network, t.c.network_ref.is_(None)))
    if wanted.events:
        query = query.where(t.c.type.in_(wanted.events))
    names = _network_names(conn)
    items = []
    for row in conn.execute(query):
        event = stored_event(dict(row._mapping))
        told = _told(event) | {"network": names.get(event.network_id or "")}
        items.append(Item(event.seq, event.at, event.type, told))
    return items


def _logs(conn: Connection, wanted: Wanted, after: int, most: int) -> list[Item]:
    t, o = schema.connection_logs, schema.controller_logs
    rows: list[Row[Any]] = []
    for table in (t, o):
        query = sa.select(table).where(table.c.log_id > after).order_by(table.c.log_id).limit(most)
        if wanted.network is not None:
            own = table.c.network_ref == wanted.network
            query = query.where(own if table is t else sa.or_(own, _of_relays(conn, wanted.network)))
        rows += conn.execute(query)
    rows = sorted(rows, key=lambda row: row.log_id)[:most]
    c = schema.clients
    ids = {row.client_id for row in rows} | {getattr(row, "remote_peer_id", None) for row in rows}
    query = sa.select(c.c.id, c.c.name).where(c.c.id.in_(ids - {None}))
    clients = {row.id: row.name for row in conn.execute(query)}
    names, relays = _network_names(conn), all_relays(conn)
    return [
        Item(
            row.log_id,
            row.timestamp,
            row.event_type,
            _told(log_line(row, clients, relays))
            | {"network_id": row.network_ref, "network": names.get(row.network_ref)},
        )
        for row in rows
    ]


def _of_relays(conn: Connection, ref: NetworkRef) -> sa.ColumnElement[bool]:
    """A condition on `controller_logs`: what happened to the relays that this network uses, since there is such a network."""
    o, n = schema.controller_logs, schema.networks
    network = conn.execute(sa.select(n.c.ref, n.c.relay_id, n.c.created_at).where(n.c.ref == ref)).one()
    uses = o.c.relay_id.in_(relays_for(conn, [network]))
    return sa.and_(o.c.network_ref.is_(None), o.c.timestamp >= network.created_at, uses)


def _audit(conn: Connection, _wanted: Wanted, after: int, most: int) -> list[Item]:
    t = schema.audit
    rows = conn.execute(sa.select(t).where(t.c.seq > after).order_by(t.c.seq).limit(most))
    return [Item(row.seq, row.at, row.action, _told(audit_entry(row))) for row in rows]


def _told(answer: Answer) -> dict[str, Any]:
    return answer.model_dump(mode="json")


def _network_names(conn: Connection) -> Mapping[str, str]:
    n = schema.networks
    return {row.ref: row.name for row in conn.execute(sa.select(n.c.ref, n.c.name))}


_READERS = {"events": _events, "logs": _logs, "audit": _audit}
