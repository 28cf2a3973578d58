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
from shadowmesh_tui.text import PATH_GLYPH, latency, path_code
from shadowmesh_tui.topology import OFFLINE_GLYPH, RELAY_GLYPH
from shadowmesh_tui.view import ChoiceChanged, View
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
    line.append(peer.name, style=styles["title"])
    line.append(f"  {peer.ip}  ", style=styles["label"])
    line.append(path_code(peer), style=styles[peer.path])
    if peer.path != "none":
        line.append(f" via {row.via}  {latency(peer.latency_ms)}", style=styles["label"])
    return line.append(f"  {peer.explanation}", style=styles["muted"])


class TopologyScreen(MeshScreen):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "details", "Details"),
        Binding("down,j", "step(1)", "Choose", key_display="↑↓"),
        Binding("up,k", "step(-1)", show=False),
        Binding("left,right,h,l", "across", show=False),
        Binding("home,g", "to_end(False)", show=False),
        Binding("end,G", "to_end(True)", show=False),
        *COMMON_BINDINGS,
    ]
    DEFAULT_CSS = """
    TopologyScreen #legend, TopologyScreen #caption { height: 1; padding: 0 1; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._title, self._banner, self._networks, self._status = TitleBar(), Banner(), NetworkList(), StatusLine()
        self._notice, self._diagram = NoticePane(), Diagram()
        self._caption, self._legend = Lines(id="caption"), Lines(id="legend")

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._banner
        yield self._networks
        yield self._notice
        yield self._diagram
        yield self._caption
        yield self._legend
        yield self._status
        yield Footer(show_command_palette=False)

    def show(self) -> None:
        mesh, styles = self.mesh, self.palette
        self._title.show(mesh, "topology", styles)
        self._banner.show(banner(mesh))
        self._networks.show(mesh, styles, self.size.height)
        self._status.show(mesh, styles)
        notice = instead_of_peers(mesh)
        self._notice.display = notice is not None
        for widget in (self._diagram, self._caption, self._legend):
            widget.display = notice is None
        if notice is not None:
            self._notice.show(notice, styles)
        else:
            self._diagram.show(mesh, styles)
            self._caption.put(caption(mesh.selected_row, styles))
            self._legend.put(legend(styles))

    def peer_at_cursor(self) -> PeerKey | None:
        return self.mesh.selected if self._diagram.display else None

    def action_step(self, step: int) -> None:
        picture = self._diagram.picture
        if picture is not None:
            self._choose(picture.step(self.mesh.selected, step))

    def action_across(self) -> None:
        picture = self._diagram.picture
        if picture is not None:
            self._choose(picture.across(self.mesh.selected))

    def action_to_end(self, last: bool) -> None:
        picture = self._diagram.picture
        if picture is not None:
            self._choose(picture.end(last=last))

    def on_diagram_picked(self, message: Diagram.Picked) -> None:
        self._choose(message.key)

    def _choose(self, key: PeerKey | None) -> None:
        if key is not None:
            self.mesh.select(key)
            self.show()
            self.post_message(ChoiceChanged())
