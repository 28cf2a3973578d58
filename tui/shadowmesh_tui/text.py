"""Figures and marks as people read them. Pure functions of values to short texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    """The reason code, which begins with the kind of path: `direct.punched`."""
    if peer.reason.split(".", 1)[0] == peer.path:
        return peer.reason
    return f"{peer.path} ({peer.reason})"


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the cut marked by an ellipsis."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 1)] + "…" if width > 0 else ""


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` samples as bars between 0 and the greatest of them; a gap is a blank.

    Always `width` characters; the newest sample stands at the right end.
    """
    shown = list(values)[-width:] if width > 0 else []
    known = [v for v in shown if v is not None]
    top = max(known, default=0.0)

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        return _BARS[min(len(_BARS) - 1, int(value / top * (len(_BARS) - 1) + 0.5))] if top > 0 else _BARS[0]

    return "".join(map(bar, shown)).rjust(width)


def printable(text: str) -> str:
    """Names come from other machines: whatever could move the cursor shows as a replacement mark."""
    return "".join(c if c.isprintable() else "�" for c in text)
