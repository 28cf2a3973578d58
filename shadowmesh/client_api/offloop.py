"""Calls that block, for a program with an event loop: in threads that the end of the program doesn't wait for."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.errors import ShadowMeshError

T = TypeVar("T")
_Job = tuple[Callable[[ControllerClient], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class ControllerCalls:
    """A controller for many calls at once: each thread has a client of its own, which `opens` makes when it is first needed, and
    after each that failed by itself.

    A call that nobody waits for any more goes on to its end, and what comes of it is dropped.
    """

    def __init__(self, opens: Callable[[], ControllerClient], threads: int = 3) -> None:
        self.opens = opens
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = threads
        self._started = False
        self._closed = False

    async def __call__(self, function: Callable[[ControllerClient], T]) -> T:
        """What `function` returns. Raises what it raises."""
        if self._closed:
            raise RuntimeError("no calls any more")
        if not self._started:
            self._started = True
            for n in range(self._threads):
                threading.Thread(target=self._work, name=f"controller call {n}", daemon=True).start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((function, done, loop))
        return await done

    def close(self) -> None:
        """No calls any more; the threads end once they have nothing to do."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        client: ControllerClient | None = None
        while (job := self._jobs.get()) is not None:
            function, done, loop = job
            if done.cancelled():
                continue
            result, error = None, None
            try:
                client = client or self.opens()
                result = function(client)
            except BaseException as e:
                error = e
                if client is not None and not isinstance(e, ShadowMeshError):
                    client.close()
                    client = None
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, done, result, error)
        if client is not None:
            client.close()


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


async def in_thread(function: Callable[[], T]) -> T:
    """What `function` returns, of a thread of its own that the end of the program doesn't wait for. Raises what it raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as e:
            error = e
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, done, result, error)

    threading.Thread(target=work, name="call", daemon=True).start()
    return await done
