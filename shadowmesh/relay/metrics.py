"""The relay's counters as Prometheus reads them. Nothing about single clients or networks: the page is public."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from shadowmesh.model.clock import Now
from shadowmesh.relay.relaycore import RelayCore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RelayMetrics:
    """A collector over one core."""

    def __init__(self, core: RelayCore, clock: Callable[[], Now], connections: Callable[[], int]) -> None:
        self._core = core
        self._clock = clock
        self._connections = connections
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> str:
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterable[Metric]:
        core, counters = self._core, self._core.counters
        yield GaugeMetricFamily("shadowmesh_relay_sessions", "Sessions of clients.", len(core.sessions))
        yield GaugeMetricFamily("shadowmesh_relay_networks", "Networks that these belong to.", core.sessions.networks())
        yield GaugeMetricFamily("shadowmesh_relay_connections", "WebSocket connections.", self._connections())
        yield GaugeMetricFamily(
            "shadowmesh_relay_controller_heard",
            "1 while the controller was heard within 60 s.",
            core.fresh(self._clock()),
        )
        yield GaugeMetricFamily(
            "shadowmesh_relay_capacity_short", "1 while clients want more than the capacity.", core.forwarding.short
        )
        yield CounterMetricFamily("shadowmesh_relay_forwarded_frames", "Frames passed on.", counters.forwarded_frames)
        yield CounterMetricFamily(
            "shadowmesh_relay_forwarded_bytes", "Bytes of these, with their headers.", counters.forwarded_bytes
        )
        drops = CounterMetricFamily("shadowmesh_relay_dropped_frames", "Frames not passed on.", labels=["cause"])
        for cause in ("no_session", "foreign", "no_peer", "quota", "queue"):
            drops.add_metric([cause], getattr(counters, f"drop_{cause}"))
        yield drops
        yield CounterMetricFamily("shadowmesh_relay_malformed", "Messages that are none.", counters.malformed)
        ends = CounterMetricFamily("shadowmesh_relay_sessions_ended", "Sessions that ended.", labels=["cause"])
        for cause in ("expired", "revoked", "replaced"):
            ends.add_metric([cause], getattr(counters, cause))
        yield ends
        yield CounterMetricFamily("shadowmesh_relay_welcomes", "Sessions begun or renewed.", counters.welcomed)
        refused = CounterMetricFamily("shadowmesh_relay_refusals", "Logins refused.", labels=["code"])
        for code, number in counters.refused.items():
            refused.add_metric([code], number)
        yield refused
        yield InfoMetricFamily("shadowmesh_relay_pump", "Who forwards.", {"pump": core.forwarding.name})
        yield CounterMetricFamily("shadowmesh_relay_cpu_seconds", "Processor time used.", time.process_time())
