"""How much each client may send: its token's limit, and a fair share where the relay's capacity is short.

Time is cut into windows of 100 ms. A session's budget for a window is set when it first sends in it: at most its
token's rate (with a second's burst), and at most the share. The share comes from the window before: if all together
wanted more than the capacity, it is the level at which the capacity is just used up when those who want less get
all they want (max-min fairness); otherwise there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from shadowmesh.relay.sessions import Session

WINDOW = 0.1  # seconds
_BURST_WINDOWS = 10


def fair_level(demands: Iterable[int], capacity: float) -> float:
    """The level L with sum(min(demand, L)) = capacity; infinite if the capacity suffices."""
    ordered = sorted(demands)
    left, remaining = capacity, len(ordered)
    for demand in ordered:
        if demand * remaining > left:
            return left / remaining
        left -= demand
        remaining -= 1
    return math.inf


class Allotment:
    """The budgets of all sessions. `capacity`: bytes per second of the whole relay, None for as much as it can."""

    def __init__(self, capacity: float | None = None) -> None:
        self.share = math.inf  # bytes per window and session
        self.short = False  # the last window wanted more than the capacity
        self._capacity = None if capacity is None else capacity * WINDOW
        self._window = 0
        self._active: list[Session] = []

    def advance(self, now: float) -> None:
        """Call before a batch. `now`: any clock of seconds that doesn't go back."""
        window = int(now / WINDOW)
        if window == self._window:
            return
        if self._capacity is not None:
            # After an idle window nobody's demand is known: start without a share.
            demands = [s.offered for s in self._active] if window == self._window + 1 else []
            self.share = fair_level(demands, self._capacity)
            self.short = math.isfinite(self.share)
        self._window = window
        self._active.clear()

    def spend(self, session: Session, octets: int) -> bool:
        """Whether `octets` may pass; if so they are taken from the budget (which the last batch may overdraw)."""
        if session.window != self._window:
            self._refill(session)
        session.offered += octets
        if session.budget <= 0:
            return False
        session.budget -= octets
        return True

    def _refill(self, session: Session) -> None:
        rate = session.token.limits.kbit * 125 * WINDOW
        if rate:
            full = rate * _BURST_WINDOWS
            if session.window < 0:
                session.credit = full
            else:
                spent = session.granted - session.budget
                session.credit = min(full, session.credit - spent + rate * (self._window - session.window))
        overdrawn = min(0.0, session.budget)
        session.window = self._window
        session.granted = session.budget = min(session.credit, self.share + overdrawn)
        session.offered = 0
        self._active.append(session)
