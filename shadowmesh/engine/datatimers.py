"""WireGuard's timers of one active peer (paper, sections 6.2 to 6.5), from what the pump counts of its data."""

from __future__ import annotations

from math import floor, inf

from shadowmesh.engine.handshake import KEEPALIVE_TIMEOUT, REKEY_TIMEOUT
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.surroundings import Surroundings
from shadowmesh.model.pump import Arm, Edges, Keepalive, PeerIndex

POLL = 3.0  # seconds between two looks at an active peer's counters
POLL_SHIFTS = 16  # the polls of very many peers are spread over so many moments …
SHARE_A_POLL = 256  # … of so many peers each; else a node's peers share one turn
QUIET = 10.0  # seconds without data after which a peer is no longer polled until the pump tells of new data
NO_ANSWER = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT


class DataTimers:
    """Times are CLOCK_BOOTTIME seconds, -inf for never. `deadline`: when `poll` is wanted."""

    __slots__ = (
        "_armed", "_index", "_outbox", "_poll_at", "_rx_since", "_surroundings", "_tx_since", "deadline", "last_rx",
        "last_rx_any", "last_tx",
    )  # fmt: skip

    def __init__(self, index: PeerIndex, surroundings: Surroundings, outbox: Outbox) -> None:
        self._index = index
        self._surroundings = surroundings
        self._outbox = outbox
        self.last_tx = -inf  # data sent …
        self.last_rx = -inf  # … and received
        self.last_rx_any = -inf  # anything authenticated received, keepalives too
        self.deadline = inf
        self._armed = False
        self._poll_at = inf
        self._rx_since = inf  # data came and nothing was sent since
        self._tx_since = inf  # data was sent and nothing came since

    @property
    def last(self) -> float:
        """When data went either way last."""
        return max(self.last_tx, self.last_rx)

    def arm(self) -> None:
        """The pump is to tell of the next data."""
        if not self._armed:
            self._armed = True
            self._outbox.emit(Arm(self._index, Edges.TX_DATA | Edges.RX_DATA))

    def edge(self, which: Edges, now: float) -> None:
        """The first data after a silence; `poll` is to follow."""
        self._armed = False
        if which & Edges.TX_DATA:
            self.last_tx = max(self.last_tx, now)
        if which & Edges.RX_DATA:
            self.last_rx = max(self.last_rx, now)

    def start_polling(self, now: float) -> None:
        if self._poll_at == inf:
            self._poll_at = self._next_poll(now)
            self._settle()

    def forgive(self) -> None:
        """A session came of it, or none will: an answer to data sent before is awaited no longer."""
        self._tx_since = inf
        self._settle()

    def poll(self, now: float) -> bool:
        """Reads the counters. Sends a keepalive if one is due; returns whether a new handshake is."""
        self._read()
        handshake_due = self._no_answer(now)
        self._keepalive(now)
        if now - self.last < QUIET or self._rx_since < inf or self._tx_since < inf or not self._armed:
            if now - self.last >= QUIET:
                self.arm()  # and one more poll, for what came between reading and arming
            self._poll_at = self._next_poll(now)
        else:
            self._poll_at = inf
        self._settle()
        return handshake_due

    def read(self) -> float:
        """When data went either way last, by the counters of this moment."""
        self._read()
        return self.last

    def _read(self) -> None:
        counters = self._surroundings.counters
        times = counters.times(self._index) if counters is not None else None
        if times is not None:
            tx, rx, rx_any = times
            if tx:
                self.last_tx = max(self.last_tx, tx / 1e9)
            if rx:
                self.last_rx = max(self.last_rx, rx / 1e9)
            if rx_any:
                self.last_rx_any = rx_any / 1e9
        self.last_rx_any = max(self.last_rx_any, self.last_rx)

    def _keepalive(self, now: float) -> None:
        """Paper, section 6.5: data came and nothing was sent for ten seconds."""
        if self.last_tx >= self._rx_since:
            self._rx_since = inf
        if self._rx_since == inf and self.last_rx > self.last_tx and now - self.last_rx < POLL:
            self._rx_since = self.last_rx
        if now >= self._rx_since + KEEPALIVE_TIMEOUT:
            self._rx_since = inf
            self._outbox.emit(Keepalive(self._index))

    def _no_answer(self, now: float) -> bool:
        """Paper, section 6.4: data was sent and nothing came for fifteen seconds."""
        if self.last_rx_any >= self._tx_since:
            self._tx_since = inf
        if self._tx_since == inf and self.last_tx > self.last_rx_any and now - self.last_tx < POLL:
            self._tx_since = self.last_tx
        if now < self._tx_since + NO_ANSWER:
            return False
        self._tx_since = inf
        return True

    def _next_poll(self, now: float) -> float:
        """The next moment on a grid that is one for all peers of a node: waking once for all costs least."""
        shift = POLL / POLL_SHIFTS * (self._index // SHARE_A_POLL % POLL_SHIFTS) + self._surroundings.poll_offset
        return (floor((now - shift) / POLL + 0.001) + 1) * POLL + shift

    def _settle(self) -> None:
        self.deadline = min(self._poll_at, self._rx_since + KEEPALIVE_TIMEOUT, self._tx_since + NO_ANSWER)
