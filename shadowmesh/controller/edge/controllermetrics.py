"""The page at `/metrics`: what this node counts, and what one has to be woken for. Networks and relays stand there by id, people not at all."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh.controller.service.services import Services
from shadowmesh.controller.store import schema
from shadowmesh.model.errors import ShadowMeshError

_P = "shadowmesh_controller_"


@dataclass(slots=True)
class _Stored:
    """What is read of the database for a page."""

    relays: int = 0
    draining: list[str] = field(default_factory=list)  # ids
    pending: int = 0  # clients that wait for approval
    audit_entries: int = 0


class ControllerMetrics:
    """`certificate_ends`: when the certificate that is served by ends; None if it can't be read."""

    def __init__(self, at: Services, certificate_ends: Callable[[], dt.datetime | None]) -> None:
        self._at = at
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._live = _Live(at, certificate_ends)
        self._registry.register(self._live)
        for counted in at.context.counts.collectors():
            self._registry.register(counted)

    async def page(self) -> bytes:
        """Without what the database says while it doesn't answer; `…_database_up` is 0 then."""
        try:
            self._live.stored = await self._at.context.read(_stored)
        except ShadowMeshError:
            self._live.stored = None
        return generate_latest(self._registry)


def _stored(conn: Connection) -> _Stored:
    r, c, head = schema.relays, schema.clients, schema.audit_head
    rows = conn.execute(sa.select(r.c.id, r.c.draining).where(r.c.removed_at.is_(None))).all()
    waiting = sa.select(sa.func.count()).select_from(c).where(c.c.state == "pending")
    return _Stored(
        relays=len(rows),
        draining=[row.id for row in rows if row.draining],
        pending=conn.execute(waiting).scalar_one(),
        audit_entries=conn.execute(sa.select(head.c.seq)).scalar_one(),
    )


class _Live(Collector):
    def __init__(self, at: Services, certificate_ends: Callable[[], dt.datetime | None]) -> None:
        self._at = at
        self._certificate_ends = certificate_ends
        self.stored: _Stored | None = None

    def collect(self) -> Iterator[Metric]:
        yield from self._connections()
        yield from self._relays()
        yield from self._health()
        yield from self._waiting()

    def _connections(self) -> Iterator[Metric]:
        hub = self._at.hub
        yield GaugeMetricFamily(f"{_P}devices", "Devices connected", len(hub.devices))
        online = sum(map(len, hub.networks.values()))
        yield GaugeMetricFamily(f"{_P}memberships", "Clients online, over all networks", online)
        by_network = GaugeMetricFamily(f"{_P}clients_online", "Clients online here, by network", labels=["network"])
        for live in self._at.maps:
            by_network.add_metric([live.ref], hub.online(live.ref))
        yield by_network
        yield GaugeMetricFamily(f"{_P}maps", "Network maps in memory", sum(1 for _ in self._at.maps))
        for what, counts in zip(("connection", "NAT"), self._at.reports.count(), strict=True):
            name = f"{_P}clients_by_{what.lower()}_type"
            yield _by(name, f"Clients that report here, by {what} type", "type", counts)

    def _relays(self) -> Iterator[Metric]:
        links = self._at.hub.relays
        yield GaugeMetricFamily(f"{_P}relays", "Relays connected here", len(links))
        for name, text, values in (
            (
                "relay_sessions",
                "Sessions of clients at a relay",
                {i: r.load.sessions for i, r in links.items() if r.load},
            ),
            ("relay_cpu", "Of one core, 0 to 1", {i: r.load.cpu for i, r in links.items() if r.load}),
            (
                "relay_overloaded",
                "1 while a relay says that it can't do its work",
                {i: int(r.load.overloaded) for i, r in links.items() if r.load},
            ),
        ):
            yield _by(f"{_P}{name}", text, "relay", values)
        forwarded = CounterMetricFamily(f"{_P}relay_forwarded_bytes", "Passed on since it started", labels=["relay"])
        for relay_id, link in links.items():
            if link.load is not None:
                forwarded.add_metric([relay_id], link.load.forwarded_bytes)
        yield forwarded
        if self.stored is not None:
            yield GaugeMetricFamily(f"{_P}relays_registered", "Relays that there are", self.stored.relays)
            yield GaugeMetricFamily(f"{_P}relays_draining", "Relays that are drained", len(self.stored.draining))

    def _health(self) -> Iterator[Metric]:
        context, audit = self._at.context, self._at.audit.health
        yield GaugeMetricFamily(f"{_P}database_up", "1 if the database answered just now", int(self.stored is not None))
        yield GaugeMetricFamily(
            f"{_P}audit_chain_ok", "1 while the audit log's chain holds, as it was last looked at", int(audit.ok)
        )
        yield GaugeMetricFamily(
            f"{_P}audit_chain_checked_entries", "Entries that were looked at since the last beginning", audit.checked
        )
        if audit.at is not None:
            yield GaugeMetricFamily(f"{_P}audit_chain_checked", "When, Unix time", audit.at.timestamp())
        if self.stored is not None:
            yield GaugeMetricFamily(f"{_P}audit_entries", "Entries of the audit log", self.stored.audit_entries)
            yield GaugeMetricFamily(f"{_P}clients_pending", "Clients that wait for approval", self.stored.pending)
        if (redis := context.limits.redis) is not None:
            yield GaugeMetricFamily(f"{_P}redis_up", "1 if Redis answered just now", int(redis.up))
            yield CounterMetricFamily(
                f"{_P}attempts_without_redis",
                "Rate limits that were looked at without Redis, as it was away",
                redis.missed,
            )
        ends = self._certificate_ends()
        if ends is not None:
            yield GaugeMetricFamily(f"{_P}certificate_ends", "Of the served certificate, Unix time", ends.timestamp())
        yield GaugeMetricFamily(f"{_P}clock", "The controller's time, Unix time", context.now().timestamp())

    def _waiting(self) -> Iterator[Metric]:
        at = self._at
        waiting = {"transactions": at.context.store.waiting, "events": at.events.waiting, "reports": at.reports.waiting}
        yield _by(f"{_P}waiting", "What waits in this process to be written", "what", waiting)
        behind = GaugeMetricFamily(
            f"{_P}sink_waiting",
            "Numbers of its stream that a webhook or syslog is behind",
            labels=["sink", "kind", "stream"],
        )
        failing = GaugeMetricFamily(
            f"{_P}sink_failing_seconds", "For how long a receiver has failed", labels=["sink", "kind"]
        )
        dropped = CounterMetricFamily(
            f"{_P}sink_dropped", "What was kept no longer than it was away", labels=["sink", "kind"]
        )
        now = at.context.now()
        for row, number, lost in at.delivery.standing():
            behind.add_metric([row.id, row.kind, row.stream], number)
            since = row.failing_since
            failing.add_metric([row.id, row.kind], 0 if since is None else (now - since).total_seconds())
            dropped.add_metric([row.id, row.kind], lost)
        yield from (behind, failing, dropped)


def _by(name: str, text: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family


class RequestTimes:
    """How long requests take, by method and the first digit of their status. What is asked, and by whom, isn't kept."""

    _METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

    def __init__(self, app: ASGIApp, at: Services) -> None:
        self._app = app
        self._seconds = at.context.counts.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"] if scope["method"] in self._METHODS else "other"
            self._seconds.labels(method, f"{status // 100}xx").observe(time.monotonic() - began)
