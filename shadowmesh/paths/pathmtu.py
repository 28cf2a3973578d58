"""Which size of packets gets through one way to a peer: packetization layer path MTU discovery (RFC 8899). Sans-I/O.

A probe is a ping that is padded to the datagram which an inner packet of that size makes. What is answered gets through; ICMP plays no part, and
what the network does with long datagrams (fragments, drops, says nothing) doesn't matter.

A way is taken for good until its first check says otherwise: the full size is probed up to three times; unanswered, all smaller sizes at once. While
long packets go that way, the size found is confirmed now and then; a size below the full one is tried to be raised after 10 s, a minute, ten.
"""

from __future__ import annotations

from math import inf
from typing import Final

from shadowmesh.model.pump import INNER_MTU

SIZES: Final = (1368, 1340, 1320, 1280, 1260, 1220, 1200, 1156, 1100, 1024, 800, 576)
"""Inner packets that are probed below the full size: what fits links of 1,492, 1,400, 1,340, 1,280 bytes and less, by IPv4 and IPv6, directly and
through a relay."""

_TRIES: Final = 3  # of the size in question
_ROUNDS: Final = 2  # of all smaller ones
_WAIT: Final = 0.25  # seconds for an answer, besides two round trips
_RAISE: Final = (10.0, 60.0, 600.0)


class PathMtu:
    """Times are CLOCK_BOOTTIME seconds. `deadline`: when `tick` is wanted."""

    __slots__ = (
        "_best",
        "_checking",
        "_confirming",
        "_raise_at",
        "_raises",
        "_sizes",
        "_target",
        "_tries",
        "deadline",
        "found",
    )

    def __init__(self) -> None:
        self.found: int | None = None  # the largest inner packet that got through; None: not known yet
        self.deadline = inf
        self._checking = False
        self._target = INNER_MTU
        self._sizes: tuple[int, ...] = ()  # searched; empty: the target alone is in question
        self._best = 0
        self._tries = 0
        self._raises = 0
        self._raise_at = inf
        self._confirming = False

    @property
    def limit(self) -> int | None:
        """The MTU of this way where it is less than the interface's."""
        return self.found if self.found is not None and self.found < INNER_MTU else None

    def start(self, now: float) -> None:
        """Whether the full size gets through is to be found out."""
        self._raises = 0
        self._confirming = False
        self._begin(INNER_MTU, now)

    def confirm(self, now: float) -> None:
        """Long packets go this way: does the size in use still get through?"""
        if not self._checking:
            self._confirming = True
            self._begin(self.found or INNER_MTU, now)

    def _begin(self, target: int, now: float) -> None:
        self._checking = True
        self._target, self._tries, self._sizes = target, 0, ()
        self.deadline = now

    def tick(self, now: float, rtt: float) -> tuple[int, ...]:
        """The sizes to probe now. `rtt`: of the way, seconds."""
        if now < self.deadline:
            return ()
        if not self._checking:  # time to try for more
            self._confirming = False
            self._begin(INNER_MTU, now)
        self.deadline = now + _WAIT + 2.0 * rtt
        self._tries += 1
        if not self._sizes:
            if self._tries <= _TRIES:
                return (self._target,)
            raising = self.found is not None and self.found < self._target
            least = (self.found or 0) if raising else 0
            self._sizes = tuple(s for s in SIZES if least < s < self._target)
            self._best, self._tries = 0, 1
            self._confirming = False
        left = tuple(s for s in self._sizes if s > self._best)
        if left and self._tries <= _ROUNDS:
            return left
        self._end(now)
        return ()

    def answered(self, size: int, now: float) -> None:
        """A probe of this size got through."""
        if self._checking and self._sizes:
            self._best = max(self._best, size)
            lost = self.found is None or self.found >= self._target  # nothing larger gets through any more
            self.found = self._best if lost else max(self.found or 0, self._best)
        elif self.found is None or size >= self.found:
            self.found = size
            if self._checking and size >= self._target:
                self._end(now)

    def _end(self, now: float) -> None:
        self._checking = False
        self._sizes = ()
        if self.limit is None:
            self._raise_at = inf
        elif not self._confirming:
            self._raise_at = now + _RAISE[min(self._raises, len(_RAISE) - 1)]
            self._raises += 1
        self.deadline = self._raise_at
