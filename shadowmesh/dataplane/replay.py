"""The replay window of a session (WireGuard paper, section 5.4.6), 65,536 counters wide.

It is asked only after a packet has authenticated. Paths differ in delay, and the same ciphertext may come on two of
them, so the window is far wider than the usual 2,000.

Most packets arrive in order. So the newest unbroken run of counters is kept as two numbers, and the bitmap is
touched only when a gap appears or something old comes late; it doesn't exist before that.
"""

from __future__ import annotations

from shadowmesh.model.pump import REPLAY_WINDOW

_BYTES = REPLAY_WINDOW // 8
_MASK = REPLAY_WINDOW - 1


class ReplayWindow:
    """Remembers which of the last 65,536 counters were seen."""

    __slots__ = ("_bits", "_run", "_top")

    def __init__(self) -> None:
        self._top = -1  # highest counter seen
        self._run = 0  # all of run … top were seen
        self._bits: bytearray | None = None  # ring over counter mod 65,536, valid below `_run`

    def accept(self, counter: int) -> bool:
        """True, and remembered, if the counter is new and not older than the window."""
        top = self._top
        if counter == top + 1:
            self._top = counter
            return True
        if counter > top:
            self._skip(counter)
            return True
        if counter >= self._run or counter <= top - REPLAY_WINDOW:
            return False
        assert self._bits is not None  # whatever lies below the run was left by `_skip`
        at, bit = (counter & _MASK) >> 3, 1 << (counter & 7)
        if self._bits[at] & bit:
            return False
        self._bits[at] |= bit
        return True

    def accept_run(self, first: int, count: int) -> bool:
        """The same for `count` consecutive counters above all seen ones; False (nothing remembered) otherwise."""
        if first <= self._top:
            return False
        if first > self._top + 1:
            self._skip(first)
        self._top = first + count - 1
        return True

    def _skip(self, counter: int) -> None:
        """Opens a gap between the run and `counter`, which starts a new run."""
        if self._bits is None:
            self._bits = bytearray(_BYTES)
        oldest = counter - REPLAY_WINDOW + 1
        self._fill(max(self._run, oldest), self._top + 1, True)
        self._fill(max(self._top + 1, oldest), counter, False)
        self._run = self._top = counter

    def _fill(self, start: int, stop: int, seen: bool) -> None:
        """Marks the counters start … stop - 1, at most 65,536 of them."""
        assert self._bits is not None
        bits = self._bits
        while start < stop:
            at = start & _MASK
            if at & 7 or stop - start < 8:
                if seen:
                    bits[at >> 3] |= 1 << (at & 7)
                else:
                    bits[at >> 3] &= ~(1 << (at & 7))
                start += 1
            else:
                whole = min((stop - start) >> 3, _BYTES - (at >> 3))
                bits[at >> 3 : (at >> 3) + whole] = (b"\xff" if seen else b"\0") * whole
                start += whole << 3
