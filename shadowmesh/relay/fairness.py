"""How much each client may send: its token's limit, and a fair share where the relay's capacity is short.

Time is cut into windows of 100 ms. A session's budget for a window is set when it first sends in it: at most its
token's rate (with a second's burst), and at most the share. The share comes from the window before: if all together
wanted more than the capacity, it is the level at which the capacity is just used up when those who want less get
all they want (max-min fairness); otherwise there is none. A network whose tokens limit what its sessions send together
has a budget for these, with a second's burst, and shares it among them in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from shadowmesh.model.keys import NetworkID
from shadowmesh.relay.sessiontable import ClientSession, NetworkBudget

WINDOW = 0.1  # seconds
_BURST_WINDOWS = 10


def fair_level(demands: Iterable[float], capacity: float) -> float:
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
        self._active: list[ClientSession] = []
        self._networks: dict[NetworkID, NetworkBudget] = {}  # those that have a limit

    def advance(self, now: float) -> None:
        """Call before a batch. `now`: any clock of seconds that doesn't go back."""
        window = int(now / WINDOW)
        if window == self._window:
            return
        # After an idle window nobody's demand is known: start without a share.
        active = self._active if window == self._window + 1 else []
        if self._networks:
            self._share_networks(active, window)
        if self._capacity is not None:
            demands = [s.offered if s.together is None else min(s.offered, s.together.level) for s in active]
            self.share = fair_level(demands, self._capacity)
            self.short = math.isfinite(self.share)
        self._window = window
        self._active.clear()

    def spend(self, session: ClientSession, octets: int) -> bool:
        """Whether `octets` may pass; if so they are taken from the budget (which the last batch may overdraw)."""
        if session.window != self._window:
            self._refill(session)
        session.offered += octets
        together = session.together
        if session.budget <= 0 or (together is not None and together.credit <= 0):
            return False
        session.budget -= octets
        if together is not None:
            together.credit -= octets
        return True

    def _share_networks(self, active: Iterable[ClientSession], window: int) -> None:
        """Levels for the window that begins. A network that sent nothing for as long as a burst has a full budget anyway."""
        demands: dict[NetworkID, list[int]] = {}
        for session in active:
            if session.together is not None:
                demands.setdefault(session.network_id, []).append(session.offered)
        for network_id, budget in list(self._networks.items()):
            budget.level = fair_level(demands.get(network_id, ()), budget.rate)
            if window - budget.window > _BURST_WINDOWS and network_id not in demands:
                del self._networks[network_id]

    def _together(self, session: ClientSession) -> NetworkBudget | None:
        """Its network's budget, filled for this window."""
        rate = session.token.limits.network_kbit * 125 * WINDOW
        if not rate:
            return self._networks.get(session.network_id)
        budget = self._networks.get(session.network_id)
        if budget is None:
            budget = self._networks[session.network_id] = NetworkBudget(rate, self._window, rate * _BURST_WINDOWS)
        elif budget.window == self._window:
            budget.rate = min(budget.rate, rate)
        else:
            full, grown = rate * _BURST_WINDOWS, rate * (self._window - budget.window)
            budget.rate, budget.window, budget.credit = rate, self._window, min(full, budget.credit + grown)
        return budget

    def _refill(self, session: ClientSession) -> None:
        rate = session.token.limits.kbit * 125 * WINDOW
        if rate:
            full = rate * _BURST_WINDOWS
            if session.window < 0:
                session.credit = full
            else:
                spent = session.granted - session.budget
                session.credit = min(full, session.credit - spent + rate * (self._window - session.window))
        together = session.together = self._together(session)
        share = self.share if together is None else min(self.share, together.level)
        overdrawn = min(0.0, session.budget)
        session.window = self._window
        session.granted = session.budget = min(session.credit, share + overdrawn)
        session.offered = 0
        self._active.append(session)
