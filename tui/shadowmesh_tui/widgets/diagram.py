"""The topology as a picture that can be walked through and clicked."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh, PeerKey
from shadowmesh_tui.topology import Picture, arrange, draw


class Diagram(Widget):
    """Draws the chosen network into whatever room there is."""

    DEFAULT_CSS = "Diagram { height: 1fr; }"

    class Picked(Message):
        """A peer was clicked."""

        def __init__(self, key: PeerKey) -> None:
            self.key = key
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self.picture: Picture | None = None
        self._rows: list[list[tuple[str, str]]] = []
        self._shown: tuple[Mesh, Palette] | None = None

    def show(self, mesh: Mesh, styles: Palette) -> None:
        self._shown = mesh, styles
        self._draw()

    def on_resize(self, _event: events.Resize) -> None:
        self._draw()  # what is hidden has no room: it gets some with the layout that follows its being shown

    def _draw(self) -> None:
        if self._shown is None:
            return
        mesh, _ = self._shown
        network = mesh.network
        width, height = self.size
        if network is None or width < 2 or height < 2:
            return
        self.picture = arrange(mesh.all_rows(), network.ip, network.home_relay, mesh.selected, width, height)
        self._rows = draw(self.picture, mesh.selected).rows()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if y >= len(self._rows) or self._shown is None:
            return Strip.blank(self.size.width, self.rich_style)
        base, (_, styles) = self.rich_style, self._shown
        segments = [Segment(text, base + styles.get(style, Style())) for text, style in self._rows[y]]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def on_click(self, event: events.Click) -> None:
        key = self.picture.at(event.x, event.y) if self.picture else None
        if key is not None:
            self.post_message(self.Picked(key))
