"""Figures and marks as people read them. Pure functions of values to short texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import PathKind, PeerStatus

UNKNOWN = "–"
PATH_GLYPH: dict[PathKind, str] = {"direct": "●", "relay": "◌", "none": "–"}
_BARS = "▁▂▃▄▅▆▇█"


def quantity(value: float, units: Sequence[str], unit: str) -> str:
    """`1.2 MB/s`: at most three digits, SI prefixes."""
    prefixes = ["", *units]
    for prefix in prefixes:
        if value < 999.5 or prefix == prefixes[-1]:
            digits = f"{value:.0f}" if value >= 9.95 or prefix == "" else f"{value:.1f}"
            return f"{digits} {prefix}{unit}"
        value /= 1000
    raise AssertionError("the last prefix takes all")


def rate(bytes_per_s: float | None) -> str:
    """`1.2 MB/s`, `0`, or a dash while unknown."""
    if bytes_per_s is None:
        return UNKNOWN
    return "0" if bytes_per_s < 0.5 else quantity(bytes_per_s, ("k", "M", "G", "T"), "B/s")


def volume(count: int) -> str:
    """`340 MB`."""
    return quantity(float(count), ("k", "M", "G", "T", "P"), "B")


def latency(ms: float | None) -> str:
    """`0.42 ms`, `2.1 ms`, `142 ms`, `1.4 s`."""
    if ms is None or not math.isfinite(ms):
        return UNKNOWN
    if ms >= 999.5:
        return f"{ms / 1000:.1f} s"
    if ms >= 99.5:
        return f"{ms:.0f} ms"
    return f"{ms:.1f} ms" if ms >= 0.995 else f"{ms:.2f} ms"


def duration(seconds: float | None) -> str:
    """`12s`, `3m`, `2h`, `4d`: short, for a column."""
    if seconds is None:
        return UNKNOWN
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def path_code(peer: PeerStatus) -> str:
    """The reason code, which begins with the kind of path: `direct.punched`; `idle` of a peer that was never spoken to."""
    if peer.reason == Reason.NONE_IDLE:
        return "idle"
    if peer.reason.split(".", 1)[0] == peer.path:
        return peer.reason
    return f"{peer.path} ({peer.reason})"


def shorten(text: str, width: int) -> str:
    """At most `width` cells, the cut marked by an ellipsis."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 0 else ""


def padded(text: str, width: int) -> str:
    """Exactly `width` cells: cut, or filled up with blanks. A wide character takes two."""
    return set_cell_size(shorten(text, width), width)


def sparkline(values: Sequence[float | None], width: int, *, from_zero: bool = True) -> str:
    """The last `width` samples as bars from zero up to the greatest of them; a gap is a blank.

    Always `width` characters; the newest sample stands at the right end. Not `from_zero`: the scale is that of what
    varies, at least half the greatest value, so that what is steady stands in the middle.
    """
    shown = list(values)[-width:] if width > 0 else []
    known = [v for v in shown if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    span = high if from_zero else max(high - low, high / 2)
    bottom = 0.0 if from_zero else max(0.0, (low + high - span) / 2)

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        level = int((value - bottom) / span * (len(_BARS) - 1) + 0.5) if span > 0 else 0
        return _BARS[max(0, min(len(_BARS) - 1, level))]

    return "".join(map(bar, shown)).rjust(width)
