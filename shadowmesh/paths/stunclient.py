"""Whom to ask by STUN and when: keeps reflexive addresses, round trips and the NAT verdict up to date. Sans-I/O.

For each socket two servers are asked, on two hosts where there are two, else on two ports of one. Before a server's
second port is ever sent to, its first is asked once to answer from there: what arrives tells how the NAT filters.

What was learnt stays until it is contradicted. A server that doesn't answer is gone, nothing more; only when none does is
UDP dead. When one server sees another port than before, all are asked: a router that took a packet for its own gives one
destination another port for half a minute, and that makes no symmetric NAT of it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import Slot
from shadowmesh.paths.candidates import BoundSocket, HostView
from shadowmesh.paths.netcheck import NatVerdict, agreed, verdict

RETRANSMITS = (0.0, 0.25, 0.75, 1.75, 3.0)  # seconds after the first request
GIVE_UP = 4.0
REFRESH = 60.0
REFRESH_JITTER = 10.0
CONTRADICTED = 15.0  # seconds between two times that an answer is taken to show another NAT, and all are asked
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
    heard_at: float = -inf  # last answer of any server
    renewed_at: float = -inf  # when an answer last contradicted an older one of the same server
    silent: bool = False  # none of them answers
    settled: NatVerdict = field(default_factory=NatVerdict)  # the verdict when last no question of consequence was open
    unanswered: set[SockAddr] = field(default_factory=set)
    other_port_arrived: bool | None = None
    asked: set[SockAddr] = field(default_factory=set)
    held: SockAddr | None = None  # the address that servers on two hosts agreed on last

    def common(self) -> SockAddr | None:
        """The reflexive address, whatever port a single server sees; None if there is no one address. What was agreed on
        once holds for as long as anybody still sees it."""
        if self.held is None or self.held not in self.answers.values():
            self.held = agreed(self.answers)
        return self.held


class StunClient:
    """All STUN questions of one node."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._servers: tuple[SockAddr, ...] = ()
        self._sockets: tuple[BoundSocket, ...] = ()
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
        """Reflexive addresses of all sockets, each once: what two hosts agree on, else two that were seen, which is enough
        to tell a peer that there is no one address."""
        seen: dict[SockAddr, None] = {}
        for state in self._states.values():
            common = state.common()
            various = list(dict.fromkeys(state.answers.values()))[:2]
            seen.update(dict.fromkeys(various if common is None else (common,)))
        return tuple(seen)

    def verdict(self, view: HostView, *, tcp_works: bool = False) -> NatVerdict:
        """Of the IPv4 socket (the first one), else of any. `tcp_works`: servers that UDP doesn't reach are there."""
        sockets = sorted(self._sockets, key=lambda s: s.ipv6)
        for sock in sockets:
            state = self._states.get(sock.slot)
            if state is not None:
                found = verdict(view, state.answers, state.other_port_arrived, state.common())
                if state.silent and tcp_works:
                    found = NatVerdict("udp_blocked")
                if not self._deciding(sock.slot):
                    state.settled = found
                elif state.settled.type != "unknown" and found.public is not None:
                    found = replace(found, type=state.settled.type, mapping=state.settled.mapping)
                return found
        return NatVerdict()

    def _deciding(self, slot: Slot) -> bool:
        """Whether what was heard doesn't suffice, and some servers were not heard yet."""
        state = self._states[slot]
        if len(state.answers) > 1 and (len(set(state.answers.values())) == 1 or state.common() is not None):
            return False
        return any(r.slot == slot and not r.change_port for r in self._requests.values())

    @property
    def settled(self) -> bool:
        """Whether no question is open."""
        return not self._requests

    def configure(self, servers: Sequence[SockAddr], sockets: Sequence[BoundSocket], now: float) -> None:
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

    def ask_all(self, now: float, *, every: bool = False) -> None:
        """Asks for everything anew: at start, after a network change, after waking. `every`: each server."""
        self._requests.clear()
        for sock in self._sockets:
            state = self._states.setdefault(sock.slot, _SocketState())
            first, second = self._choose(sock)
            if first is not None:
                self._ask(sock.slot, first, now)
            if second is not None and second.host != (first.host if first else ""):
                self._ask(sock.slot, second, now)
            state.unanswered.clear()
            if every:
                self._ask_every(sock.slot, now, state.unanswered)
            else:
                state.renewed_at = -inf  # this host is elsewhere: what is seen now is news
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
        state.heard_at = now
        state.silent = False
        if request.sent == 1:
            self.rtt[request.server] = now - request.last_sent
        symmetric = len(set(state.answers.values())) > 1 and state.common() is None
        old = state.answers.get(request.server, mapped)
        if symmetric and old.host == mapped.host:
            old = mapped  # behind a symmetric NAT a port says nothing
        if old != mapped and now < state.renewed_at + CONTRADICTED:  # again: one server may say so as often as it likes
            self._refresh_at = min(self._refresh_at, state.renewed_at + CONTRADICTED)
            return False
        if old != mapped:  # another NAT, or another mapping: nothing older is worth anything
            state.renewed_at = now
            state.answers.clear()
            state.answers[request.server] = mapped
            self.ask_all(now, every=True)
            return True
        state.answers[request.server] = mapped
        state.unanswered.discard(request.server)
        self._probe_filter(request, state, now)
        if len(set(state.answers.values())) > 1 and not symmetric and state.common() is None:
            self._ask_every(request.slot, now, state.answers)
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
                state.unanswered.add(request.server)
                self._given_up(request, state, now)
        if now >= self._refresh_at:
            self._rotation += 1
            self._refresh_at = now + REFRESH + self._rng.uniform(-REFRESH_JITTER, REFRESH_JITTER)
            for sock in self._sockets:
                first, second = self._choose(sock)
                server = second if self._rotation % 2 and second is not None else first
                if server is not None:
                    self._ask(sock.slot, server, now)
        return gave_up

    def _given_up(self, request: _Request, state: _SocketState, now: float) -> None:
        """Other servers are asked whether it is only this one."""
        if state.heard_at < request.started:
            waiting = any(r.slot == request.slot for r in self._requests.values())
            if not waiting and not state.answers:
                state.silent = True  # none ever answered
            self._ask_every(request.slot, now, state.unanswered)
            if not any(r.slot == request.slot for r in self._requests.values()):
                state.silent = True

    def _ask_every(self, slot: Slot, now: float, but: Collection[SockAddr]) -> None:
        """All servers of the socket's family that aren't being asked already, but for some."""
        ipv6 = next(s.ipv6 for s in self._sockets if s.slot == slot)
        asked = {r.server for r in self._requests.values() if r.slot == slot}
        for server in self._servers:
            if server.is_ipv6 == ipv6 and server not in asked and server not in but:
                self._ask(slot, server, now)

    def _choose(self, sock: BoundSocket) -> tuple[SockAddr | None, SockAddr | None]:
        state = self._states.get(sock.slot)
        silent = state.unanswered if state is not None else set()
        usable = sorted((s for s in self._servers if s.is_ipv6 == sock.ipv6), key=silent.__contains__)
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
        second = request.server.next_port
        if second is None or second not in self._servers:
            return
        if state.other_port_arrived is None and second not in state.asked:
            if not any(r.change_port and r.slot == request.slot for r in self._requests.values()):
                self._ask(request.slot, request.server, now, change_port=True)
        elif len(state.answers) < 2:
            self._ask_second(request, state, now)

    def _ask_second(self, request: _Request, state: _SocketState, now: float) -> None:
        """The second port of the same host, where no other host can be compared."""
        second = request.server.next_port
        if second is not None and second in self._servers and not any(s.host != second.host for s in state.answers):
            self._ask(request.slot, second, now)
