"""The interface that every pump has, and the one way to get one.

Values are in `model.pump`; the rules that an implementation has to keep are in `docs/pump.md` and are
checked by the conformance suite (`tests/dataplane/conformance.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shadowmesh.model.pump import Command, Event


class Pump(Protocol):
    """Moves packets between TUN devices and sockets by the sessions and paths it was given."""

    @property
    def name(self) -> str:
        """ "python", "native" or "sim"."""

    def apply(self, commands: Sequence[Command]) -> None:
        """Applies in order. Descriptors in commands stay the caller's to close; the pump works on its own duplicates."""

    def fileno(self) -> int:
        """Readable when `drain` has something."""

    def drain(self, limit: int = 256) -> list[Event]:
        """Up to `limit` events, oldest first within a kind; never blocks. Raises PumpDied when the process has gone."""

    def counters(self) -> memoryview:
        """The shared table: records of `len(COUNTER_FIELDS)` native u64 each, in `COUNTER_FIELDS` order."""

    def kill(self) -> None:
        """Ends a pump that doesn't answer; `close` is still to be called."""

    def close(self) -> None:
        """Ends the pump and wipes its keys. TUN devices go with their last descriptor."""


class PumpDied(Exception):
    """The pump's process ended without having been asked to."""
