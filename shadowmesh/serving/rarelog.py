"""Logs of what strangers can cause: each kind of line once a minute at most, with how often it happened."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import structlog

INTERVAL = 60.0
_MOST = 256  # kinds of lines that are told apart
_OURS = str(Path(__file__).resolve().parents[1])


class RareLog:
    """`rare("accept_failed", why=…)` logs a warning, unless the same event was logged within the last minute; `rare.error` an error."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger(name)
        self._clock = clock
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def __call__(self, event: str, **fields: object) -> bool:
        """Whether it was logged."""
        return self._tell(self._log.warning, event, event, fields)

    def error(self, event: str, kind: str, **fields: object) -> bool:
        """The same for what is the process's own trouble; events of another `kind` are told apart."""
        return self._tell(self._log.error, event, f"{event}: {kind}", fields)

    def _tell(self, log: Callable[..., object], event: str, kind: str, fields: dict[str, object]) -> bool:
        now = self._clock()
        if now - self._said.get(kind, -INTERVAL) < INTERVAL:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return False
        if len(self._said) >= _MOST and kind not in self._said:
            self._said.clear()
            self._unsaid.clear()
        self._said[kind] = now
        if unsaid := self._unsaid.pop(kind, 0):
            fields["unsaid"] = unsaid
        log(event, **fields)
        return True


class _Handler(logging.Handler):
    """A library's warnings. A traceback that never comes through our own code is the other side's doing, and left out."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._rare = RareLog(name)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        fields: dict[str, object] = {} if error is None else {"error": f"{type(error).__name__}: {error}"[:300]}
        if error is not None and any(f.filename.startswith(_OURS) for f in traceback.extract_tb(error.__traceback__)):
            fields["exc_info"] = error
        event = str(record.msg).strip().splitlines()[0][:200] if record.args else record.getMessage().strip()[:200]
        self._rare(f"{record.name}: {event}", **fields)


def tame_libraries(name: str) -> None:
    """Sends the warnings of asyncio, uvicorn and websockets through a RareLog of this name. Call it once per process."""
    handler = _Handler(name)
    for library in ("asyncio", "uvicorn", "websockets"):
        logger = logging.getLogger(library)
        logger.handlers[:] = [handler]
        logger.propagate = False
