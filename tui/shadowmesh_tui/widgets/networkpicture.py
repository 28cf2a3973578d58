"""A whole network as a picture: it can be zoomed, moved, walked through and clicked."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from shadowmesh.model.connectivity import Topology
from shadowmesh_tui.console.wholenetwork import ZOOMS, Chart, Condensed, Drawn, capacity, chart, condense, draw
from shadowmesh_tui.palette import Palette

_WIDER = 0.35  # of a zoom goes to the width: what is needed are rows


class NetworkPicture(Widget, can_focus=True):
    """Draws a topology into whatever room there is; `chosen` is the node that the cursor is on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("up", "towards(0,-1)", show=False),
        Binding("down", "towards(0,1)", show=False),
        Binding("left,h", "towards(-1,0)", show=False),
        Binding("right,l", "towards(1,0)", show=False),
        Binding("j", "step(1)", show=False),
        Binding("k", "step(-1)", show=False),
        Binding("home,g", "end(False)", show=False),
        Binding("end,G", "end(True)", show=False),
        Binding("plus,equals_sign", "zoom(1)", "Zoom", key_display="+ -"),
        Binding("minus", "zoom(-1)", show=False),
        Binding("0", "whole", show=False),
        Binding("shift+left,left_square_bracket", "move(-1,0)", show=False),
        Binding("shift+right,right_square_bracket", "move(1,0)", show=False),
        Binding("shift+up,pageup", "move(0,-1)", show=False),
        Binding("shift+down,pagedown", "move(0,1)", show=False),
    ]
    DEFAULT_CSS = "NetworkPicture { height: 1fr; background: $background; } NetworkPicture.-stale { opacity: 60%; }"

    class Picked(Message):
        """Another node was chosen."""

    class Opened(Message):
        """Enter on the chosen node, or a click on it."""

    class Zoomed(Message):
        """More, or less, is to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: str | None = None
        self.condensed: Condensed | None = None
        self.drawn: Drawn | None = None
        self._chart: Chart | None = None
        self._topology: Topology | None = None
        self._apart: frozenset[str] = frozenset()
        self._dimmed: frozenset[str] = frozenset()
        self._styles: Palette = {}
        self._zoom = 0
        self._pan = (0, 0)
        self._rows: list[list[tuple[str, str]]] = []
        self._made: tuple[object, ...] = ()

    @property
    def zoom(self) -> float:
        return ZOOMS[self._zoom]

    @property
    def most_zoom(self) -> int:
        """Where every client stands for itself more rows are of no use, but for a closer look."""
        count = len(self._topology.clients) if self._topology is not None else 0
        enough = (n for n, zoom in enumerate(ZOOMS) if capacity(round(self.size.height * zoom)) >= count)
        return min(len(ZOOMS) - 1, max(3, next(enough, len(ZOOMS)) + 1))

    def show(self, topology: Topology, apart: Collection[str], styles: Palette, *, searched: bool) -> None:
        """`apart`: clients that stand for themselves, where others stand together (`searched`: the others stand back)."""
        self._topology, self._styles = topology, styles
        self._apart = frozenset(apart)
        others = frozenset(c.client_id for c in topology.clients) - self._apart if searched else frozenset()
        if others != self._dimmed:
            self._dimmed, self._made = others, ()
        self._draw()

    def on_resize(self, _event: events.Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        width, height = self.size
        if self._topology is None or width < 8 or height < 4:
            return
        self._zoom = min(self._zoom, self.most_zoom)
        made = (id(self._topology), self._apart, self.size, self._zoom)
        if made != self._made or self._chart is None:
            self._made = made
            rows = round(height * self.zoom)
            self.condensed = condense(self._topology, capacity(rows), self._apart)
            self._chart = chart(self.condensed, round(width * (1 + (self.zoom - 1) * _WIDER)), rows)
            self.chosen = self.condensed.node_of(self.chosen) if self.chosen not in self._chart.spots else self.chosen
            if self.chosen not in self._chart.spots:
                self.chosen = None
        assert self.condensed is not None
        self._pan = self._within(self._pan)
        dimmed = self._dimmed
        if dimmed:  # a group in which somebody is looked for isn't one of those that stand back
            dimmed |= {node for node, members in self.condensed.members.items() if dimmed.issuperset(members)}
        self.drawn = draw(self._chart, self._pan, width, height, self.chosen, dimmed)
        self._rows = self.drawn.canvas.rows()
        self.refresh()

    def _within(self, pan: tuple[int, int]) -> tuple[int, int]:
        assert self._chart is not None
        most = (self._chart.width - self.size.width, self._chart.height - self.size.height)
        return max(0, min(most[0], pan[0])), max(0, min(most[1], pan[1]))

    def choose(self, node: str | None) -> None:
        """Puts the cursor on it, and brings it into view."""
        if node is None or self._chart is None or node not in self._chart.spots:
            return
        self.chosen = node
        self._bring_into_view()
        self._draw()
        self.post_message(self.Picked())

    def _bring_into_view(self) -> None:
        assert self._chart is not None
        spot = self._chart.spots.get(self.chosen or "")
        if spot is None:
            return
        width, height = self.size
        left, right = spot.start, spot.start + len(spot.label)
        x, y = self._pan
        if left < x or right > x + width:
            x = left - 1 if left < x else right + 1 - width
        if not y <= spot.y < y + height:
            y = spot.y - height // 2
        self._pan = self._within((x, y))

    # the keys

    def action_open(self) -> None:
        if self.chosen is not None:
            self.post_message(self.Opened())

    def action_towards(self, dx: int, dy: int) -> None:
        if self._chart is not None:
            self.choose(self._chart.towards(self.chosen, dx, dy))

    def action_step(self, step: int) -> None:
        """Among those that are looked for, if anybody is."""
        if self._chart is not None and self.condensed is not None:
            among = {self.condensed.node_of(client) or "" for client in self._apart} if self._dimmed else set()
            self.choose(self._chart.step(self.chosen, step, among))

    def action_end(self, last: bool) -> None:
        if self._chart is not None and self._chart.order:
            self.choose(self._chart.order[-1 if last else 0])

    def action_zoom(self, step: int) -> None:
        """What is chosen stays in view; without it, what is in the middle."""
        before, chart_before = self._zoom, self._chart
        self._zoom = max(0, min(self.most_zoom, self._zoom + step))
        if self._zoom == before or chart_before is None:
            return
        width, height = self.size
        x = (self._pan[0] + width / 2) / chart_before.width
        y = (self._pan[1] + height / 2) / chart_before.height
        self._draw()
        assert self._chart is not None
        self._pan = self._within((round(x * self._chart.width - width / 2), round(y * self._chart.height - height / 2)))
        self._bring_into_view()
        self._draw()
        self.post_message(self.Zoomed())

    def action_whole(self) -> None:
        self.action_zoom(-len(ZOOMS))

    def action_move(self, dx: int, dy: int) -> None:
        if self._chart is not None:
            step = (max(4, self.size.width // 4), max(2, self.size.height // 3))
            self._pan = self._within((self._pan[0] + dx * step[0], self._pan[1] + dy * step[1]))
            self._draw()

    # the mouse

    def on_click(self, event: events.Click) -> None:
        node = self.drawn.at(event.x, event.y) if self.drawn is not None else None
        if node is not None and node == self.chosen:
            self.action_open()
        else:
            self.choose(node)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_zoom(-1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_zoom(1)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Dragging moves the picture."""
        if event.button and self._chart is not None and (event.delta_x or event.delta_y):
            self._pan = self._within((self._pan[0] - event.delta_x, self._pan[1] - event.delta_y))
            self._draw()

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        if y >= len(self._rows):
            return Strip.blank(self.size.width, base)
        nothing = Style()
        segments = [Segment(text, base + self._styles.get(style, nothing)) for text, style in self._rows[y]]
        return Strip(segments).adjust_cell_length(self.size.width, base)
