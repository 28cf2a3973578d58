"""A role on this host that was started a moment ago, and doesn't answer at its socket yet, is waited for.

So that a script can say `shadowmesh controller run &` and go on with the next line. A role holds a lock in its directory
from early on; whether somebody holds it is read from /proc/locks, without touching it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shadowmesh.client_api.unixsocket import answers

LIMIT_S = 10.0
_LOOK_EVERY_S = 0.1


def is_locked(lock: Path) -> bool:
    """Whether a process that this one can see holds a flock(2) on the file."""
    try:
        inode = lock.stat().st_ino
        held = Path("/proc/locks").read_text()
    except OSError:
        return False
    return any(line.split()[5].endswith(f":{inode}") for line in held.splitlines() if " FLOCK " in line)


def until_answers(
    socket: Path,
    lock: Path,
    *,
    locked_s: float | None = None,
    unlocked_s: float = 0.0,
    waiting: Callable[[], None] = lambda: None,
) -> bool:
    """Waits until something answers at `socket`: `locked_s`, or ten seconds, at most while `lock` is held, and `unlocked_s` where it isn't
    (yet). `waiting` is called once if it takes more than a moment. Returns whether something answers."""
    began, told = time.monotonic(), False
    locked_s = LIMIT_S if locked_s is None else locked_s
    while not answers(socket):
        waited = time.monotonic() - began
        if waited >= (locked_s if is_locked(lock) else unlocked_s):
            return False
        if waited > 0.5 and not told:
            told = True
            waiting()
        time.sleep(_LOOK_EVERY_S)
    return True
