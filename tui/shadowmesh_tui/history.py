"""Rates and recent history of one peer, from successive counters. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque

from shadowmesh.model.status import PeerStatus

RATE_WINDOW_S = 3.0
SAMPLE_S = 1.0
HISTORY_SAMPLES = 60


class PeerHistory:
    """`rx_rate` and `tx_rate` are bytes per second over the last three seconds, None while unknown.

    `latency` (ms), `rx` and `tx` (bytes/s) hold one sample per second, oldest first; None is a gap.
    """

    def __init__(self) -> None:
        self._counters: deque[tuple[float, int, int]] = deque()
        self._sampled_at: float | None = None
        self.rx_rate: float | None = None
        self.tx_rate: float | None = None
        self.latency: deque[float | None] = deque(maxlen=HISTORY_SAMPLES)
        self.rx: deque[float | None] = deque(maxlen=HISTORY_SAMPLES)
        self.tx: deque[float | None] = deque(maxlen=HISTORY_SAMPLES)

    def observe(self, peer: PeerStatus, at: float) -> None:
        """Takes in what the daemon says at `at`, seconds on a clock that never goes back."""
        self._count(peer, at)
        values = (peer.latency_ms if peer.path != "none" else None, self.rx_rate, self.tx_rate)
        if self._sampled_at is None:
            self._sampled_at = at
            self._append(values)
            return
        passed = int((at - self._sampled_at) / SAMPLE_S + 0.1)  # a sample may come a little early
        if passed == 0:
            for series, value in zip((self.latency, self.rx, self.tx), values, strict=True):
                series[-1] = value
            return
        for _ in range(min(passed - 1, HISTORY_SAMPLES)):
            self._append((None, None, None))
        self._append(values)
        self._sampled_at += passed * SAMPLE_S

    def _count(self, peer: PeerStatus, at: float) -> None:
        counters = self._counters
        if counters and (peer.rx_bytes < counters[-1][1] or peer.tx_bytes < counters[-1][2]):
            counters.clear()  # the daemon restarted and counts from zero
        counters.append((at, peer.rx_bytes, peer.tx_bytes))
        while len(counters) > 2 and counters[1][0] <= at - RATE_WINDOW_S:
            counters.popleft()
        first_at, first_rx, first_tx = counters[0]
        seconds = at - first_at
        if seconds <= 0:
            self.rx_rate = self.tx_rate = None
            return
        self.rx_rate = (peer.rx_bytes - first_rx) / seconds
        self.tx_rate = (peer.tx_bytes - first_tx) / seconds

    def _append(self, values: tuple[float | None, float | None, float | None]) -> None:
        for series, value in zip((self.latency, self.rx, self.tx), values, strict=True):
            series.append(value)
