"""The few styles of the app, from whatever theme is on. A meaning never hangs on colour alone: marks and lines differ too."""

from __future__ import annotations

from collections.abc import Mapping

from rich.style import Style
from textual.color import Color, ColorParseError

Palette = Mapping[str, Style]


def palette(variables: Mapping[str, str]) -> Palette:
    """Styles by name: direct, relay, none, node, me, label, muted, selected, good, warning, error, `latency 1` (short) to 4, each also `… strong`."""

    def colour(*names: str) -> Color:
        for name in names:
            try:
                return Color.parse(variables[name])
            except (KeyError, ColorParseError):
                continue
        return Color.parse("ansi_default")

    def style(*names: str, bold: bool = False) -> Style:
        return Style(color=colour(*names).rich_color, bold=bold)

    foreground, background = colour("foreground"), colour("background")
    plain = foreground.ansi is None and background.ansi is None
    muted = Style(color=foreground.blend(background, 0.4).rich_color) if plain else Style(dim=True)
    styles = {
        "direct": style("text-success", "success"),
        "relay": style("text-warning", "warning"),
        "none": muted,
        "node": style("text-warning", "warning", bold=True),
        "me": style("text-primary", "primary", bold=True),
        "label": Style(color=foreground.rich_color),
        "title": Style(color=foreground.rich_color, bold=True),
        "muted": muted,
        "selected": Style(color=foreground.rich_color, bold=True, reverse=True),
        "good": style("text-success", "success"),
        "warning": style("text-warning", "warning"),
        "error": style("text-error", "error", bold=True),
    }
    for number, names in enumerate((("success",), ("success", "warning"), ("warning",), ("error",)), 1):
        first, last = (colour(f"text-{name}", name) for name in (names[0], names[-1]))
        mixed = first.blend(last, 0.5) if plain and first.ansi is None and last.ansi is None else first
        styles[f"latency {number}"] = Style(color=mixed.rich_color)
    strong = {f"{name} strong": value + Style(bold=True) for name, value in styles.items()}
    return {"": Style(), **styles, **strong}
