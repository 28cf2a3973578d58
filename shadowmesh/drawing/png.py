"""The picture as PNG, at twice the size in pixels. What it holds is in the file's text, too: `nodes`, `links`, `title`."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from shadowmesh.drawing.layout import DrawnLink, DrawnNode, Layout, Point, legend
from shadowmesh.drawing.svg import DASHES
from shadowmesh.drawing.words import KINDS, name_of

SCALE = 2
MOST_PIXELS = 4_000  # of a side: a larger picture is drawn smaller
_FONTS = (  # the first that the host has, for names in other scripts; else Pillow's own
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
)
_COLOURS = 128  # enough for all of them, and their edges; a tenth of the bytes
_INK, _GREY, _PALE = "#0f172a", "#64748b", "#94a3b8"
_FILLS = {"controller": "#e0e7ff", "relay": "#fef3c7", "client": "#ffffff"}
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def png(layout: Layout) -> bytes:
    scale = min(SCALE, MOST_PIXELS / max(layout.width, layout.height))
    image = Image.new("RGB", (round(layout.width * scale), round(layout.height * scale)), "#ffffff")
    pen = _Pen(image, scale)
    pen.text((20, 24), layout.title, size=18, anchor="lm")
    for link in layout.links:
        _link(pen, link)
    for node in layout.nodes:
        _node(pen, node, layout.crowded)
    _legend(pen, layout)
    told, file = PngInfo(), io.BytesIO()
    told.add_text("Software", "shadowmesh")
    told.add_itxt("title", layout.title)
    told.add_text("nodes", str(len(layout.nodes)))
    told.add_text("links", str(len(layout.links)))
    drawn = image.quantize(_COLOURS, dither=Image.Dither.NONE)
    drawn.save(file, "PNG", pnginfo=told, compress_level=6, compress_type=zlib.Z_RLE)  # a fifth of the usual time
    return file.getvalue()


@cache
def _font(size: int) -> Font:
    found = next((path for path in _FONTS if Path(path).exists()), None)
    return ImageFont.load_default(size) if found is None else ImageFont.truetype(found, size)


class _Pen:
    """Draws in the layout's lengths."""

    def __init__(self, image: Image.Image, scale: float) -> None:
        self._image = image
        self._draw = ImageDraw.Draw(image)
        self._scale = scale

    def _at(self, *points: Point) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]

    def line(self, start: Point, end: Point, colour: str, width: float, dash: str = "") -> None:
        pieces = _dashed(start, end, [float(d) for d in dash.split()]) if dash else [(start, end)]
        for piece in pieces:
            self._draw.line(self._at(*piece), colour, max(1, round(width * self._scale)))

    def box(self, at: Point, wide: float, high: float, fill: str, line: str) -> None:
        corners = self._at((at[0] - wide / 2, at[1] - high / 2), (at[0] + wide / 2, at[1] + high / 2))
        self._draw.rounded_rectangle(corners, 6 * self._scale, fill, line, round(1.5 * self._scale))

    def polygon(self, points: list[Point], fill: str, line: str) -> None:
        self._draw.polygon(self._at(*points), fill, line, round(1.5 * self._scale))

    def dot(self, at: Point, radius: float, fill: str, line: str) -> None:
        ((x, y),) = self._at(at)
        self._draw.circle((x, y), radius * self._scale, fill, line, round(1.5 * self._scale))

    def text(self, at: Point, text: str, *, size: int = 13, colour: str = _INK, anchor: str = "mm") -> None:
        self._draw.text(self._at(at)[0], text, colour, _font(max(6, round(size * self._scale))), anchor=anchor)

    def text_along(self, at: Point, text: str, angle: float, colour: str) -> None:
        """From `at` outwards; what would stand on its head is turned."""
        font = _font(max(6, round(13 * self._scale)))
        left, _, right, bottom = (round(v) for v in font.getbbox(text))
        piece = Image.new("L", (right + 2, bottom + 2), 0)
        ImageDraw.Draw(piece).text((0, 0), text, 255, font)
        degrees = -math.degrees(angle)
        if math.cos(angle) < 0:
            degrees += 180
        turned = piece.rotate(degrees, expand=True, resample=Image.Resampling.BICUBIC)
        middle = (10 + (right - left) / 2 / self._scale, 0)
        x = at[0] + middle[0] * math.cos(angle)
        y = at[1] + middle[0] * math.sin(angle)
        ((px, py),) = self._at((x, y))
        self._image.paste(colour, (round(px - turned.width / 2), round(py - turned.height / 2)), turned)


def _dashed(start: Point, end: Point, dash: list[float]) -> Iterator[tuple[Point, Point]]:
    """The pieces of a line that are drawn: lengths of ink and of none in turn."""
    length = math.dist(start, end)
    at, number = 0.0, 0
    while at < length:
        to = min(length, at + dash[number % len(dash)])
        if number % 2 == 0:
            yield tuple(  # type: ignore[misc]
                (start[0] + (end[0] - start[0]) * d / length, start[1] + (end[1] - start[1]) * d / length)
                for d in (at, to)
            )
        at, number = to, number + 1


def _link(pen: _Pen, link: DrawnLink) -> None:
    for start, end in zip(link.points, link.points[1:], strict=False):
        pen.line(start, end, link.colour, link.width, DASHES[link.kind])


def _node(pen: _Pen, node: DrawnNode, crowded: bool) -> None:
    x, y = node.at
    fill = _FILLS[node.kind] if node.online else "#f1f5f9"
    line, ink = ("#334155", _INK) if node.online else (_PALE, _PALE)
    name = name_of(node)
    if node.kind == "client" and crowded and node.angle is not None:
        pen.dot(node.at, 5, fill, line)
        pen.text_along(node.at, name, node.angle, ink)
    elif node.kind == "relay":
        pen.polygon([(x, y - 15), (x + 15, y), (x, y + 15), (x - 15, y)], fill, line)
        pen.text((x, y + 27), name, colour=ink)
    else:
        pen.box(node.at, 220 if node.kind == "controller" else 112, 38, fill, line)
        pen.text((x, y - 7), name, colour=ink)
        pen.text((x, y + 9), node.detail, size=11, colour=_GREY)


def _legend(pen: _Pen, layout: Layout) -> None:
    x, y = 20.0, layout.height - 64
    for kind, words in KINDS.items():
        pen.line((x, y), (x + 34, y), "#334155", 2, DASHES[kind])
        pen.text((x + 42, y), words, anchor="lm")
        x += 150
    x, y = 20.0, layout.height - 34
    for colour, words in legend():
        pen.line((x, y), (x + 34, y), colour, 3)
        pen.text((x + 42, y), words, anchor="lm")
        x += 120
