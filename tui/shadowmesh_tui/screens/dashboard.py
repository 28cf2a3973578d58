"""The dashboard: networks, their peers as a live table, and all about the chosen one; on a large screen the picture, too."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Input

from shadowmesh_tui.notices import banner, instead_of_peers, no_match
from shadowmesh_tui.screens.base import COMMON_BINDINGS, MeshScreen
from shadowmesh_tui.state import PeerKey
from shadowmesh_tui.view import ChoiceChanged, DetailsAsked, View
from shadowmesh_tui.widgets.bars import Banner, StatusLine, TitleBar
from shadowmesh_tui.widgets.detail import PeerDetail
from shadowmesh_tui.widgets.diagram import Diagram
from shadowmesh_tui.widgets.networks import NetworkList
from shadowmesh_tui.widgets.notice import NoticePane
from shadowmesh_tui.widgets.peers import PeerTable

_WITH_PICTURE = (160, 36)  # from this size on there is room for the picture beside the table
_MANY_PEERS = 60  # … of which a picture that small tells nothing


class DashboardScreen(MeshScreen):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort_next", "Sort"),
        Binding("S", "sort_reverse", "Reverse", show=False),
        Binding("escape", "clear_filter", "Show all"),
        *COMMON_BINDINGS,
    ]
    DEFAULT_CSS = """
    DashboardScreen #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    DashboardScreen #filter.-shown { display: block; }
    DashboardScreen #middle { height: 1fr; margin-top: 1; }
    DashboardScreen #peers { width: 1fr; }
    DashboardScreen Diagram { display: none; width: 84; height: 1fr; }
    DashboardScreen.-large Diagram { display: block; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._title, self._banner, self._networks, self._status = TitleBar(), Banner(), NetworkList(), StatusLine()
        self._notice, self._table, self._detail, self._diagram = NoticePane(), PeerTable(), PeerDetail(), Diagram()
        self._filter = Input(
            placeholder="words that name, address, path or reason contain; Enter keeps, Esc clears", id="filter"
        )
        self._network_shown: str | None = None

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._banner
        yield self._networks
        with Horizontal(id="middle"):
            with Vertical(id="peers"):
                yield self._notice
                yield self._table
            yield self._diagram
        yield self._filter
        yield self._detail
        yield self._status
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._table.focus()

    def on_screen_resume(self) -> None:
        self._network_shown = None  # the chosen peer may have changed on another screen
        super().on_screen_resume()

    def show(self) -> None:
        mesh, styles = self.mesh, self.palette
        self._title.show(mesh, "dashboard", styles)
        self._banner.show(banner(mesh))
        self._networks.show(mesh, styles, self.size.height)
        self._status.show(mesh, styles)
        notice = instead_of_peers(mesh) or no_match(mesh)
        self._notice.display, self._table.display = notice is not None, notice is None
        self._table.set_class(mesh.trouble is not None, "-stale")
        self._detail.display = notice is None
        self._lay_out(has_peers=notice is None)
        if notice is not None:
            self._notice.show(notice, styles)
            if self._table.has_focus:
                self.set_focus(None)  # its keys are none while it isn't there
        else:
            self._show_peers()
            self._detail.show(mesh, self.peer_at_cursor(), styles)

    def _lay_out(self, *, has_peers: bool) -> None:
        width, height = self.size
        self._detail.set_class(width >= 110 and height >= 28, "-beside")
        self._detail.set_class(width >= 110 and height >= 45, "-tall")
        self._detail.set_class(width < 110 and height >= 36, "-below")
        few = self.mesh.network is not None and len(self.mesh.network.peers) <= _MANY_PEERS
        large = has_peers and few and width >= _WITH_PICTURE[0] and height >= _WITH_PICTURE[1]
        self.set_class(large, "-large")
        if large:
            self._diagram.show(self.mesh, self.palette)

    def _show_peers(self) -> None:
        mesh = self.mesh
        network_id = mesh.network.network_id if mesh.network else None
        move_to = mesh.selected if network_id != self._network_shown else None
        self._network_shown = network_id
        self._table.show(mesh.rows(), mesh.order, self.palette, move_to)
        if not self._table.has_focus and self.focused is None:
            self._table.focus()

    def peer_at_cursor(self) -> PeerKey | None:
        return self._table.cursor_key if self._table.display else None

    def on_peer_table_highlighted(self, message: PeerTable.Highlighted) -> None:
        self._choose(message.key)

    def on_diagram_picked(self, message: Diagram.Picked) -> None:
        self._table.go_to(message.key)

    def _choose(self, key: PeerKey) -> None:
        if key != self.mesh.selected:
            self.mesh.select(key)
            self._detail.show(self.mesh, key, self.palette)
            self.post_message(ChoiceChanged())

    def on_peer_table_opened(self, message: PeerTable.Opened) -> None:
        self.post_message(DetailsAsked(message.key))

    def on_peer_table_sort_pressed(self, message: PeerTable.SortPressed) -> None:
        self.mesh.order = self.mesh.order.pressed(message.by)
        self.show()

    def action_sort_next(self) -> None:
        self.mesh.order = self.mesh.order.next_column()
        self.show()

    def action_sort_reverse(self) -> None:
        self.mesh.order = self.mesh.order.pressed(self.mesh.order.by)
        self.show()

    # the filter

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "clear_filter":
            return self._filter.has_class("-shown")
        return super().check_action(action, parameters)

    def action_filter(self) -> None:
        self._filter.add_class("-shown")
        self._filter.focus()
        self.refresh_bindings()

    def action_clear_filter(self) -> None:
        self._filter.value = ""
        self._filter.remove_class("-shown")
        self._table.focus()
        self.refresh_bindings()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.mesh.needle = event.value.strip()
        self.show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if not event.value.strip():
            self.action_clear_filter()
        else:
            self._table.focus()
