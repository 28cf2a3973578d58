"""What clients used, until the controller has it: counted once, whoever is killed when. Sans-I/O.

ledger.add(core.take_usage())            # each 30 s
store.save(ledger.state)                 # before anything is sent
message = ledger.report(wall)            # the oldest that isn't taken: the same one until `taken`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from shadowmesh.model.codec import Struct
from shadowmesh.model.ids import ClientID
from shadowmesh.model.relaylink import USAGE_ENTRIES, ClientUsage, Usage

MOST_CLIENTS = 100_000  # that wait; what others use goes uncounted


class LedgerState(Struct, frozen=True, kw_only=True):
    """What is kept on disk. `number` is that of the last message that was made."""

    ledger: str
    number: int = 0
    pending: Usage | None = None
    waiting: tuple[ClientUsage, ...] = ()


class UsageLedger:
    def __init__(self, state: LedgerState | None = None, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        """`state`: as it was left; None for a new ledger."""
        self._state = state or LedgerState(ledger=random_bytes(16).hex())
        self._number, self._pending = self._state.number, self._state.pending
        self._waiting = {entry.client_id: (entry.sent, entry.received) for entry in self._state.waiting}

    @property
    def state(self) -> LedgerState:
        waiting = tuple(ClientUsage(client_id=c, sent=s, received=r) for c, (s, r) in self._waiting.items())
        return LedgerState(ledger=self._state.ledger, number=self._number, pending=self._pending, waiting=waiting)

    def add(self, used: Mapping[ClientID, tuple[int, int]]) -> bool:
        """Whether there was anything."""
        for client_id, (sent, received) in used.items():
            before = self._waiting.get(client_id)
            if before is None and len(self._waiting) >= MOST_CLIENTS:
                continue
            self._waiting[client_id] = (sent, received) if before is None else (before[0] + sent, before[1] + received)
        return bool(used)

    def cut(self, wall: float) -> Usage | None:
        """Makes the next message if none is pending; returns the one that is. `wall`: the controller's time."""
        if self._pending is None and self._waiting:
            clients = list(self._waiting)[:USAGE_ENTRIES]
            entries = tuple(
                ClientUsage(client_id=c, sent=sent, received=received)
                for c in clients
                for sent, received in (self._waiting.pop(c),)
            )
            self._number += 1
            self._pending = Usage(ledger=self._state.ledger, number=self._number, at=wall, entries=entries)
        return self._pending

    def taken(self, ledger: str, number: int) -> bool:
        """The controller has it. Whether that was news."""
        if self._pending is None or (ledger, number) != (self._pending.ledger, self._pending.number):
            return False
        self._pending = None
        return True
