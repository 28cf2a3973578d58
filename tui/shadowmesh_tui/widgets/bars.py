"""The lines at the edges of a screen: title, banner, status."""

from __future__ import annotations

from rich.text import Text
from textual.message import Message
from textual.widgets import Static

from shadowmesh import __version__
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh
from shadowmesh_tui.widgets.lines import Lines


class TitleBar(Lines):
    """The app's name, the screens with their keys, and whether the daemon answers."""

    DEFAULT_CSS = "TitleBar { height: 1; background: $panel; padding: 0 1; }"

    def show(self, mesh: Mesh, here: str, styles: Palette) -> None:
        left = Text().append("ShadowMesh  ", style=styles["me"])
        for key, name in (("d", "dashboard"), ("t", "topology")):
            left.append(f" {key} {name} ", style=styles["selected" if name == here else "muted"])
        if mesh.trouble is not None:
            state, style = "✗ no daemon", "error"
        elif mesh.status is None:
            state, style = "… asking", "muted"
        else:
            state, style = "● daemon", "good"
        right = Text().append(state, style=styles[style])
        right.append(f"  {mesh.status.version if mesh.status else __version__}", style=styles["muted"])
        other = Text(" c controller ", style=styles["muted"])
        if left.cell_len + other.cell_len + right.cell_len + 3 <= self.size.width:
            left.append_text(other)
        gap = max(1, self.size.width - 2 - left.cell_len - right.cell_len)
        self.put(Text(no_wrap=True, overflow="crop").append_text(left).append(" " * gap).append_text(right))


class Banner(Static):
    """One line on a colour: what is wrong while the screen can still be used. Gone when nothing is."""

    DEFAULT_CSS = """
    Banner { display: none; height: auto; max-height: 2; padding: 0 1; }
    Banner.-shown { display: block; }
    Banner.-warning { background: $warning-muted; color: $text-warning; }
    Banner.-error { background: $error-muted; color: $text-error; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._words = ""

    def show(self, notice: Notice | None) -> None:
        self.set_class(notice is not None, "-shown")
        if notice is not None:
            self.set_class(notice.level == "error", "-error")
            self.set_class(notice.level != "error", "-warning")
            mark = "✗" if notice.level == "error" else "!"
            words = f"{mark} {notice.title} {notice.remedy}".replace("\n", " ")
            if words != self._words:
                self._words = words
                self.update(Text(words))


class StatusLine(Lines):
    """NAT, public address, pump, and the warnings of the daemon. A click on it asks for all of them."""

    DEFAULT_CSS = "StatusLine { height: 1; background: $panel; padding: 0 1; }"

    class Clicked(Message):
        """The person wants to read the warnings."""

    def show(self, mesh: Mesh, styles: Palette) -> None:
        line = Text(no_wrap=True, overflow="ellipsis", style=styles["muted"])
        if mesh.status is not None:
            nat = mesh.status.nat
            line.append("NAT ").append(nat.type, style=styles["label"])
            line.append("  public ").append(nat.public or "unknown", style=styles["label"])
            line.append("  pump ").append(mesh.status.pump, style=styles["label"])
            warnings = mesh.status.warnings
            if warnings:
                more = f"{len(warnings)} warnings (w)" if len(warnings) > 1 else "(w)"
                line.append(f"  ⚠ {more}: {warnings[0]}", style=styles["warning"])
        self.put(line)

    def on_click(self) -> None:
        self.post_message(self.Clicked())
