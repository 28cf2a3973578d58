"""The newest lines of a log, as far as they are held to be looked at. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from shadowmesh_tui.console.timerange import TimeRange

L = TypeVar("L")
MOST_LINES = 5000
AT_ONCE = 2000  # lines of one reading: between two, the screen shows what is known


class LogBook(Generic[L]):
    """`number`: of a line; they come in its order, the newest last. `dropped`: how many older ones were let go; `whole`: all that
    there is has been read once."""

    def __init__(self, of: TimeRange, number: Callable[[L], int]) -> None:
        self.of = of
        self.lines: deque[L] = deque(maxlen=MOST_LINES)
        self.dropped = 0
        self.last = 0
        self.whole = False
        self._number = number

    def add(self, lines: Iterable[L]) -> int:
        """Those that aren't in it yet. How many these were."""
        count = 0
        for line in lines:
            if self._number(line) <= self.last:
                continue
            self.dropped += len(self.lines) == MOST_LINES
            self.lines.append(line)
            self.last = self._number(line)
            count += 1
        return count

    def forget(self, is_over: Callable[[L], bool]) -> int:
        """The oldest ones, as far as their time is over. How many these were."""
        count = 0
        while self.lines and is_over(self.lines[0]):
            self.lines.popleft()
            count += 1
        return count
