"""What waits for a session: the newest packets of a peer, bounded in number and bytes."""

from __future__ import annotations

from collections import deque

from shadowmesh.model.pump import STAGED_BYTES, STAGED_PACKETS


class Staging:
    """A queue of at most 256 packets and 512 KiB; the oldest make room."""

    __slots__ = ("_packets", "_size")

    def __init__(self) -> None:
        self._packets: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._packets)

    def push(self, packet: bytes) -> int:
        """Queues a packet (one read from the TUN, a super-packet too). Returns how many were dropped for it."""
        dropped = 0
        self._packets.append(packet)
        self._size += len(packet)
        while len(self._packets) > STAGED_PACKETS or self._size > STAGED_BYTES:
            self._size -= len(self._packets.popleft())
            dropped += 1
        return dropped

    def take(self) -> list[bytes]:
        """All of it, oldest first; empty afterwards."""
        packets = list(self._packets)
        self._packets.clear()
        self._size = 0
        return packets
