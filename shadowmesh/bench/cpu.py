"""CPU time of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on (proc(5): field 3). Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def with_children(pids: Iterable[int]) -> list[int]:
    """The processes that run among these, and their descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                parents.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid not in found and Path(f"/proc/{pid}").exists():
            found.append(pid)
            todo += parents.get(pid, [])
    return found


def spent(pids: Iterable[int]) -> float:
    """Seconds of CPU, user and system, that these processes have used. Who has ended counts nothing."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, _fields(pid)[11:13]))
    return ticks / _TICKS


def peak_memory(pids: Iterable[int]) -> int:
    """The sum of each process's largest resident size so far, in bytes (VmHWM). Shared pages count for each."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total
