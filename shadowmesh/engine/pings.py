"""`ping`: measures the way that data takes, by disco through that very way; a plain WireGuard peer by a handshake."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from shadowmesh.engine.handshake import Handshake
from shadowmesh.model.clock import Now
from shadowmesh.paths.peerpath import PeerPath

RETRY = 0.1  # seconds until another try where there was no way at all to send on


@dataclass(slots=True, eq=False)
class _Try:
    token: int
    started: float
    ends: float
    tx_ids: set[bytes] = field(default_factory=set)
    next_at: float = inf
    handshake: bool = False


class Finished(NamedTuple):
    """The end of one ping. `latency`: seconds, None if nothing answered in time. `direct`: the answer came so."""

    token: int
    latency: float | None = None
    direct: bool = False


class Pings:
    """The pings of one peer that are under way. What ends them returns them."""

    __slots__ = ("_handshake", "_path", "_tries", "deadline")

    def __init__(self, handshake: Handshake, path: PeerPath) -> None:
        self._handshake = handshake
        self._path = path
        self._tries: list[_Try] = []
        self.deadline = inf

    def start(self, token: int, now: Now, timeout: float) -> None:
        attempt = _Try(token, now.boot, now.boot + timeout)
        self._tries.append(attempt)
        if not self._handshake.live(now.boot) and self._path.plain is None:
            self._handshake.initiate(now)
        self._send(attempt, now)
        self._settle()

    def _send(self, attempt: _Try, now: Now) -> None:
        attempt.next_at = inf
        if self._path.plain is not None:
            attempt.handshake = True
            self._handshake.initiate(now)
            return
        attempt.tx_ids |= set(self._path.probe_now(now.boot))
        if attempt.tx_ids:
            attempt.started = now.boot
        else:
            attempt.next_at = now.boot + RETRY

    def pong(self, tx_id: bytes, rtt: float, *, direct: bool) -> list[Finished]:
        return self._finish([t for t in self._tries if tx_id in t.tx_ids][:1], rtt, direct=direct)

    def handshake_answered(self, now: Now) -> list[Finished]:
        finished: list[Finished] = []
        for attempt in [t for t in self._tries if t.handshake]:
            finished += self._finish([attempt], now.boot - attempt.started, direct=True)
        return finished

    def on_timer(self, now: Now) -> list[Finished]:
        """Tries again where there was no way; ends what waited long enough."""
        for attempt in self._tries:
            if attempt.next_at <= now.boot < attempt.ends:
                self._send(attempt, now)
        return self._finish([t for t in self._tries if now.boot >= t.ends])

    def close(self) -> list[Finished]:
        """Ends all, unanswered."""
        return self._finish(list(self._tries))

    def _finish(self, attempts: list[_Try], latency: float | None = None, *, direct: bool = False) -> list[Finished]:
        self._tries = [t for t in self._tries if t not in attempts]
        self._settle()
        return [Finished(t.token, latency, direct) for t in attempts]

    def _settle(self) -> None:
        self.deadline = min((min(t.ends, t.next_at) for t in self._tries), default=inf)
