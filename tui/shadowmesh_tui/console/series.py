"""The recent figures of a client, as the controller told them one after another. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque

from shadowmesh.model.api import Client

SAMPLES = 60
SAMPLE_S = 5.0


class Series:
    """`rx`, `tx` (bytes/s) and `latency` (ms): one sample each five seconds, oldest first; None is a gap."""

    def __init__(self) -> None:
        self.rx: deque[float | None] = deque(maxlen=SAMPLES)
        self.tx: deque[float | None] = deque(maxlen=SAMPLES)
        self.latency: deque[float | None] = deque(maxlen=SAMPLES)
        self._at: float | None = None

    def observe(self, client: Client, now: float) -> None:
        """What is told of it at `now`, seconds on a clock that never goes back. Within a sample's time the newest counts."""
        values = (client.rx_rate, client.tx_rate, client.latency_ms)
        passed = 1 if self._at is None else int((now - self._at) / SAMPLE_S + 0.1)
        for series, value in zip((self.rx, self.tx, self.latency), values, strict=True):
            if passed == 0:
                series[-1] = value
            else:
                series.extend([None] * min(passed - 1, SAMPLES))
                series.append(value)
        if self._at is None:
            self._at = now
        else:
            self._at += passed * SAMPLE_S
