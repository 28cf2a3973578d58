"""The headless core: turns what the daemon says, one Status after another, into what the screens show.

Pure: no I/O and no clock (`now` is an argument), so that all of it is tested without a screen.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from shadowmesh.model.clock import Now
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import NetworkStatus, PeerStatus, Status, Why
from shadowmesh_tui.history import PeerHistory


@dataclass(frozen=True, slots=True)
class PeerKey:
    """A peer, unique over all networks of this daemon."""

    network_id: str
    client_id: str

    def __str__(self) -> str:
        return f"{self.network_id}/{self.client_id}"


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One line of the table. Rates in bytes/s, `handshake_age` in seconds; None is unknown."""

    key: PeerKey
    peer: PeerStatus
    rx_rate: float | None
    tx_rate: float | None
    handshake_age: float | None

    @property
    def via(self) -> str:
        """Where its packets go: an address and port, or a relay's name."""
        if self.peer.path == "direct":
            return self.peer.endpoint or ""
        return (self.peer.relay or "") if self.peer.path == "relay" else ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing new comes from the daemon, and what a person can do; `since` is when it began."""

    what: str
    remedy: str
    since: Now


@dataclass(frozen=True, slots=True)
class Counts:
    """How the peers of a network are reached."""

    direct: int
    relay: int
    none: int
    idle: int  # never spoken to

    @classmethod
    def of(cls, peers: Sequence[PeerStatus]) -> Counts:
        direct = sum(p.path == "direct" for p in peers)
        relay = sum(p.path == "relay" for p in peers)
        idle = sum(p.reason == Reason.NONE_IDLE for p in peers)
        return cls(direct, relay, len(peers) - direct - relay - idle, idle)


class SortBy(StrEnum):
    """The columns that the table can be ordered by."""

    NAME = "name"
    ADDRESS = "address"
    PATH = "path"
    VIA = "via"
    LATENCY = "latency"
    RX = "rx"
    TX = "tx"
    HANDSHAKE = "handshake"


@dataclass(frozen=True, slots=True)
class Order:
    by: SortBy = SortBy.NAME
    descending: bool = False

    def pressed(self, by: SortBy) -> Order:
        """The order after a choice of this column: the other way round if it was chosen already."""
        return replace(self, descending=not self.descending) if by is self.by else Order.first(by)

    @classmethod
    def first(cls, by: SortBy) -> Order:
        """The direction that a column is looked at first: of traffic, the most comes first."""
        return cls(by, descending=by in (SortBy.RX, SortBy.TX))

    def next_column(self) -> Order:
        columns = list(SortBy)
        return Order.first(columns[(columns.index(self.by) + 1) % len(columns)])


_PATH_RANK = {"direct": 0, "relay": 1, "none": 2}


def _address(text: str) -> tuple[int, int, str]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return (9, 0, text)
    return (address.version, int(address), "")


_SORT_VALUE: dict[SortBy, Callable[[PeerRow], Any]] = {
    SortBy.NAME: lambda r: r.peer.name.casefold(),
    SortBy.ADDRESS: lambda r: _address(r.peer.ip),
    SortBy.PATH: lambda r: (_PATH_RANK[r.peer.path], r.peer.reason),
    SortBy.VIA: lambda r: r.via or None,
    SortBy.LATENCY: lambda r: r.peer.latency_ms,
    SortBy.RX: lambda r: r.rx_rate,
    SortBy.TX: lambda r: r.tx_rate,
    SortBy.HANDSHAKE: lambda r: r.handshake_age,
}


def sort_rows(rows: list[PeerRow], order: Order) -> list[PeerRow]:
    """Ordered rows. Unknown values come last in both directions; equal ones are ordered by name."""
    value = _SORT_VALUE[order.by]
    by_name = sorted(rows, key=lambda r: (r.peer.name.casefold(), r.peer.client_id))
    known = [r for r in by_name if value(r) is not None]
    unknown = [r for r in by_name if value(r) is None]
    return sorted(known, key=value, reverse=order.descending) + unknown


def matches(peer: PeerStatus, needle: str) -> bool:
    """Whether every word of `needle` occurs in what the table shows of the peer."""
    online = {True: "online", False: "offline", None: ""}[peer.online]
    parts = (peer.name, peer.ip, peer.path, peer.reason, peer.endpoint or "", peer.relay or "", online)
    hay = "\n".join(parts).casefold()
    return all(word in hay for word in needle.casefold().split())


def age(rfc3339: str | None, wall: float) -> float | None:
    """Seconds from this moment to `wall`, not below 0; None for no time or one that can't be read."""
    if not rfc3339:
        return None
    try:
        return max(0.0, wall - datetime.fromisoformat(rfc3339).timestamp())
    except ValueError:
        return None


class Mesh:
    """What is known of this machine's networks, and what the person has chosen to look at."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.now: Now | None = None  # when `status` came
        self.trouble: Trouble | None = None
        self.order = Order()
        self.needle = ""
        self.whys: dict[PeerKey, Why | str] = {}  # the last answer to `why`, or why there is none
        self._network_id: str | None = None
        self._peer_of: dict[str, str] = {}  # network → client chosen there
        self._histories: dict[PeerKey, PeerHistory] = {}

    # what the daemon says

    def observe(self, status: Status, now: Now) -> None:
        self.status, self.now, self.trouble = status, now, None
        seen: dict[PeerKey, PeerHistory] = {}
        for network in status.networks:
            for peer in network.peers:
                key = PeerKey(network.network_id, peer.client_id)
                history = seen[key] = self._histories.get(key) or PeerHistory()
                history.observe(peer, now.boot)
        self._histories = seen
        self.whys = {key: why for key, why in self.whys.items() if key in seen}

    def lose(self, what: str, remedy: str, now: Now) -> bool:
        """The daemon can't be asked. What it said last stays, to be shown as old. Returns whether this is news."""
        trouble = Trouble(what, remedy, self.trouble.since if self.trouble else now)
        is_news = trouble != self.trouble
        self.trouble = trouble
        return is_news

    # networks

    @property
    def networks(self) -> tuple[NetworkStatus, ...]:
        return self.status.networks if self.status else ()

    @property
    def network(self) -> NetworkStatus | None:
        """The chosen network; the first one while none is chosen or the chosen one is gone."""
        chosen = (n for n in self.networks if n.network_id == self._network_id)
        return next(chosen, self.networks[0] if self.networks else None)

    def choose_network(self, network_id: str) -> None:
        self._network_id = network_id

    def step_network(self, step: int) -> None:
        network = self.network
        if network is not None:
            self._network_id = self.networks[(self.networks.index(network) + step) % len(self.networks)].network_id

    # peers

    def _row(self, network: NetworkStatus, peer: PeerStatus) -> PeerRow:
        key = PeerKey(network.network_id, peer.client_id)
        history = self._histories[key]
        wall = self.now.wall if self.now else 0.0
        return PeerRow(key, peer, history.rx_rate, history.tx_rate, age(peer.last_handshake, wall))

    def rows(self) -> list[PeerRow]:
        """The chosen network's peers that match the filter, in the chosen order."""
        network = self.network
        if network is None:
            return []
        found = [p for p in network.peers if matches(p, self.needle)] if self.needle else network.peers
        return sort_rows([self._row(network, p) for p in found], self.order)

    def all_rows(self) -> list[PeerRow]:
        """All peers of the chosen network, by name."""
        network = self.network
        return sort_rows([self._row(network, p) for p in network.peers], Order()) if network else []

    def row(self, key: PeerKey) -> PeerRow | None:
        for network in self.networks:
            if network.network_id == key.network_id:
                for peer in network.peers:
                    if peer.client_id == key.client_id:
                        return self._row(network, peer)
        return None

    def history(self, key: PeerKey) -> PeerHistory | None:
        return self._histories.get(key)

    @property
    def selected(self) -> PeerKey | None:
        """The peer chosen in the chosen network, if it is still there."""
        network = self.network
        client_id = self._peer_of.get(network.network_id) if network else None
        if network is None or client_id is None or all(p.client_id != client_id for p in network.peers):
            return None
        return PeerKey(network.network_id, client_id)

    @property
    def selected_row(self) -> PeerRow | None:
        return self.row(self.selected) if self.selected else None

    def select(self, key: PeerKey) -> None:
        self._peer_of[key.network_id] = key.client_id
