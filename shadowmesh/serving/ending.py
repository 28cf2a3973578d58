"""How a role ends: told once it takes its time, which is bounded; told again it ends at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger("shadowmesh.serving")

END_WITHIN = 20.0  # seconds from the word to stop to the process's end
_AGAIN_AFTER = 0.5  # seconds; signals within them are one, as when a terminal and a wrapper both pass one on
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT calls `stop`, in the running loop; the next ends the process, also where that loop
    turns no more."""
    loop = asyncio.get_running_loop()
    told = False

    def first() -> None:
        nonlocal told
        if not told:
            told = True
            loop.call_later(_AGAIN_AFTER, let_through)
            stop()

    def let_through() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, first)


def end_within(role: str, seconds: float = END_WITHIN) -> None:
    """The role has begun to stop: after so many seconds its process ends, whatever it waits for. What was answered is
    on disk by then, as after a kill."""

    def give_up() -> None:
        log.error("not stopped in time; ended as it is", role=role, seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
