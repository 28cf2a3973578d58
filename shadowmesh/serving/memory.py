"""Gives memory back to the system after a crowd has gone."""

from __future__ import annotations

import ctypes
import gc

CROWD = 256  # connections
_REST = 60.0  # seconds between two times: a collection looks at every object once


class Memory:
    """Neither Python nor the C library gives back by itself what many connections used: their cycles wait for a collection that
    an idle process never starts, and the heap keeps its top. `look` says when it is worth the while, and does it: when half
    of a crowd has gone, and once more later, as what a connection has under way may outlive it."""

    def __init__(self) -> None:
        self._peak = 0
        self._again = False
        self._next = 0.0

    def look(self, connections: int, now: float) -> bool:
        """Call every few seconds with how many there are. Whether memory was given back."""
        self._peak = max(self._peak, connections)
        gone = self._peak >= CROWD and connections <= self._peak // 2
        if not (gone or self._again) or now < self._next:
            return False
        self._peak, self._again, self._next = connections, gone, now + _REST
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's, see malloc_trim(3)
        if trim is not None:
            trim(0)
        return True
