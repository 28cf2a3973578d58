"""The time, as it is handed to everything that decides."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta, Struct

# Unix time in a message, up to the year 9999: what is larger has no date, and none of WireGuard's timestamps either.
UnixTime = Annotated[float, Meta(ge=0, lt=253402300800)]

_UNITS = ((365.25 * 86400, "year"), (86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


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


def in_words(seconds: float) -> str:
    """A time span for people, in the largest unit of which there are two: "10 minutes", "57 years"."""
    seconds = abs(seconds)
    size, unit = next(((s, u) for s, u in _UNITS if seconds >= 2 * s), _UNITS[-1])
    number = round(seconds / size)
    return f"{number} {unit}{'' if number == 1 else 's'}"
