"""The recent figures of a client, as the controller told them one after another. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque

from shadowmesh.model.api import Client, Relay

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


class RelayRate:
    """What a relay forwards, of one report to the next: `now` (bytes/s; None: not known), and those before it, oldest first."""

    def __init__(self) -> None:
        self.bytes: deque[float | None] = deque(maxlen=SAMPLES)
        self._last: tuple[float, int] | None = None

    @property
    def now(self) -> float | None:
        return self.bytes[-1] if self.bytes else None

    def observe(self, relay: Relay) -> None:
        """A report that was seen already tells nothing; after a start of the relay its counters begin anew."""
        if relay.load is None or not relay.online:
            if self._last is not None:
                self._last = None
                self.bytes.append(None)
            return
        at, count = relay.load.at.timestamp(), relay.load.forwarded_bytes
        if self._last is not None and at > self._last[0]:
            moved = count - self._last[1]
            self.bytes.append(moved / (at - self._last[0]) if moved >= 0 else None)
        if self._last is None or at > self._last[0]:
            self._last = at, count
