"""The title line of a controller's screens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual import events
from textual.message import Message

from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.text import shorten
from shadowmesh_tui.widgets.lines import Lines


@dataclass(frozen=True, slots=True)
class Tab:
    """A main screen: its key, its name, and a number that is worth a look (0: none)."""

    key: str
    name: str
    badge: int = 0


class ConsoleBar(Lines):
    """The screens with their keys, which controller it is, whether it answers, and as whom one asks."""

    DEFAULT_CSS = "ConsoleBar { height: 1; background: $panel; padding: 0 1; }"

    class Picked(Message):
        """A tab was clicked."""

        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[range, str]] = []

    def show(self, desk: Desk, tabs: Sequence[Tab], here: str, styles: Palette) -> None:
        room = self.size.width - 2
        right = _where(desk, styles, 30 if room >= 100 else 18)
        whole = Text().append("ShadowMesh  ", style=styles["me"])
        names = [f" {tab.key} {tab.name} " for tab in tabs]
        badges = [f"{tab.badge} " if tab.badge else "" for tab in tabs]
        wanted = whole.cell_len + sum(map(len, names)) + sum(map(len, badges)) + right.cell_len + 1
        if wanted > room:
            whole = Text()
        if wanted - 12 > room:  # the screen one is on says its name, the others their keys
            names = [n if tab.name == here else f" {tab.key} " for n, tab in zip(names, tabs, strict=True)]
        self._places = []
        for tab, name, badge in zip(tabs, names, badges, strict=True):
            start = whole.cell_len
            whole.append(name, style=styles["selected" if tab.name == here else "muted"])
            if badge:
                whole.append(badge, style=styles["warning strong"])
            self._places.append((range(start, whole.cell_len), tab.key))
        gap = max(1, room - whole.cell_len - right.cell_len)
        self.put(Text(no_wrap=True, overflow="crop").append_text(whole).append(" " * gap).append_text(right))

    def on_click(self, event: events.Click) -> None:
        for place, key in self._places:
            if event.x - 1 in place:
                self.post_message(self.Picked(key))


def _where(desk: Desk, styles: Palette, width: int) -> Text:
    console = desk.console
    if console.failure is not None:
        mark, style = "✗", "error"
    elif console.who is None:
        mark, style = "…", "muted"
    else:
        mark, style = "●", "good"
    text = Text().append(f"{mark} ", style=styles[style])
    text.append(shorten(desk.context.name, width), style=styles["label"])
    if console.who is not None:
        who = console.who
        role = " ".join(w for w, is_so in (("read-only", who.read_only), ("admin", who.administers)) if is_so)
        name = "" if who.name == "local" else shorten(who.name, width)
        said = " ".join(part for part in (name, role) if part)
        text.append(f"  {said}" if said else "", style=styles["muted"])
    return text
