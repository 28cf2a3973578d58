"""Work of a process: threads that its end doesn't wait for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shadowmesh.serving.tasks import in_thread


async def test_what_a_thread_returns_or_raises_comes_back() -> None:
    assert await in_thread(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


@pytest.mark.timeout(30)
def test_the_end_of_the_loop_doesnt_wait_for_a_thread() -> None:
    go_on, goes = threading.Event(), threading.Event()

    def work() -> None:
        goes.set()
        go_on.wait()

    async def run() -> None:
        task = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(goes.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        go_on.set()
