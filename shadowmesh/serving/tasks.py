"""What a process does by itself, and goes on doing whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from shadowmesh.model.errors import ShadowMeshError

log = structlog.get_logger("shadowmesh.serving")

T = TypeVar("T")


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


async def in_thread(work: Callable[[], T]) -> T:
    """What `work()` returns or raises, in a thread of its own that the process's end doesn't wait for.

    `asyncio.to_thread` is for what is short: `asyncio.run` doesn't return before its threads do.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if future.done() else result())

    def run() -> None:
        try:
            value = work()
        except BaseException as e:
            error = e
            tell(lambda: future.set_exception(error))
        else:
            tell(lambda: future.set_result(value))

    threading.Thread(target=run, name=_name(work), daemon=True).start()
    return await future


def _name(what: Callable[..., object]) -> str:
    inner: Callable[..., object] = getattr(what, "func", what)
    return getattr(inner, "__qualname__", repr(inner))
