"""What a pump knows of networks and peers. Plain attributes: packet loops read them directly."""

from __future__ import annotations

from typing import TypeAlias

from shadowmesh.dataplane.prefixes import PrefixMap
from shadowmesh.dataplane.sessions import SessionSlots, SessionState
from shadowmesh.dataplane.staging import Staging
from shadowmesh.model.addresses import IPNetwork, SockAddr
from shadowmesh.model.pump import NetIndex, Path, PeerIndex, Slot

PathKey: TypeAlias = tuple[Slot, SockAddr | None, bytes]  # what makes two paths the same: not the source address


def path_key(path: Path) -> PathKey:
    return path.via, path.remote, path.prefix


def is_relayed(path: Path) -> bool:
    """Metered apart: everything but a datagram straight to the peer."""
    return bool(path.prefix) or path.remote is None


class NetState:
    """One network on this host: its interface and who is where in it."""

    __slots__ = ("closed", "index", "local", "mtu", "routes")

    def __init__(self, index: NetIndex) -> None:
        self.index = index
        self.mtu = 65535
        self.local: PrefixMap[bool] = PrefixMap()  # addresses that are this host's
        self.routes: PrefixMap[PeerState] = PrefixMap()  # whose an inner address is
        self.closed = False  # by a filter that this pump can't run


class PeerState:
    """One peer: keys, paths, what waits, what is armed, and its record of counters."""

    __slots__ = (
        "allowed", "also", "also_key", "edges", "index", "mtu", "net", "primary", "primary_key", "record",
        "record_number", "roam", "sessions", "staged", "wants_told",
    )  # fmt: skip

    def __init__(self, index: PeerIndex, net: NetState, record_number: int, record: memoryview) -> None:
        self.index = index
        self.net = net
        self.allowed: tuple[IPNetwork, ...] = ()
        self.roam = False
        self.sessions = SessionSlots()
        self.staged = Staging()
        self.primary: Path | None = None
        self.also: Path | None = None
        self.primary_key: PathKey | None = None
        self.also_key: PathKey | None = None
        self.mtu: int | None = None  # inner MTU of the path where it is below the interface's
        self.edges = 0
        self.wants_told = False
        self.record_number = record_number
        self.record = record

    def sender(self, now: float) -> SessionState | None:
        """The session to send on, None without a usable one."""
        current = self.sessions.current
        return current if current is not None and current.usable(now) else None

    def set_primary(self, path: Path | None) -> None:
        self.primary = path
        self.primary_key = None if path is None else path_key(path)

    def set_also(self, path: Path | None) -> None:
        self.also = path
        self.also_key = None if path is None else path_key(path)

    def padded(self, size: int) -> int:
        """Size to which a packet of `size` bytes is padded: a multiple of 16, not beyond the MTU (paper, 5.4.6)."""
        padded = (size + 15) & ~15
        limit = self.mtu or self.net.mtu
        return padded if padded <= limit else max(size, limit)
