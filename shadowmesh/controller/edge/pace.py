"""How fast one connection may ask."""

from __future__ import annotations

import asyncio


class Pace:
    """`burst` times at once, then once every `per` seconds. Who is faster waits, and what he sends meanwhile stays with his own kernel."""

    __slots__ = ("_allowance", "_next", "_per")

    def __init__(self, burst: int, per: float) -> None:
        self._per = per
        self._allowance = burst * per
        self._next = 0.0

    async def turn(self) -> None:
        """Returns when it may."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + self._per
        if self._next - now > self._allowance:
            await asyncio.sleep(self._next - now - self._allowance)
