"""Open connections of people: they end, or are narrowed, when the rights that they were opened with do."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Protocol

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.refusals import conflict

MOST = 100  # connections of one user


class Watcher(Protocol):
    """A connection that goes on using rights."""

    who: Principal

    def suspend(self) -> None:
        """From now until `recheck` is through nothing goes out on it."""

    async def recheck(self) -> None:
        """Asks again who this is and what they may see; ends the connection if that is nothing."""


class Watchers:
    def __init__(self) -> None:
        self._open: set[Watcher] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, watcher: Watcher) -> Callable[[], None]:
        """Returns what to call when the connection has ended. Raises ShadowMeshError(too_many_watchers)."""
        who = watcher.who
        if sum(w.who.user_id == who.user_id for w in self._open) >= MOST:  # whichever of their API keys they show
            raise conflict(
                "too_many_watchers",
                f"{who.email or who.name} watches on {MOST} connections already",
                "close one of them first",
            )
        self._open.add(watcher)
        return lambda: self._open.discard(watcher)

    def changed(self, user_id: str) -> None:
        """The user's rights have changed, and that is committed."""
        self._recheck([w for w in self._open if w.who.user_id == user_id])

    def expire(self, now: dt.datetime) -> None:
        """Ends those whose token has run out."""
        self._recheck([w for w in self._open if w.who.expires is not None and w.who.expires <= now])

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _recheck(self, watchers: list[Watcher]) -> None:
        for watcher in watchers:
            watcher.suspend()
            task = asyncio.get_running_loop().create_task(watcher.recheck())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
