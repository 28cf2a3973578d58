"""A thread for calls that may hang in the kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class OneThread(Executor):
    """Carries out calls one after another, in a thread that the process's end doesn't wait for, as it does for a `ThreadPoolExecutor`'s."""

    def __init__(self, name: str, begin: Callable[[], None] = lambda: None) -> None:
        """`begin` is called first, in the thread; what it raises, each call raises."""
        self._begin = begin
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._mutex = threading.Lock()
        self._ended = False

    @property
    def is_current(self) -> bool:
        """Whether the caller is in this thread."""
        return threading.current_thread() is self._thread

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Raises RuntimeError after `shutdown`."""
        future: Future[R] = Future()
        with self._mutex:
            if self._ended:
                raise RuntimeError("this thread has been ended")
            if self._thread.ident is None:
                self._thread.start()
            self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the thread after what was submitted, or (`cancel_futures`) after the call that is under way."""
        with self._mutex:
            started, self._ended = self._thread.ident is not None, True
            while cancel_futures and not self._calls.empty():
                call = self._calls.get()
                if call is not None:
                    call[0].cancel()
            self._calls.put(None)
        if wait and started:
            self._thread.join()

    def _run(self) -> None:
        trouble: BaseException | None = None
        try:
            self._begin()
        except BaseException as e:
            trouble = e
        while (call := self._calls.get()) is not None:
            future, work = call
            if future.set_running_or_notify_cancel():
                try:
                    if trouble is not None:
                        raise trouble
                    future.set_result(work())
                except BaseException as e:
                    future.set_exception(e)
            del call, future, work  # nothing is held while waiting
