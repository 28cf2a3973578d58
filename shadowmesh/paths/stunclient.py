"""Whom to ask by STUN and when: keeps reflexive addresses, round trips and the NAT verdict up to date. Sans-I/O.

For each socket two servers are asked, on two hosts where there are two, else on two ports of one. Before a server's
second port is ever sent to, its first is asked once to answer from there: what arrives tells how the NAT filters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import Slot
from shadowmesh.paths.candidates import HostView, LocalSocket
from shadowmesh.paths.netcheck import NatVerdict, verdict

RETRANSMITS = (0.0, 0.25, 0.75, 1.75, 3.0)  # seconds after the first request
GIVE_UP = 4.0
REFRESH = 60.0
REFRESH_JITTER = 10.0
FILTER_TRIES = (0.0, 0.3, 0.6)
FILTER_GIVE_UP = 1.2


class Ask(NamedTuple):
    """Send a binding request. `change_port`: ask the server to answer from its other port (RFC 5780, section 7.2)."""

    slot: Slot
    server: SockAddr
    tx_id: bytes
    change_port: bool


@dataclass(slots=True, eq=False)
class _Request:
    slot: Slot
    server: SockAddr
    tx_id: bytes
    started: float
    change_port: bool = False
    sent: int = 0
    last_sent: float = 0.0

    @property
    def schedule(self) -> tuple[float, ...]:
        return FILTER_TRIES if self.change_port else RETRANSMITS

    @property
    def due(self) -> float:
        if self.sent < len(self.schedule):
            return self.started + self.schedule[self.sent]
        return self.started + (FILTER_GIVE_UP if self.change_port else GIVE_UP)


@dataclass(slots=True, eq=False)
class _SocketState:
    answers: dict[SockAddr, SockAddr] = field(default_factory=dict)
    unanswered: set[SockAddr] = field(default_factory=set)
    other_port_arrived: bool | None = None
    asked: set[SockAddr] = field(default_factory=set)


class StunClient:
    """All STUN questions of one node."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._servers: tuple[SockAddr, ...] = ()
        self._sockets: tuple[LocalSocket, ...] = ()
        self._states: dict[Slot, _SocketState] = {}
        self._requests: dict[bytes, _Request] = {}
        self._asks: list[Ask] = []
        self._refresh_at = inf
        self._rotation = 0
        self.rtt: dict[SockAddr, float] = {}
        """Last round trip to each server, in seconds."""

    @property
    def deadline(self) -> float:
        return min((r.due for r in self._requests.values()), default=inf) if self._requests else self._refresh_at

    def take(self) -> list[Ask]:
        asks, self._asks = self._asks, []
        return asks

    @property
    def reflexive(self) -> tuple[SockAddr, ...]:
        """Reflexive addresses of all sockets, the newest of each server, each once."""
        seen = [a for state in self._states.values() for a in state.answers.values()]
        return tuple(dict.fromkeys(seen))

    def verdict(self, view: HostView) -> NatVerdict:
        """Of the IPv4 socket (the first one), else of any."""
        sockets = sorted(self._sockets, key=lambda s: s.ipv6)
        for sock in sockets:
            state = self._states.get(sock.slot)
            if state is not None:
                return verdict(view, state.answers, state.unanswered, state.other_port_arrived)
        return NatVerdict()

    @property
    def settled(self) -> bool:
        """Whether no question is open."""
        return not self._requests

    def configure(self, servers: Sequence[SockAddr], sockets: Sequence[LocalSocket], now: float) -> None:
        """The servers known and the sockets to ask from. A change asks anew."""
        new = (tuple(dict.fromkeys(servers)), tuple(sockets))
        if new == (self._servers, self._sockets):
            return
        self._servers, self._sockets = new
        slots = {s.slot for s in sockets}
        self._states = {slot: state for slot, state in self._states.items() if slot in slots}
        for state in self._states.values():
            state.answers = {k: v for k, v in state.answers.items() if k in self._servers}
            state.unanswered &= set(self._servers)
        self.ask_all(now)

    def ask_all(self, now: float) -> None:
        """Asks for everything anew: at start, after a network change, after waking."""
        self._requests.clear()
        for sock in self._sockets:
            state = self._states.setdefault(sock.slot, _SocketState())
            first, second = self._choose(sock)
            if first is not None:
                self._ask(sock.slot, first, now)
            if second is not None and second.host != (first.host if first else ""):
                self._ask(sock.slot, second, now)
            state.unanswered.clear()
        jitter = self._rng.uniform(-REFRESH_JITTER, REFRESH_JITTER)
        self._refresh_at = now + REFRESH + jitter if self._servers else inf

    def answered(self, tx_id: bytes, mapped: SockAddr, slot: Slot, source: SockAddr | None, now: float) -> bool:
        """An answer came. Returns whether a reflexive address changed by it."""
        request = self._requests.get(tx_id)
        if request is None or request.slot != slot:
            return False
        state = self._states.get(slot)
        if state is None:
            return False
        del self._requests[tx_id]
        if request.change_port:
            state.other_port_arrived = source is not None and source != request.server
            self._ask_second(request, state, now)
            return False
        before = self.reflexive
        if request.sent == 1:
            self.rtt[request.server] = now - request.last_sent
        old = state.answers.get(request.server, mapped)
        if len(set(state.answers.values())) > 1 and old.host == mapped.host:
            old = mapped  # behind a symmetric NAT a port says nothing
        if old != mapped:  # another NAT, or another mapping: nothing older is worth anything
            state.answers.clear()
            state.answers[request.server] = mapped
            self.ask_all(now)
            return True
        state.answers[request.server] = mapped
        state.unanswered.discard(request.server)
        self._probe_filter(request, state, now)
        return self.reflexive != before

    def tick(self, now: float) -> bool:
        """Retransmits, gives up, refreshes. Returns whether something was given up, so that the verdict may differ."""
        gave_up = False
        for request in [r for r in self._requests.values() if r.due <= now]:
            if request.sent < len(request.schedule):
                self._transmit(request, now)
                continue
            del self._requests[request.tx_id]
            state = self._states.get(request.slot)
            if state is None:
                continue
            gave_up = True
            if request.change_port:
                state.other_port_arrived = False
                self._ask_second(request, state, now)
            else:
                state.answers.pop(request.server, None)
                state.unanswered.add(request.server)
        if now >= self._refresh_at:
            self._rotation += 1
            self._refresh_at = now + REFRESH + self._rng.uniform(-REFRESH_JITTER, REFRESH_JITTER)
            for sock in self._sockets:
                first, second = self._choose(sock)
                server = second if self._rotation % 2 and second is not None else first
                if server is not None:
                    self._ask(sock.slot, server, now)
        return gave_up

    def _choose(self, sock: LocalSocket) -> tuple[SockAddr | None, SockAddr | None]:
        usable = [s for s in self._servers if s.is_ipv6 == sock.ipv6]
        if not usable:
            return None, None
        first = usable[0]
        others = [s for s in usable if s.host != first.host] + [s for s in usable[1:] if s.host == first.host]
        return first, others[0] if others else None

    def _ask(self, slot: Slot, server: SockAddr, now: float, *, change_port: bool = False) -> None:
        request = _Request(slot, server, self._rng.randbytes(12), now, change_port)
        self._requests[request.tx_id] = request
        self._states[slot].asked.add(server)
        self._transmit(request, now)

    def _transmit(self, request: _Request, now: float) -> None:
        request.sent += 1
        request.last_sent = now
        self._asks.append(Ask(request.slot, request.server, request.tx_id, request.change_port))

    def _probe_filter(self, request: _Request, state: _SocketState, now: float) -> None:
        """After the first answer of a server that has a second port: asks for an answer from there."""
        second = SockAddr(request.server.host, request.server.port + 1)
        if second not in self._servers:
            return
        if state.other_port_arrived is None and second not in state.asked:
            if not any(r.change_port and r.slot == request.slot for r in self._requests.values()):
                self._ask(request.slot, request.server, now, change_port=True)
        elif len(state.answers) < 2:
            self._ask_second(request, state, now)

    def _ask_second(self, request: _Request, state: _SocketState, now: float) -> None:
        """The second port of the same host, where no other host can be compared."""
        second = SockAddr(request.server.host, request.server.port + 1)
        if second in self._servers and not any(s.host != second.host for s in state.answers):
            self._ask(request.slot, second, now)
