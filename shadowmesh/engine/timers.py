"""One heap of deadlines for everything that waits. A deadline that moves leaves its old entry behind, to be skipped."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from shadowmesh.model.clock import Now

LATER = 0.2  # seconds by which a deadline has to move back for a new entry in the heap to be worth a needless turn
SPIN = 0.001  # seconds between two turns of one item, should it still claim to be due
AGAIN = 1.0  # seconds from a turn that failed to the item's next


class Timed(Protocol):
    """Something with one deadline. `queued_at` belongs to the heap: inf at first."""

    queued_at: float

    def deadline(self) -> float:
        """When it wants `on_timer`; inf for never."""

    def on_timer(self, now: Now) -> None: ...


class Timers:
    """Deadlines are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._count = 0

    def schedule(self, item: Timed, not_before: float = -inf) -> None:
        """Takes note of an item's present deadline. Call it whenever that may have become earlier."""
        when = max(item.deadline(), not_before)
        if when == inf:
            item.queued_at = inf
        elif when < item.queued_at or when > item.queued_at + LATER:
            self._enqueue(item, when)

    def _enqueue(self, item: Timed, when: float) -> None:
        self._count += 1
        item.queued_at = when
        heappush(self._heap, (when, self._count, item))

    def cancel(self, item: Timed) -> None:
        """Forgets an item: its owner ends."""
        item.queued_at = inf

    def pending(self) -> list[Timed]:
        """The items that wait, for tests that look for those which outlived their owner."""
        return [item for when, _, item in self._heap if when == item.queued_at]

    def next_deadline(self) -> float:
        """When something may be due, inf if nothing waits. It may be early, never late."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].queued_at:
            heappop(heap)
        return heap[0][0] if heap else inf

    def run(self, now: Now, failed: Callable[[Timed, Exception], None]) -> None:
        """Runs all that is due. An item that raises is told to `failed`, keeps nobody from their turn, and has its next."""
        heap = self._heap
        boot = now.boot
        while heap and heap[0][0] <= boot:
            when, _, item = heappop(heap)
            if when != item.queued_at:
                continue
            item.queued_at = inf
            try:
                if item.deadline() <= boot:
                    item.on_timer(now)
                self.schedule(item, boot + SPIN)
            except Exception as e:
                failed(item, e)
                self._enqueue(item, boot + AGAIN)
