"""Writes to the state that may come late: what the daemon was told counts at once, and is on disk as soon as it can be.

A full disk, or another process that holds the database, must keep no removed member in. While a write waits, the state
is marked as behind (`State.mark_behind`): after a restart the controller is asked before the old map is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable
from typing import TypeAlias

import structlog

from shadowmesh.daemon.state import State
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import NetworkID

log = structlog.get_logger(__name__)

RETRY = 2.0  # seconds; a try against a held database costs a tenth of a second
_PATIENCE, _LAST_PATIENCE = 0.2, 2.0  # seconds for the tries of one turn, and at the end

_Key: TypeAlias = tuple[NetworkID | None, Hashable]


class Keeper:
    """One per daemon. `changed` is called when `warning` comes or goes."""

    def __init__(self, state: State, changed: Callable[[], None], retry: float = RETRY) -> None:
        self._state = state
        self._changed = changed
        self._retry = retry
        self._waiting: dict[_Key, Callable[[], None]] = {}
        self._told: set[str] = set()  # codes of failures since all was saved
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

        What is written is whole in itself: one that fails holds up no other. Returns whether it is on disk.
        """
        self._waiting.pop((network, what), None)
        self._waiting[network, what] = write
        failure = self._try((network, what))
        self._tried(failure)
        return failure is None

    def drop(self, network: NetworkID) -> None:
        """What waits for this network is void: other things are on disk now."""
        self._waiting = {key: write for key, write in self._waiting.items() if key[0] != network}

    def forget(self) -> None:
        """The state was emptied: what waits for it is void, and nothing in it is in doubt."""
        self._waiting.clear()
        self._unconfirmed.clear()
        self.write()

    def write(self, patience: float = _PATIENCE) -> bool:
        """Tries what waits, those first that weren't tried for longest. Returns whether nothing waits any more.

        Once one has failed, no more is begun after `patience` seconds: the event loop stands still meanwhile.
        """
        end = time.monotonic() + patience
        failure = None
        for key in list(self._waiting):
            failure = self._try(key) or failure
            if failure is not None and time.monotonic() > end:
                break
        self._tried(failure)
        return not self._waiting

    def _try(self, key: _Key) -> ShadowMeshError | None:
        """One write that waits. Returns why it still does, behind all others."""
        write = self._waiting.pop(key)
        try:
            write()
        except ShadowMeshError as e:
            failure = e
        except Exception as e:  # a fault of ours must no more lose what was told than a full disk
            log.exception("can't be saved", what=str(key[1]))
            failure = ShadowMeshError("not_saved", f"something can't be saved ({type(e).__name__}: {e})", "see the log")
        else:
            return None
        self._waiting[key] = write
        return failure

    def _tried(self, failure: ShadowMeshError | None) -> None:
        if failure is not None:
            self._failed(failure)
        if self._waiting:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._retry, self._try_again)
            return
        self._stop_timer()
        if self.failure is not None:
            log.info("everything is saved again")
            self.failure = None
            self._told.clear()
            self._changed()
        if not self._unconfirmed:
            self._state.mark_current()

    def _failed(self, error: ShadowMeshError) -> None:
        self._state.mark_behind()
        if error.code in self._told:
            return
        self._told.add(error.code)
        log.error("not saved; it counts all the same, and is tried again", why=str(error), waiting=len(self._waiting))
        self.failure = error
        self._changed()

    def _try_again(self) -> None:
        self._timer = None
        self.write()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self) -> None:
        """The last try. What still waits is lost, but for the mark that it is missing."""
        if self._waiting and not self.write(_LAST_PATIENCE):
            log.error("stopping with changes that couldn't be saved", waiting=len(self._waiting))
        self._stop_timer()
