"""Sessions of a peer: the slots previous, current and next (WireGuard paper, section 6.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shadowmesh.dataplane.aead import Aead, AeadFactory
from shadowmesh.dataplane.replay import ReplayWindow
from shadowmesh.model.pump import Session

if TYPE_CHECKING:
    from shadowmesh.dataplane.state import PeerState

REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1


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
