"""The time, as it is handed to everything that decides."""

from __future__ import annotations

import datetime as dt

from msgspec import Struct


class Now(Struct, frozen=True, gc=False):
    """A moment on both clocks, in seconds.

    `boot` is CLOCK_BOOTTIME: monotonic, runs on in sleep; all timers use it.
    `wall` is Unix time: expiry dates and WireGuard's TAI64N only.
    """

    boot: float
    wall: float

    def after(self, seconds: float) -> Now:
        return Now(self.boot + seconds, self.wall + seconds)


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
