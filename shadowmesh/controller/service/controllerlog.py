"""What the controller and its relays did, as lines of the log: the events that watchers are told, kept as long as the log is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema, sequences

_TOLD_BY_DEVICES = frozenset({"connection_upgrade"})  # these are in the log already


def keep_in_log(conn: Connection, events: Sequence[Mapping[str, Any]]) -> None:
    """`events`: as they are stored, with at, type, network_ref and data."""
    lines = [_line(event) for event in events if event["type"] not in _TOLD_BY_DEVICES]
    if lines:
        first = sequences.take(conn, sequences.CONNECTION_LOGS, len(lines))
        conn.execute(schema.controller_logs.insert(), [line | {"log_id": first + i} for i, line in enumerate(lines)])


def _line(event: Mapping[str, Any]) -> dict[str, Any]:
    detail = dict(event["data"])
    client_id, relay_id = detail.pop("client_id", None), detail.pop("relay_id", None)
    return {
        "network_ref": event["network_ref"],
        "source": "controller" if relay_id is None else "relay",
        "event_type": event["type"],
        "client_id": client_id,
        "relay_id": relay_id,
        "detail": detail,
        "timestamp": event["at"],
    }
