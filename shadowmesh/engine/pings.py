"""`ping`: measures the way that data takes, by disco through that very way; a plain WireGuard peer by a handshake."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from shadowmesh.engine.events import PingResult
from shadowmesh.model.clock import Now
from shadowmesh.model.reasons import Reason

if TYPE_CHECKING:
    from shadowmesh.engine.node import Node
    from shadowmesh.engine.peer import Peer

RETRY = 0.1  # seconds until another try where there was no way at all to send on


@dataclass(slots=True, eq=False)
class _Try:
    peer: Peer
    token: int
    started: float
    ends: float
    tx_ids: set[bytes] = field(default_factory=set)
    next_at: float = inf
    handshake: bool = False


class Pings:
    """The pings under way."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tries: list[_Try] = []
        self.queued_at = inf

    def start(self, peer: Peer, token: int, now: Now, timeout: float) -> None:
        attempt = _Try(peer, token, now.boot, now.boot + timeout)
        self._tries.append(attempt)
        handshake, path = peer.awake(now)
        if peer.relay is None:
            peer.choose_relay(now)
        path.traffic(now.boot)
        peer.after(now)
        if not handshake.live(now.boot) and not peer.plain:
            handshake.initiate(now)
        self._send(attempt, now)
        self._node.timers.schedule(self)

    def _send(self, attempt: _Try, now: Now) -> None:
        peer = attempt.peer
        handshake, path = peer.awake(now)
        attempt.next_at = inf
        if peer.plain:
            attempt.handshake = True
            handshake.initiate(now)
        else:
            attempt.tx_ids |= set(path.probe_now(now.boot))
            if not attempt.tx_ids:
                attempt.next_at = now.boot + RETRY
            else:
                attempt.started = now.boot
        peer.after(now)

    def pong(self, peer: Peer, tx_id: bytes, rtt: float, direct: bool, now: Now) -> None:
        for attempt in self._tries:
            if tx_id in attempt.tx_ids:
                self._finish(attempt, now, rtt, direct=direct)
                return

    def handshake_answered(self, peer: Peer, now: Now) -> None:
        for attempt in [t for t in self._tries if t.handshake and t.peer is peer]:
            self._finish(attempt, now, now.boot - attempt.started, direct=True)

    def _finish(self, attempt: _Try, now: Now, rtt: float | None, *, direct: bool) -> None:
        self._tries.remove(attempt)
        peer = attempt.peer
        kind, reason, endpoint, relay = peer.engine.view_of(peer, now)
        if rtt is not None and not direct:
            kind, endpoint = "relay", None
            relay = peer.relay.relay.name if peer.relay is not None else None
            reason = peer.path.reason if peer.path is not None and not peer.path.direct else Reason.RELAY_UPGRADING
            if not reason.value.startswith("relay."):
                reason = Reason.RELAY_UPGRADING
        self._node.tell(
            PingResult(
                attempt.token,
                peer.engine.network_id,
                peer.member.client_id,
                rtt is not None,
                rtt,
                kind,
                endpoint,
                relay,
                reason,
            )
        )

    def deadline(self) -> float:
        return min((min(t.ends, t.next_at) for t in self._tries), default=inf)

    def on_timer(self, now: Now) -> None:
        for attempt in list(self._tries):
            if now.boot >= attempt.ends:
                self._finish(attempt, now, None, direct=False)
            elif now.boot >= attempt.next_at:
                self._send(attempt, now)
