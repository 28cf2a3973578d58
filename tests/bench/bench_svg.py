"""Bar charts as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_LEFT, _BARS, _RIGHT = 190, 400, 150
_ROW, _GROUP, _TOP = 20, 34, 44
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}.group{font-weight:600}"
    ".bar{fill:#8c959f}.ours{fill:#0969da}.range{stroke:#1f2328;stroke-width:1.5}.one{stroke:#57606a;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}.ours{fill:#4493f8}"
    ".range{stroke:#e6edf3}.one{stroke:#9198a1}}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """`value` with the lowest and highest of the rounds, `text` is written beside it."""

    label: str
    value: float
    lowest: float
    highest: float
    text: str
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    bars: Sequence[Bar]


def chart(title: str, groups: Sequence[Group], *, mark: float | None = 1.0) -> str:
    """Horizontal bars, one scale for all groups; `mark` draws a line at this value."""
    top = max([bar.highest for group in groups for bar in group.bars] + [mark or 0.0, 1e-9])
    scale = _BARS / top
    width = _LEFT + _BARS + _RIGHT
    parts: list[str] = []
    y = _TOP
    for group in groups:
        y += _GROUP - _ROW
        parts.append(f'<text class="group" x="12" y="{y}">{escape(group.title)}</text>')
        first = y + 6
        for bar in group.bars:
            middle = y + 6 + _ROW / 2
            kind = "ours" if bar.ours else "bar"
            low, high = _LEFT + bar.lowest * scale, _LEFT + bar.highest * scale
            parts += [
                f'<text x="{_LEFT - 8}" y="{middle + 4.5:g}" text-anchor="end">{escape(bar.label)}</text>',
                f'<rect class="{kind}" x="{_LEFT}" y="{middle - 7:g}" width="{max(1.0, bar.value * scale):.1f}" height="14" rx="2"/>',
                f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:g}" y2="{middle:g}"/>',
                f'<text x="{_LEFT + _BARS + 12}" y="{middle + 4.5:g}">{escape(bar.text)}</text>',
            ]
            y += _ROW
        if mark is not None:
            at = _LEFT + mark * scale
            parts.append(f'<line class="one" x1="{at:.1f}" x2="{at:.1f}" y1="{first}" y2="{y + 6}"/>')
        y += _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style><text class="title" x="12" y="24">{escape(title)}</text>'
        + "".join(parts)
        + "</svg>\n"
    )
