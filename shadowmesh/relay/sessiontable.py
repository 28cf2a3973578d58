"""What a relay knows of its clients: sessions, who owns an address, what was revoked. No bytes, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple, TypeAlias

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import DevicePublicKey, NetworkID
from shadowmesh.model.relaylink import Revocation
from shadowmesh.protocol.token import RelayTokenBody


class StreamAddr(NamedTuple):
    """One WebSocket connection, numbered by the relay and never reused; `peer` is its far end."""

    number: int
    peer: SockAddr


Transport: TypeAlias = SockAddr | StreamAddr
"""Where a client is: a UDP address, or a connection."""


@dataclass(eq=False, slots=True)
class NetworkBudget:
    """What the sessions of one network may send together; see fairness.Allotment. Bytes, of a window."""

    rate: float
    window: int
    credit: float
    level: float = math.inf


@dataclass(eq=False, slots=True)
class ClientSession:
    """A client's standing with this relay: one network and overlay address, reached at one transport.

    Changed in place by the core alone. `live` is False from the moment that it was replaced or ended.
    """

    key: bytes  # NetworkID ‖ ip
    number: bytes  # 8 random bytes, told in the Welcome
    token: RelayTokenBody
    transport: Transport
    cookie: bytes
    heard: float  # boot time of the client's last frame or Ping
    live: bool = True
    rx_frames: int = 0  # forwarded for the client
    rx_bytes: int = 0
    tx_frames: int = 0  # forwarded to it
    tx_bytes: int = 0
    told: tuple[int, int, int, int] = (0, 0, 0, 0)  # of these four, what was taken for the ledger
    window: int = -1  # see fairness.Allotment
    budget: float = 0.0
    granted: float = 0.0
    credit: float = math.inf
    offered: int = 0
    together: NetworkBudget | None = None  # with the others of its network, where that has a limit

    @property
    def network_id(self) -> NetworkID:
        return self.token.network_id

    @property
    def ip(self) -> IPv4Address:
        return self.token.ip


@dataclass(slots=True)
class Owner:
    """Who last proved an address. Outlives the session: an older token of another device never gets it back, and an
    older proof of the same device is a replay."""

    device_key: DevicePublicKey
    issued: float
    valid_until: float
    cookie: bytes  # begins with the relay's time of the challenge, so cookies compare by age


class SessionTable:
    """Sessions by (network, ip) and by transport."""

    def __init__(self) -> None:
        self.by_key: dict[bytes, ClientSession] = {}
        self.by_transport: dict[Transport, set[bytes]] = {}
        self.owners: dict[bytes, Owner] = {}

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[ClientSession]:
        return iter(self.by_key.values())

    def put(self, session: ClientSession) -> ClientSession | None:
        """Takes `session` in; returns the one that it replaces."""
        old = self.by_key.get(session.key)
        if old is not None:
            self.remove(old)
        self.by_key[session.key] = session
        self.by_transport.setdefault(session.transport, set()).add(session.key)
        return old

    def remove(self, session: ClientSession) -> None:
        session.live = False
        if self.by_key.get(session.key) is session:
            del self.by_key[session.key]
            keys = self.by_transport[session.transport]
            keys.discard(session.key)
            if not keys:
                del self.by_transport[session.transport]

    def at(self, transport: Transport) -> list[ClientSession]:
        return [self.by_key[key] for key in self.by_transport.get(transport, ())]

    def networks(self) -> int:
        return len({key[:32] for key in self.by_key})

    def forget_owners(self, wall: float) -> None:
        """Those whose token has run out can't come back anyway."""
        for key in [k for k, o in self.owners.items() if wall > o.valid_until and k not in self.by_key]:
            del self.owners[key]


class RevocationList:
    """Which tokens are void. One entry per client that was removed, and per (network, device); the later `before`
    includes the earlier."""

    def __init__(self, entries: Iterable[Revocation] = ()) -> None:
        self._entries: dict[tuple[NetworkID | None, DevicePublicKey | None, ClientID | None], Revocation] = {}
        self.add(entries)

    def add(self, entries: Iterable[Revocation]) -> None:
        for entry in entries:
            at = (entry.network_id, entry.device_key, entry.client_id)
            if at == (None, None, None):  # names nobody
                continue
            known = self._entries.get(at)
            if known is None or known.before < entry.before:
                self._entries[at] = entry

    def replace(self, entries: Iterable[Revocation]) -> None:
        self._entries.clear()
        self.add(entries)

    def revokes(self, token: RelayTokenBody) -> bool:
        if token.client_id and (token.network_id, token.device_key, token.client_id) in self._entries:
            return True
        for at in (
            (token.network_id, token.device_key, None),
            (token.network_id, None, None),
            (None, token.device_key, None),
        ):
            entry = self._entries.get(at)
            if entry is not None and token.issued < entry.before:
                return True
        return False

    def forget(self, wall: float) -> None:
        for at in [at for at, entry in self._entries.items() if wall > entry.until]:
            del self._entries[at]

    def entries(self) -> tuple[Revocation, ...]:
        return tuple(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
