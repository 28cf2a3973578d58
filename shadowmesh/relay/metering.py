"""Tells the controller what clients used: each 30 s, to disk first, so that a relay that is killed loses what it counted since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from websockets.exceptions import WebSocketException

from shadowmesh.model.clock import Now
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.relaylink import USAGE_SECONDS, Usage
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.store import RelayStore
from shadowmesh.relay.usageledger import LedgerState, UsageLedger
from shadowmesh.serving.rarelog import RareLog

log = structlog.get_logger(__name__)
_rare = RareLog(__name__)

Tell = Callable[[Usage], Awaitable[None]]


class Metering:
    def __init__(
        self, core: RelayCore, store: RelayStore, clock: Callable[[], Now], every: float = USAGE_SECONDS
    ) -> None:
        self._core = core
        self._store = store
        self._clock = clock
        self._every = every
        self._ledger = UsageLedger(store.usage())
        self._tell: Tell | None = None
        self._wake = asyncio.Event()
        self._kept = self._ledger.state

    def linked(self, tell: Tell | None) -> None:
        """The controller is there (what wasn't taken is told again), or away."""
        self._tell = tell
        if tell is not None:
            self._wake.set()

    def taken(self, ledger: str, number: int) -> None:
        if self._ledger.taken(ledger, number):
            self._wake.set()  # there may be more, and what is on disk is out of date

    async def run(self) -> None:
        """Until cancelled; what was counted by then is on disk."""
        due = self._clock().boot + self._every
        try:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, due - self._clock().boot)):
                        await self._wake.wait()
                except TimeoutError:
                    due = self._clock().boot + self._every
                    self._ledger.add(self._core.take_usage())
                self._wake.clear()
                await self._forward()
        finally:
            self._ledger.add(self._core.take_usage())
            self._save(self._ledger.state)

    async def _forward(self) -> None:
        tell = self._tell
        message = None
        if tell is not None:
            message = self._ledger.cut(self._clock().wall + self._core.wall_offset)
        if not await asyncio.to_thread(self._save, self._ledger.state) or message is None or tell is None:
            return  # what isn't on disk isn't told: it could be counted twice
        try:
            await tell(message)
        except (WebSocketException, OSError):
            return  # told again on the next link
        except Exception:
            log.exception("usage can't be told")

    def _save(self, state: LedgerState) -> bool:
        if state == self._kept:
            return True
        try:
            self._store.save_usage(state)
        except ShadowMeshError as e:
            _rare("usage not saved, and not told", what=e.what)
            return False
        self._kept = state
        return True
