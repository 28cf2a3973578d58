"""Gives memory back to the system after a crowd has gone."""

from __future__ import annotations

import ctypes
import gc
import sysconfig
from functools import cache
from typing import ClassVar

CROWD = 256  # connections
CHURN = 16_384  # connections that ended since the last collection; each leaves a kilobyte of cycles
_REST = (
    60.0  # seconds between two times: a collection looks at every object once, a tenth of a second where there are many
)


class Memory:
    """Neither Python nor the C library gives back by itself what many connections used: their cycles wait for a collection that
    an idle process never starts, and the heap keeps its top. `look` says when it is worth the while, and does it: when half
    of a crowd has gone, and once more later, as what a connection has under way may outlive it. While connections come and go in
    numbers, it collects what they leave.

    Python's own allocator (see "The pymalloc allocator" in its documentation) takes memory by the megabyte and gives back only whole
    ones, and something that lasts comes to lie in most of them. So between `crowd` and `calm` objects come from the C library, which
    takes longer for each, and gives back pages.
    """

    def __init__(self) -> None:
        self._peak = 0
        self._again = False
        self._next = 0.0
        self._collected = 0  # how many had ended
        self._next_churn = 0.0

    def crowd(self) -> None:
        """Call when there come to be CROWD connections of strangers."""
        _take_from_system(True)

    def calm(self) -> None:
        """Call when there are much fewer."""
        _take_from_system(False)

    def look(self, connections: int, ended: int, now: float) -> bool:
        """Call every few seconds with how many there are, and have ended since the start. Whether memory was given back."""
        self._peak = max(self._peak, connections)
        gone = self._peak >= CROWD and connections <= self._peak // 2
        give_back = (gone or self._again) and now >= self._next
        if not give_back and (ended - self._collected < CHURN or now < self._next_churn):
            return False
        gc.collect()
        self._collected, self._next_churn = ended, now + _REST
        if not give_back:
            return False
        self._peak, self._again, self._next = connections, gone, now + _REST
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's, see malloc_trim(3)
        if trim is not None:
            trim(0)
        return True


class _Allocator(ctypes.Structure):
    """PyMemAllocatorEx (Python/C API, "Customize Memory Allocators")."""

    _fields_: ClassVar = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]


_RAW, _MEM, _OBJ = range(3)  # PyMemAllocatorDomain


def _allocator(domain: int) -> _Allocator:
    found = _Allocator()
    ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(found))
    return found


@cache
def _choices() -> list[tuple[int, _Allocator, _Allocator]]:
    """Of each domain, Python's own allocator and one that differs in where new blocks come from: to resize and to free, both know a
    block that isn't pymalloc's as the C library's. Empty where that isn't so: debug hooks have a context, a Python without GIL has no pymalloc."""
    if not hasattr(ctypes.pythonapi, "PyMem_GetAllocator"):
        return []
    raw = _allocator(_RAW)
    own = [(domain, _allocator(domain)) for domain in (_MEM, _OBJ)]
    if sysconfig.get_config_var("Py_GIL_DISABLED") or any(a.ctx for a in (raw, *(a for _, a in own))):
        return []
    return [(domain, a, _Allocator(a.ctx, raw.malloc, raw.calloc, a.realloc, a.free)) for domain, a in own]


def _take_from_system(system: bool) -> None:
    for domain, own, others in _choices():
        ctypes.pythonapi.PyMem_SetAllocator(domain, ctypes.byref(others if system else own))
