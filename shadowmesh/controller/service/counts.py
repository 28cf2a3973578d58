"""What a controller counts while it works, for `/metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Histogram
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"shadowmesh_controller_{name}", text, labels, registry=None)


def _histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(f"shadowmesh_controller_{name}", text, labels, registry=None, buckets=_SECONDS)


class Counts:
    """Of this process, since its start."""

    def __init__(self) -> None:
        self.failed_sign_ins = _counter("failed_sign_ins", "Sign-ins that were refused, by error code", "code")
        self.database_errors = _counter("database_errors", "Transactions that the database failed")
        self.deliveries = _counter("deliveries", "Attempts to send to webhooks and syslog", "kind", "ok")
        self.told = _histogram("told_seconds", "From a committed change of a map until all who are connected were told")
        self.requests = _histogram("request_seconds", "REST requests", "method", "status")

    def collectors(self) -> tuple[Collector, ...]:
        return (self.failed_sign_ins, self.database_errors, self.deliveries, self.told, self.requests)
