"""The topology: this machine in the middle, relays, and peers around it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer

from shadowmesh_tui.notices import banner, instead_of_peers
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.base import COMMON_BINDINGS, MeshScreen
from shadowmesh_tui.state import PeerKey, PeerRow
from shadowmesh_tui.text import PATH_GLYPH, latency, path_code, printable
from shadowmesh_tui.topology import OFFLINE_GLYPH, RELAY_GLYPH
from shadowmesh_tui.widgets.bars import Banner, StatusLine, TitleBar
from shadowmesh_tui.widgets.diagram import Diagram
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.networks import NetworkList
from shadowmesh_tui.widgets.notice import NoticePane


def legend(styles: Palette) -> Text:
    """What the lines and marks mean."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for mark, style, meaning in (
        (f"⣤⣤⣤⣤⣤{PATH_GLYPH['direct']}", "direct", "direct"),
        (f"⠤⠤ ⠤⠤{PATH_GLYPH['relay']}", "relay", "through a relay"),
        (RELAY_GLYPH, "node", "relay"),
        (OFFLINE_GLYPH, "none", "no path now"),
    ):
        line.append(mark, style=styles[style]).append(f" {meaning}   ", style=styles["muted"])
    return line


def caption(row: PeerRow | None, styles: Palette) -> Text:
    """The chosen peer in one line."""
    if row is None:
        return Text("↑ ↓ choose a peer", style=styles["muted"])
    peer = row.peer
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(printable(peer.name), style=styles["title"])
    line.append(f"  {peer.ip}  ", style=styles["label"])
    line.append(path_code(peer), style=styles[peer.path])
    if peer.path != "none":
        line.append(f" via {printable(row.via)}  {latency(peer.latency_ms)}", style=styles["label"])
    return line.append(f"  {peer.explanation}", style=styles["muted"])


class TopologyScreen(MeshScreen):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "app.details", "Details"),
        Binding("down,j", "step(1)", "Choose", key_display="↑↓"),
        Binding("up,k", "step(-1)", show=False),
        Binding("left,right,h,l", "across", show=False),
        *COMMON_BINDINGS,
    ]
    DEFAULT_CSS = """
    TopologyScreen #legend, TopologyScreen #caption { height: 1; padding: 0 1; }
    """

    def compose(self) -> ComposeResult:
        yield TitleBar()
        yield Banner()
        yield NetworkList()
        yield NoticePane()
        yield Diagram()
        yield Lines(id="caption")
        yield Lines(id="legend")
        yield StatusLine()
        yield Footer(show_command_palette=False)

    def show(self) -> None:
        mesh, styles = self.mesh, self.styles_by_name
        self.query_one(TitleBar).show(mesh, "topology", styles)
        self.query_one(Banner).show(banner(mesh))
        self.query_one(NetworkList).show(mesh, styles)
        self.query_one(StatusLine).show(mesh, styles)
        notice = instead_of_peers(mesh)
        pane, diagram = self.query_one(NoticePane), self.query_one(Diagram)
        pane.display, diagram.display = notice is not None, notice is None
        for name in ("#legend", "#caption"):
            self.query_one(name).display = notice is None
        if notice is not None:
            pane.show(notice, styles)
        else:
            diagram.show(mesh, styles)
            self.query_one("#caption", Lines).put(caption(mesh.selected_row, styles))
            self.query_one("#legend", Lines).put(legend(styles))
            if diagram.size.height == 0:  # it was hidden until now and gets its room with the next layout
                self.call_after_refresh(diagram.show, mesh, styles)

    def action_step(self, step: int) -> None:
        picture = self.query_one(Diagram).picture
        if picture is not None:
            self._choose(picture.step(self.mesh.selected, step))

    def action_across(self) -> None:
        picture = self.query_one(Diagram).picture
        if picture is not None:
            self._choose(picture.across(self.mesh.selected))

    def on_diagram_picked(self, message: Diagram.Picked) -> None:
        self._choose(message.key)

    def _choose(self, key: PeerKey | None) -> None:
        if key is not None:
            self.mesh.select(key)
            self.show()
            self.owner.keep_why_fresh()
