"""What a process does by itself, and goes on doing whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.serving.rarelog import RareLog

T = TypeVar("T")


async def repeat(every: float, what: Callable[[], Awaitable[object]]) -> None:
    """Awaits `what()` every so many seconds until cancelled. A failure is logged rarely, and the next turn tries again."""
    rare, event = RareLog("shadowmesh.serving"), "a background task failed, and goes on"
    while True:
        await asyncio.sleep(every)
        try:
            await what()
        except Exception as e:
            rare.error(event, type(e).__name__, task=_name(what), **_why(e))


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


async def for_each(
    things: Iterable[T],
    act: Callable[[T], Awaitable[object]],
    rare: RareLog,
    event: str,
    name: Callable[[T], str] = str,
) -> list[tuple[T, Exception]]:
    """Awaits `act` of each, one after another, whatever ails one of them. Returns those that failed, and why.

    `event` is what is logged of a failure, with the thing's `name`: once a minute, however many there are.
    """
    failed: list[tuple[T, Exception]] = []
    for thing in things:
        try:
            await act(thing)
        except Exception as e:
            tell_failure(rare, event, e, name(thing))
            failed.append((thing, e))
    return failed


class Turns:
    """Works in the background, each by its key one at a time: asked for while it runs, it runs once more."""

    def __init__(self, rare: RareLog, event: str, pause: float = 0.02) -> None:
        """`event` is logged of what fails. `pause`: seconds before each run, for what else comes to be done by it."""
        self._rare = rare
        self._event = event
        self._pause = pause
        self._running: dict[object, asyncio.Task[None]] = {}
        self._again: set[object] = set()

    def run(self, key: object, work: Callable[[], Awaitable[object]]) -> None:
        if key in self._running:
            self._again.add(key)
        else:
            self._running[key] = asyncio.get_running_loop().create_task(self._run(key, work))

    async def _run(self, key: object, work: Callable[[], Awaitable[object]]) -> None:
        try:
            going = True
            while going:
                await asyncio.sleep(self._pause)
                self._again.discard(key)
                try:
                    await work()
                except Exception as e:
                    tell_failure(self._rare, self._event, e, str(key))
                going = key in self._again
        finally:
            self._running.pop(key, None)

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()


def tell_failure(rare: RareLog, event: str, error: Exception, of: str) -> None:
    """Logs it rarely; with a traceback unless it is the machine's or an operator's doing."""
    rare(event, of=of, **_why(error))


def _why(error: Exception) -> dict[str, object]:
    traceback = {} if isinstance(error, OSError | ShadowMeshError) else {"exc_info": error}
    return {"why": f"{type(error).__name__}: {error}"[:300], **traceback}


def _name(what: Callable[..., object]) -> str:
    inner: Callable[..., object] = getattr(what, "func", what)
    return getattr(inner, "__qualname__", repr(inner))
