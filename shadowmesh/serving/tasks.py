"""What a process does by itself, and goes on doing whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shadowmesh.model.errors import ShadowMeshError

log = structlog.get_logger("shadowmesh.serving")


async def repeat(every: float, what: Callable[[], Awaitable[object]]) -> None:
    """Awaits `what()` every so many seconds until cancelled. A failure is logged, and the next turn tries again."""
    while True:
        await asyncio.sleep(every)
        try:
            await what()
        except (OSError, ShadowMeshError) as e:  # the machine's or an operator's doing: no traceback is needed
            log.error("a background task failed, and goes on", task=_name(what), why=str(e))
        except Exception:
            log.exception("a background task failed, and goes on", task=_name(what))


def _name(what: Callable[..., object]) -> str:
    inner: Callable[..., object] = getattr(what, "func", what)
    return getattr(inner, "__qualname__", repr(inner))
