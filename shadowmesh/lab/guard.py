"""A process that outlives another, to clean up after it however it ended."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress


def start(action: Callable[[], object]) -> int:
    """Forks a guard that runs `action` once this process has ended, even by kill -9. Returns the guard's process id."""
    watched = os.pidfd_open(os.getpid())  # by handle: a process id could be given out again
    pid = os.fork()
    if pid:
        os.close(watched)
        return pid
    try:
        _detach(watched)
        select.select([watched], [], [])
        action()
    finally:
        os._exit(0)


def dismiss(pid: int) -> None:
    """Ends the guard without its action. It has to be a child of this process."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _detach(watched: int) -> None:
    """Own session (Ctrl-C of the terminal isn't for the guard), nothing of the parent's held open but `watched`."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, watched)
    os.closerange(watched + 1, limit)
