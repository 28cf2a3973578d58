"""What every service stands on: the store, the keys, the settings, the clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa

from shadowmesh.controller.clientcerts import ClientAuthority
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.outward.mail import Mailer
from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.service.counts import Counts
from shadowmesh.controller.service.limits import SharedLimits
from shadowmesh.controller.settings import Settings, Timing
from shadowmesh.controller.store.database import StorageFailed, Store, Transaction, is_lost_race
from shadowmesh.serving.rarelog import RareLog

T = TypeVar("T")

_ATTEMPTS = 4  # PostgreSQL: how often a write that lost a race is tried


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """Handed to every service."""

    store: Store
    keys: KeyRing
    settings: Settings
    timing: Timing
    clock: Callable[[], dt.datetime]
    authority: ClientAuthority | None = None
    mailer: Mailer | None = None  # of who signs up
    counts: Counts = field(default_factory=Counts)
    limits: SharedLimits = field(default_factory=SharedLimits)
    span: Callable[[str], AbstractContextManager[object]] = lambda name: (
        nullcontext()
    )  # of a trace, for what is done in it
    rare: RareLog = field(default_factory=lambda: RareLog("shadowmesh.controller"))  # of what fails again and again

    def now(self) -> dt.datetime:
        return self.clock()

    async def write(self, tx: Transaction[T]) -> T:
        """One transaction. A lost race shows as a broken constraint; run again, `tx` finds what was first and says so."""
        for _ in range(_ATTEMPTS):
            try:
                with self.span("database write"):
                    return await self.store.write(tx)
            except sa.exc.IntegrityError as e:
                if not is_lost_race(e):
                    raise
            except StorageFailed:
                self.counts.database_errors.inc()
                raise
        raise conflict("busy", "others changed the same thing at the same moment", "try again")

    async def note(self, tx: Transaction[object], what: str) -> None:
        """One transaction for what nobody relies on, as when somebody was seen: where the database can't be written it is left out.

        `what` is logged then, rarely.
        """
        try:
            await self.write(tx)
        except StorageFailed as e:
            self.rare("something isn't noted", what=what, why=e.what)

    async def read(self, tx: Transaction[T]) -> T:
        try:
            with self.span("database read"):
                return await self.store.read(tx)
        except StorageFailed:
            self.counts.database_errors.inc()
            raise
