"""Forwarding by the extension: its table is the one that counts, and its thread moves what goes from UDP to UDP.

What the thread leaves to Python comes by `drain`: datagrams that are no frames, frames that may not pass, and frames for WebSockets.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from shadowmesh.dataplane.pumps import EXTENSION, PumpName
from shadowmesh.relay.forwarding import Counters
from shadowmesh.relay.sessiontable import ClientSession, SessionTable, StreamAddr, Transport


def _place(transport: Transport) -> tuple[str | None, int]:
    return (None, transport.number) if isinstance(transport, StreamAddr) else (transport[0], transport[1])


class NativeForwarding:
    """See `forwarding.Forwarding`. Raises ImportError where the extension was not built."""

    name: PumpName = "native"

    def __init__(self, sessions: SessionTable, counters: Counters, capacity: float | None) -> None:
        self._sessions = sessions
        self._counters = counters
        self.forwarder: Any = import_module(EXTENSION).RelayForwarder(capacity)
        self._by_number: dict[int, ClientSession] = {}
        self._numbers: dict[bytes, int] = {}  # by the session's key
        self._lost = 0

    def put(self, session: ClientSession, old: ClientSession | None) -> None:
        self._by_number.pop(self._numbers.get(session.key, -1), None)
        limits = session.token.limits
        rates = limits.kbit, limits.network_kbit
        number = self.forwarder.put(session.key, *_place(session.transport), *rates, session.heard, old is not None)
        self._by_number[number] = session
        self._numbers[session.key] = number

    def remove(self, session: ClientSession) -> None:
        number = self._numbers.get(session.key, -1)
        if self._by_number.get(number) is session:
            self.forwarder.remove(number)
            del self._by_number[number], self._numbers[session.key]

    def begin(self, now: float) -> None:
        self.forwarder.begin(now)

    def route(self, prefix: bytes, source: Transport, frames: int, octets: int) -> ClientSession | None:
        number = self.forwarder.route(prefix, *_place(source), frames, octets)
        return None if number is None else self._by_number[number]

    def undelivered(self, dest: ClientSession, frames: int, octets: int) -> None:
        self.undelivered_to(self._numbers.get(dest.key, -1), frames, octets)

    def undelivered_to(self, number: int, frames: int, octets: int) -> None:
        """As `undelivered`, for a session that may have ended."""
        self.forwarder.undelivered(max(number, 0), frames, octets)

    def session(self, number: int) -> ClientSession | None:
        """The session that the extension calls so, if it still stands."""
        return self._by_number.get(number)

    def sync(self) -> None:
        counters = self._counters
        counters.forwarded_frames, counters.forwarded_bytes, counters.drop_queue, lost, _ = self.forwarder.totals()
        counters.drop_no_session += lost - self._lost  # a flood, too fast to be looked at
        self._lost = lost
        for number, heard, *counts in self.forwarder.sessions():
            session = self._by_number.get(number)
            if session is not None:
                session.heard = max(session.heard, heard)
                session.rx_frames, session.rx_bytes, session.tx_frames, session.tx_bytes = counts

    @property
    def short(self) -> bool:
        return bool(self.forwarder.totals()[4])
