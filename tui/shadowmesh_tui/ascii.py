"""Terminals that have no more than ASCII, such as a serial console or Linux's own: every line is put into it at the end.

All drawing goes through one filter, so that no widget has to know of it.
"""

from __future__ import annotations

import locale
import unicodedata
from collections.abc import Mapping

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_FEW_CHARACTERS = frozenset({"linux", "vt100", "vt102", "vt220", "ansi"})  # values of TERM
_MARKS = dict(zip("●◌○◉◈■◐–…▲▼▽◔▸✓✗⚠⋮↑↓←→⏎·“”×", '*~o@#&%-.^vv?>+x!:^v<><.""x', strict=True))
_BARS = dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True))
_LINES = dict.fromkeys("─━═▔┄┈", "-") | dict.fromkeys("│┃║▏▎▍▌▋▊▉▕┆┊", "|") | dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+")
_TABLE = {ord(c): to for c, to in (_MARKS | _BARS | _LINES).items()}
# the dots of a braille cell, bit by bit: column and row
_DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether this terminal shows no more than ASCII, by TERM, by the locale, or by SHADOWMESH_ASCII."""
    said = environ.get("SHADOWMESH_ASCII")
    if said is not None:
        return said not in ("", "0")
    encoding = locale.getencoding().replace("-", "").lower()
    return environ.get("TERM") in _FEW_CHARACTERS or encoding != "utf8"


def line_piece(dots: int) -> str:
    """The character most like a braille cell's dots, which are a piece of a line."""
    on = [at for bit, at in enumerate(_DOTS) if dots >> bit & 1]
    columns, rows = {x for x, _ in on}, {y for _, y in on}
    if len(rows) == 1 or not on:
        return "-" if on else " "
    if len(on) == 4 and len(rows) == 2 and max(rows) - min(rows) == 1:
        return "="  # a heavy line
    if len(columns) == 1:
        return "|"
    left = [y for x, y in on if x == 0]
    right = [y for x, y in on if x == 1]
    slope = sum(right) / len(right) - sum(left) / len(left)
    return "\\" if slope > 0 else "/" if slope < 0 else "|"


def to_ascii(text: str) -> str:
    """`text` in ASCII, as many cells wide: marks by what is most like them, letters without accents, else `?`."""
    if text.isascii():
        return text
    return "".join(map(_character, text.translate(_TABLE)))


def _character(c: str) -> str:
    if c.isascii():
        return c
    if 0x2800 <= ord(c) < 0x2900:
        return line_piece(ord(c) - 0x2800)
    plain = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
    width = cell_len(c)
    return plain if len(plain) == width else "?" * width


class AsciiFilter(LineFilter):
    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [s if s.control or s.text.isascii() else s._replace(text=to_ascii(s.text)) for s in segments]
