"""Which frame goes where, counted and kept within everyone's budget: the part of the core that traffic goes through.

Two of one behaviour: `PythonForwarding`, and `native.NativeForwarding`, whose table a thread of the extension shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.relay.fairness import Allotment
from shadowmesh.relay.sessiontable import ClientSession, SessionTable, Transport

_BOUND = 65536  # entries of the table of routes, which clients can fill; a full one is emptied


@dataclass(slots=True)
class Counters:
    """Since the relay's start. Drops are frames, by cause."""

    forwarded_frames: int = 0
    forwarded_bytes: int = 0
    drop_no_session: int = 0  # from a transport without any session
    drop_foreign: int = 0  # NetworkID or SourceIP is not the session's own
    drop_no_peer: int = 0
    drop_quota: int = 0
    drop_queue: int = 0  # the receiver takes them too slowly, or the socket is full
    malformed: int = 0
    hellos: int = 0
    welcomed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    expired: int = 0
    revoked: int = 0

    @property
    def dropped_frames(self) -> int:
        return self.drop_no_session + self.drop_foreign + self.drop_no_peer + self.drop_quota + self.drop_queue


class Forwarding(Protocol):
    """See the module. Sessions are told with `put` and `remove`, as they change in the core's own table."""

    name: PumpName

    def put(self, session: ClientSession, old: ClientSession | None) -> None:
        """`session` stands from now on, instead of any with its key; `old`: that of the same device, whose counts it goes on with."""

    def remove(self, session: ClientSession) -> None:
        """It has ended."""

    def begin(self, now: float) -> None:
        """The boot time of what follows; once per batch is enough."""

    def route(self, prefix: bytes, source: Transport, frames: int, octets: int) -> ClientSession | None:
        """The session that frames go to, counted as forwarded; None if they may not pass."""

    def undelivered(self, dest: ClientSession, frames: int, octets: int) -> None:
        """What `route` counted as forwarded didn't get out."""

    def sync(self) -> None:
        """Brings the counters and what the sessions say of their traffic up to date."""

    @property
    def short(self) -> bool:
        """Whether clients together want more than the capacity."""


class PythonForwarding:
    """Counts in the sessions and counters themselves."""

    name: PumpName = "python"

    def __init__(self, sessions: SessionTable, counters: Counters, capacity: float | None) -> None:
        self._sessions = sessions
        self._counters = counters
        self._allotment = Allotment(capacity)
        self._routes: dict[bytes, tuple[ClientSession, ClientSession]] = {}
        self._now = 0.0

    def put(self, session: ClientSession, old: ClientSession | None) -> None:
        if old is not None:
            session.rx_frames, session.rx_bytes = old.rx_frames, old.rx_bytes
            session.tx_frames, session.tx_bytes = old.tx_frames, old.tx_bytes
            session.window, session.budget, session.granted = old.window, old.budget, old.granted
            session.credit, session.offered = old.credit, old.offered

    def remove(self, session: ClientSession) -> None:
        """`live` says it."""

    def begin(self, now: float) -> None:
        self._now = now
        self._allotment.advance(now)

    def route(self, prefix: bytes, source: Transport, frames: int, octets: int) -> ClientSession | None:
        pair = self._routes.get(prefix)
        if pair is None or not (pair[0].live and pair[1].live):
            pair = self._find(prefix)
            if pair is None:
                return None
        session, dest = pair
        if session.transport != source or not self._allotment.spend(session, octets):
            return None
        session.heard = self._now
        session.rx_frames += frames
        session.rx_bytes += octets
        dest.tx_frames += frames
        dest.tx_bytes += octets
        self._counters.forwarded_frames += frames
        self._counters.forwarded_bytes += octets
        return dest

    def _find(self, prefix: bytes) -> tuple[ClientSession, ClientSession] | None:
        if len(self._routes) >= _BOUND:
            self._routes.clear()
        session = self._sessions.by_key.get(prefix[4:40])
        dest = self._sessions.by_key.get(prefix[4:36] + prefix[40:44])
        if session is None or dest is None:
            self._routes.pop(prefix, None)
            return None
        pair = self._routes[prefix] = (session, dest)
        return pair

    def undelivered(self, dest: ClientSession, frames: int, octets: int) -> None:
        dest.tx_frames -= frames
        dest.tx_bytes -= octets
        self._counters.forwarded_frames -= frames
        self._counters.forwarded_bytes -= octets
        self._counters.drop_queue += frames

    def sync(self) -> None:
        """All is up to date; routes of sessions that have ended needn't stay."""
        if len(self._routes) > 4 * len(self._sessions) + 1024:
            self._routes = {p: r for p, r in self._routes.items() if r[0].live and r[1].live}

    @property
    def short(self) -> bool:
        return self._allotment.short
