"""Writes to the state that may come late: what the daemon was told counts at once, and is on disk as soon as it can be.

A full disk, or another process that holds the database, must keep no removed member in. While a write waits, the state
is marked as behind (`State.mark_behind`): after a restart the controller is asked before the old map is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable

import structlog

from shadowmesh.daemon.state import State
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import NetworkID

log = structlog.get_logger(__name__)

RETRY = 2.0  # seconds; a try against a held database costs a tenth of a second


class Keeper:
    """One per daemon. `changed` is called when `warning` comes or goes."""

    def __init__(self, state: State, changed: Callable[[], None], retry: float = RETRY) -> None:
        self._state = state
        self._changed = changed
        self._retry = retry
        self._waiting: dict[tuple[NetworkID | None, Hashable], Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._unconfirmed: set[NetworkID] = set()
        self.failure: ShadowMeshError | None = None

    def doubt(self, networks: Iterable[NetworkID]) -> None:
        """The state was behind when it was left: what it says of these counts as old until their controllers spoke."""
        self._unconfirmed = set(networks)

    def confirm(self, network: NetworkID) -> None:
        """Its controller has spoken, and what it said is kept, or waits for it."""
        self._unconfirmed.discard(network)
        if not self._waiting and not self._unconfirmed:
            self._state.mark_current()

    @property
    def warning(self) -> str | None:
        """What to tell people while something waits."""
        return None if self.failure is None else f"not everything is saved: {self.failure}; it is tried again"

    def keep(self, network: NetworkID | None, what: Hashable, write: Callable[[], None]) -> bool:
        """Writes now, or as soon as it is possible; a later write of the same thing takes the place of one that waits.

        Returns whether it is on disk.
        """
        self._waiting.pop((network, what), None)
        self._waiting[network, what] = write
        return self.write()

    def drop(self, network: NetworkID) -> None:
        """What waits for this network is void: other things are on disk now."""
        self._waiting = {key: write for key, write in self._waiting.items() if key[0] != network}

    def forget(self) -> None:
        """The state was emptied: what waits for it is void, and nothing in it is in doubt."""
        self._waiting.clear()
        self._unconfirmed.clear()
        self.write()

    def write(self) -> bool:
        """Tries all that waits, in order. Returns whether nothing does any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            while self._waiting:
                key = next(iter(self._waiting))
                self._waiting[key]()
                del self._waiting[key]
        except ShadowMeshError as e:
            self._failed(e)
            return False
        if self.failure is not None:
            log.info("everything is saved again")
            self.failure = None
            self._changed()
        if not self._unconfirmed:
            self._state.mark_current()
        return True

    def _failed(self, error: ShadowMeshError) -> None:
        self._state.mark_behind()
        if self.failure is None or self.failure.code != error.code:
            log.error(
                "not saved; it counts all the same, and is tried again", why=str(error), waiting=len(self._waiting)
            )
            self.failure = error
            self._changed()
        self._timer = asyncio.get_running_loop().call_later(self._retry, self.write)

    def stop(self) -> None:
        """The last try. What still waits is lost, but for the mark that it is missing."""
        if self._waiting and not self.write():
            log.error("stopping with changes that couldn't be saved", waiting=len(self._waiting))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
