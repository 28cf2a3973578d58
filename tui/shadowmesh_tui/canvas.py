"""A canvas of characters: lines in braille dots (2 × 4 per cell), text on top. Pure.

Positions are cells, from the top left. A style is a name; the widget that shows the canvas gives it colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from rich.cells import get_character_cell_size

_DOT = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of a braille cell
_CENTRE = (1, 2)  # the dot taken for the middle of a cell


@dataclass(frozen=True, slots=True)
class Dash:
    """A rhythm of dots along a line: `on` drawn, `off` left out."""

    on: int
    off: int


class Canvas:
    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._dots: dict[tuple[int, int], int] = {}
        self._dot_styles: dict[tuple[int, int], str] = {}
        self._text: dict[tuple[int, int], tuple[str, str]] = {}

    def line(
        self,
        start: tuple[int, int],
        end: tuple[int, int],
        style: str,
        dash: Dash | None = None,
        *,
        heavy: bool = False,
    ) -> None:
        """A line between the middles of two cells. Where lines cross in a cell, the later one gives the style."""
        x, y = start[0] * 2 + _CENTRE[0], start[1] * 4 + _CENTRE[1]
        end_x, end_y = end[0] * 2 + _CENTRE[0], end[1] * 4 + _CENTRE[1]
        dx, dy = abs(end_x - x), -abs(end_y - y)
        step_x, step_y = (1 if x < end_x else -1), (1 if y < end_y else -1)
        error, count = dx + dy, 0
        steep = int(-dy > dx)
        while True:  # Bresenham
            if dash is None or count % (dash.on + dash.off) < dash.on:
                self._dot(x, y, style)
                if heavy:
                    self._dot(x + steep, y + 1 - steep, style)
            if (x, y) == (end_x, end_y):
                return
            count += 1
            doubled = 2 * error
            if doubled >= dy:
                error += dy
                x += step_x
            if doubled <= dx:
                error += dx
                y += step_y

    def _dot(self, x: int, y: int, style: str) -> None:
        cell = (x // 2, y // 4)
        if 0 <= cell[0] < self.width and 0 <= cell[1] < self.height:
            self._dots[cell] = self._dots.get(cell, 0) | _DOT[y % 4][x % 2]
            self._dot_styles[cell] = style

    def text(self, x: int, y: int, text: str, style: str) -> None:
        """Text from this cell on; what falls outside is left out. A wide character takes two cells."""
        if not 0 <= y < self.height:
            return
        for character in text:
            size = get_character_cell_size(character)
            if size == 0:
                continue
            if x >= 0 and x + size <= self.width:
                self._text[x, y] = (character, style)
                if size == 2:
                    self._text[x + 1, y] = ("", style)
            x += size

    def is_free(self, x: int, y: int, length: int) -> bool:
        """Whether `length` cells from here lie on the canvas and hold no text."""
        inside = 0 <= y < self.height and x >= 0 and x + length <= self.width
        return inside and not any((i, y) in self._text for i in range(x, x + length))

    def dotted(self, x: int, y: int, length: int) -> int:
        """How many of the cells hold a piece of a line."""
        return sum((i, y) in self._dots for i in range(x, x + length))

    def rows(self) -> list[list[tuple[str, str]]]:
        """Each row as runs of (text, style); blanks have the style ``""``. Every row is `width` cells wide."""
        return [self._row(y) for y in range(self.height)]

    def _row(self, y: int) -> list[tuple[str, str]]:
        def cell(x: int) -> tuple[str, str]:
            at = (x, y)
            if at in self._text:
                return self._text[at]
            if at in self._dots:
                return chr(0x2800 + self._dots[at]), self._dot_styles[at]
            return " ", ""

        cells = [cell(x) for x in range(self.width)]
        return [("".join(c for c, _ in run), style) for style, run in groupby(cells, key=lambda c: c[1])]

    def __str__(self) -> str:
        return "\n".join("".join(text for text, _ in row).rstrip() for row in self.rows())
