"""The shapes of the REST API that are about how clients are connected: the log of it, and the topology."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from shadowmesh.model.api import Answer, Reporting

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FIRST_MOMENT, _LAST_MOMENT = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


def _rfc3339(value: object) -> object:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("is no time of RFC 3339, such as 2026-01-31T12:00:00Z")
    return value


def _within_reason(moment: datetime) -> datetime:
    """What is before or after all that a controller knows is as good as its ends, and these are times in any zone."""
    return min(max(moment, _FIRST_MOMENT), _LAST_MOMENT)


Moment = Annotated[datetime, BeforeValidator(_rfc3339), AfterValidator(_within_reason)]
ConnectionEvent = Literal["connect", "disconnect", "upgrade_p2p", "fallback_relay", "reason"]
ControllerEvent = Literal[
    "client_online",
    "client_offline",
    "client_pending",
    "client_removed",
    "network_changed",
    "relay_changed",
    "quota_warning",
    "quota_reached",
]
LogSource = Literal["client", "controller", "relay"]


class ConnectionLog(Answer):
    """One line of a network's log. Of the source `client`: a change of a pair, as `client_id` told it; `path` is direct,
    relay or none, and of `reason`s there is a page each. Of `controller` and `relay`: what these did, with its `detail`;
    what a line isn't about is empty."""

    log_id: int
    timestamp: datetime
    client_id: str
    client_name: str
    remote_peer_id: str
    remote_peer_name: str
    event_type: str  # ConnectionEvent or ControllerEvent, and what newer controllers add
    connection_type: str | None = None  # p2p, relay; None: not in use any more
    path: str
    reason: str
    latency_ms: float | None = None
    source: str = "client"  # LogSource
    relay_id: str | None = None
    relay_name: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class TopologyRelay(Answer):
    relay_id: str
    name: str
    region: str = ""
    online: bool


class TopologyClient(Answer):
    """`connection_type` over its peers in use: p2p, relay, hybrid; None: there are none, or it doesn't say."""

    client_id: str
    name: str
    ip: str
    online: bool
    relay: str | None = None  # the home relay's name
    nat_type: str | None = None
    capabilities: list[str]
    connection_type: str | None = None
    latency_ms: float | None = None


class TopologyView(Answer):
    """A pair as one side sees it. Bytes are those of the last day, where the network has them reported."""

    client_id: str
    connection_type: str
    reason: str
    relay: str | None = None
    latency_ms: float | None = None
    since: datetime
    rx_bytes: int | None = None
    tx_bytes: int | None = None


class TopologyPair(Answer):
    """`hybrid`: each side sends another way."""

    client_ids: list[str]
    connection_type: str
    latency_ms: float | None = None
    views: list[TopologyView]


class Topology(Answer):
    """`pairs`: those in use, as far as one may read the logs; not `complete` where they are too many."""

    network_id: str  # net_…
    name: str
    reports: Reporting
    controllers: list[str]  # their URLs
    relays: list[TopologyRelay]
    clients: list[TopologyClient]
    pairs: list[TopologyPair]
    complete: bool = True
