"""What a network's controller is told of this device's connections: decided here, from the engine's events and status.

Changes of ways are gathered. A message goes out `GATHER` seconds after the first news and at most one each `EVERY`
seconds, whatever happens; what doesn't fit into MOST_BYTES goes with the next. Without news one each `BEAT` seconds says
that what was told still holds. On a new connection the controller is told everything anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median

from msgspec.structs import replace

from shadowmesh.engine.events import PathChanged
from shadowmesh.model.codec import to_json
from shadowmesh.model.devicelink import Health, PathChange, PeerHealth
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.reasons import Reason, connection_type
from shadowmesh.model.status import NatStatus, PeerStatus

EVERY = 30.0  # seconds
GATHER = 2.0
BEAT = 300.0
MOST_BYTES = 5500  # of all peers in one message: with the rest of it less than 200 bytes a second
MOST_CHANGES = 8  # of one peer in one message: the newest
_MOST_AGE = 86_400.0
_MOST_LATENCY = 60_000.0


@dataclass(frozen=True, slots=True)
class View:
    """How the device is now. `peers`: those that are or were spoken to. `bytes_too`: the network wants them."""

    nat: NatStatus
    capabilities: tuple[str, ...]
    peers: Sequence[PeerStatus]
    bytes_too: bool = False


@dataclass(slots=True)
class _Peer:
    """What is known of one peer, and what of that has been told."""

    reason: str = Reason.NONE_IDLE.value
    before: str = Reason.NONE_IDLE.value  # as it was when it was told last
    changes: list[tuple[float, str]] = field(default_factory=list)  # since then
    latency: float | None = None
    relay: str = ""
    rx: int = 0  # bytes that were counted, and told
    tx: int = 0
    told: tuple[float | None, str] | None = None  # latency and relay; None: nothing is told of it on this connection

    @property
    def in_use(self) -> bool:
        return connection_type(self.reason) is not None

    def change(self, at: float, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            self.changes.append((at, reason))
            del self.changes[:-MOST_CHANGES]

    @property
    def is_news(self) -> bool:
        ways = (self.before, *(reason for _, reason in self.changes))
        if self.changes and any(connection_type(reason) is not None for reason in ways):
            return True
        if not self.in_use:
            return False
        return self.told is None or self.told[1] != self.relay or _moved(self.told[0], self.latency)

    def entry(self, client_id: ClientID, rx: int, tx: int, now: float) -> PeerHealth:
        recent = [(max(0.0, now - at), reason) for at, reason in self.changes if now - at < _MOST_AGE]
        return PeerHealth(
            peer=client_id,
            reason=self.before if recent else self.reason,
            changes=tuple(PathChange(ago=int(ago), reason=reason) for ago, reason in recent),
            latency_ms=self.latency,
            relay=self.relay,
            rx_bytes=rx,
            tx_bytes=tx,
        )


class NetworkReports:
    """Of one network. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, network_id: NetworkID) -> None:
        self._network_id = network_id
        self._peers: dict[ClientID, _Peer] = {}
        self._whole = True  # the controller knows nothing yet
        self._told: Health | None = None  # the last message, without its peers
        self._told_at = -inf
        self._looked_at = -inf
        self._news_at: float | None = None
        self._made: dict[
            ClientID, tuple[int, int]
        ] = {}  # the peers in the message that was made, and the bytes counted

    # what happens

    def connected(self, now: float, spread: float) -> None:
        """A new connection, on which all is told after `spread` seconds: so that thousands who come back don't tell it at once."""
        self._whole, self._news_at = True, None
        self._looked_at = now + spread - EVERY
        for peer in self._peers.values():
            peer.told = None

    def changed(self, event: PathChanged) -> None:
        self._peers.setdefault(event.client_id, _Peer()).change(event.at, event.reason.value)
        if self._news_at is None:
            self._news_at = event.at

    # what is told

    def due(self) -> float:
        """When to call `make`."""
        if self._news_at is not None:
            return max(self._told_at + EVERY, self._news_at + GATHER)
        return max(self._told_at, self._looked_at) + EVERY

    def make(self, view: View, now: float) -> Health | None:
        """The message that is due; None if there is nothing to tell. `sent` is to be called once it is on its way."""
        self._looked_at, self._news_at = now, None
        self._take_over(view.peers, now)
        in_use = [peer for peer in self._peers.values() if peer.in_use]
        direct = sum(connection_type(peer.reason) == "p2p" for peer in in_use)
        latencies = [peer.latency for peer in in_use if peer.latency is not None]
        summary = Health(
            network_id=self._network_id,
            nat=view.nat.type,
            capabilities=view.capabilities,
            direct=direct,
            relayed=len(in_use) - direct,
            latency_ms=round(median(latencies), 1) if latencies else None,
        )
        entries = self._entries(view, now)
        if not (self._whole or entries or self._differs(summary) or now >= self._told_at + BEAT):
            return None
        return replace(summary, whole=self._whole, peers=tuple(entries))

    def sent(self, health: Health, now: float) -> None:
        """The controller has it. What is left over is told next time."""
        self._told, self._told_at, self._whole = replace(health, whole=False, peers=()), now, False
        for client_id, (rx, tx) in self._made.items():
            peer = self._peers[client_id]
            peer.before, peer.rx, peer.tx = peer.reason, rx, tx
            peer.changes.clear()
            peer.told = (peer.latency, peer.relay) if peer.in_use else None
        if any(peer.is_news for peer in self._peers.values()):
            self._news_at = now

    def _take_over(self, peers: Sequence[PeerStatus], now: float) -> None:
        """What the status says; also what no event has told."""
        here = {ClientID(status.client_id) for status in peers}
        gone = [client_id for client_id in self._peers if client_id not in here]
        for client_id in gone:
            if self._peers.pop(client_id).told is not None:
                self._whole = True  # nobody else says that it is over
        if self._whole:
            for peer in self._peers.values():
                peer.told = None
        for status in peers:
            peer = self._peers.setdefault(ClientID(status.client_id), _Peer(rx=status.rx_bytes, tx=status.tx_bytes))
            peer.change(now, status.reason)
            latency = status.latency_ms if peer.in_use else None
            peer.latency = None if latency is None else round(min(latency, _MOST_LATENCY), 1)
            peer.relay = status.relay or "" if connection_type(peer.reason) == "relay" else ""

    def _entries(self, view: View, now: float) -> list[PeerHealth]:
        """Of the peers of which there is news, those that have waited longest first, as many as fit."""
        self._made, entries, size = {}, [], 0
        counted = {ClientID(p.client_id): (p.rx_bytes, p.tx_bytes) for p in view.peers}
        waiting = sorted(self._peers.items(), key=lambda item: item[1].changes[0][0] if item[1].changes else inf)
        for client_id, peer in waiting:
            rx, tx = counted[client_id]
            if not view.bytes_too:
                peer.rx, peer.tx = rx, tx
            more = _since(peer.rx, rx), _since(peer.tx, tx)
            if not (peer.is_news or any(more)):
                continue
            entry = peer.entry(client_id, *more, now)
            size += len(to_json(entry)) + 1
            if size > MOST_BYTES:
                break
            entries.append(entry)
            self._made[client_id] = (rx, tx)
        return entries

    def _differs(self, summary: Health) -> bool:
        told = self._told
        if told is None or _moved(told.latency_ms, summary.latency_ms):
            return True
        return replace(told, latency_ms=summary.latency_ms) != summary


def _since(told: int, counted: int) -> int:
    """Bytes that were counted since; a pump that was started anew counts from nought."""
    return counted - told if counted >= told else counted


def _moved(told: float | None, now: float | None) -> bool:
    """Whether a latency is another one: by a quarter, and by more than it always moves."""
    if told is None or now is None:
        return told is not now
    return abs(now - told) > max(2.0, told / 4)
