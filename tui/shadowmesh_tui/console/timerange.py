"""The time of which a log is shown: the last hour, or from then till then. Pure."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LAST = re.compile(r"([0-9]{1,6}) *([smhdw])", re.ASCII)
_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%H:%M")


@dataclass(frozen=True, slots=True)
class TimeRange:
    """`last`: seconds before now; without it `since` and `until`, each if there is one."""

    words: str
    last: float | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    @property
    def goes_on(self) -> bool:
        """Whether what comes belongs to it."""
        return self.until is None

    def begins(self, wall: float) -> dt.datetime | None:
        return self.since if self.last is None else dt.datetime.fromtimestamp(wall - self.last, dt.UTC)


RANGES = (
    TimeRange("the last 15 minutes", 15 * 60.0),
    TimeRange("the last hour", 3600.0),
    TimeRange("the last day", 86400.0),
    TimeRange("the last 7 days", 7 * 86400.0),
    TimeRange("the last 30 days", 30 * 86400.0),
    TimeRange("all that is kept"),
)


def after(shown: TimeRange) -> TimeRange:
    """The next of RANGES."""
    return RANGES[(RANGES.index(shown) + 1) % len(RANGES)] if shown in RANGES else RANGES[0]


def parse(text: str, wall: float) -> TimeRange | None:
    """Of `90m`, `2026-01-31`, `2026-01-31 12:00 .. 13:30` by the local clock; None: that isn't understood."""
    text = " ".join(text.split())
    found = _LAST.fullmatch(text)
    if found:
        return TimeRange(f"the last {text}", float(int(found[1]) * _UNITS[found[2]]))
    begin, dots, end = (part.strip() for part in text.partition(".."))
    today = dt.datetime.fromtimestamp(wall).astimezone().date()
    since = _moment(begin, today)
    if since is None:
        return None
    until = _moment(end, since.date()) if dots else None
    if dots and (until is None or until <= since):
        return None
    words = f"from {since:%Y-%m-%d %H:%M}" + (f" to {until:%Y-%m-%d %H:%M}" if until is not None else "")
    return TimeRange(words, None, since, until)


def _moment(text: str, day: dt.date) -> dt.datetime | None:
    for form in _FORMS:
        try:
            found = dt.datetime.strptime(text, form)
        except ValueError:
            continue
        if form == "%H:%M":
            found = dt.datetime.combine(day, found.time())
        try:
            return found.astimezone()
        except (OverflowError, OSError, ValueError):
            return None
    return None
