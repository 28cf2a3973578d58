"""What a pump knows of networks, peers and their sessions. Plain attributes: packet loops read them directly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from shadowmesh.dataplane.aead import Aead, AeadFactory
from shadowmesh.dataplane.prefixes import PrefixMap
from shadowmesh.dataplane.replay import ReplayWindow
from shadowmesh.dataplane.staging import Staging
from shadowmesh.model.addresses import IPNetwork, SockAddr
from shadowmesh.model.pump import NetIndex, Path, PeerIndex, Session, Slot

REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
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


class SessionState:
    """Keys in use: the ciphers, the next send counter and the replay window of what came."""

    __slots__ = ("counter", "dies", "header", "local_index", "peer", "rx", "tx", "window")

    def __init__(self, session: Session, peer: PeerState, aead: AeadFactory) -> None:
        self.local_index = session.local_index
        self.header = b"\x04\0\0\0" + session.remote_index.to_bytes(4, "little")
        self.tx: Aead = aead(session.send_key)
        self.rx: Aead = aead(session.recv_key)
        self.counter = 0
        self.window = ReplayWindow()
        self.dies = session.dies
        self.peer = peer

    def usable(self, now: float) -> bool:
        """Whether it may still send: not dead, and counters left."""
        return now < self.dies and self.counter < REJECT_AFTER_MESSAGES

    def take(self, count: int) -> int:
        """Reserves `count` send counters, each for one packet ever, and returns the first."""
        first = self.counter
        self.counter = first + count
        return first


class SessionSlots:
    """Which session sends (current only) and which receive (all three)."""

    __slots__ = ("current", "next", "previous")

    def __init__(self) -> None:
        self.previous: SessionState | None = None
        self.current: SessionState | None = None
        self.next: SessionState | None = None

    def __iter__(self) -> Iterator[SessionState]:
        return (s for s in (self.previous, self.current, self.next) if s is not None)

    def install(self, session: SessionState, initiator: bool) -> list[SessionState]:
        """Places a new session and returns those that fell out."""
        before = list(self)
        if initiator:
            self.previous = self.next or self.current
            self.next = None
            self.current = session
        else:
            self.next = session
        return [s for s in before if s not in (self.previous, self.current, self.next)]

    def promote(self) -> list[SessionState]:
        """`next` has proven itself: it becomes current. Returns what fell out."""
        gone = [self.previous] if self.previous is not None else []
        self.previous, self.current, self.next = self.current, self.next, None
        return gone

    def drop(self, local_indices: tuple[int, ...] | None) -> list[SessionState]:
        """Empties the slots that hold these indices (None: all). Returns what fell out."""
        gone = [s for s in self if local_indices is None or s.local_index in local_indices]
        for name in ("previous", "current", "next"):
            if getattr(self, name) in gone:
                setattr(self, name, None)
        return gone


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
