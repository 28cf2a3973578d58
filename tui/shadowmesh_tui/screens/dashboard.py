"""The dashboard: networks, their peers as a live table, and all about the chosen one."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Footer, Input

from shadowmesh_tui.notices import banner, instead_of_peers, no_match
from shadowmesh_tui.screens.base import COMMON_BINDINGS, MeshScreen
from shadowmesh_tui.widgets.bars import Banner, StatusLine, TitleBar
from shadowmesh_tui.widgets.detail import PeerDetail
from shadowmesh_tui.widgets.networks import NetworkList
from shadowmesh_tui.widgets.notice import NoticePane
from shadowmesh_tui.widgets.peers import PeerTable


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
    DashboardScreen #peers { height: 1fr; margin-top: 1; }
    """

    def compose(self) -> ComposeResult:
        yield TitleBar()
        yield Banner()
        yield NetworkList()
        with Vertical(id="peers"):
            yield NoticePane()
            yield PeerTable()
        yield Input(
            placeholder="words that name, address, path or reason contain; Enter keeps, Esc clears", id="filter"
        )
        yield PeerDetail()
        yield StatusLine()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        super().on_mount()
        self._network_shown: str | None = None
        self.query_one(PeerTable).focus()

    def on_screen_resume(self) -> None:
        self._network_shown = None  # the chosen peer may have changed on another screen
        super().on_screen_resume()

    def show(self) -> None:
        mesh, styles = self.mesh, self.styles_by_name
        self.query_one(TitleBar).show(mesh, "dashboard", styles)
        self.query_one(Banner).show(banner(mesh))
        self.query_one(NetworkList).show(mesh, styles)
        self.query_one(StatusLine).show(mesh, styles)
        notice = instead_of_peers(mesh) or no_match(mesh)
        table, pane, detail = self.query_one(PeerTable), self.query_one(NoticePane), self.query_one(PeerDetail)
        pane.display, table.display = notice is not None, notice is None
        table.set_class(mesh.trouble is not None, "-stale")
        detail.display = notice is None
        width, height = self.size
        detail.set_class(width >= 110 and height >= 28, "-beside")
        detail.set_class(width < 110 and height >= 36, "-below")
        if notice is not None:
            pane.show(notice, styles)
        else:
            self._show_peers(table)
            detail.show(mesh, mesh.selected, styles)

    def _show_peers(self, table: PeerTable) -> None:
        mesh = self.mesh
        network_id = mesh.network.network_id if mesh.network else None
        move_to = mesh.selected if network_id != self._network_shown else None
        self._network_shown = network_id
        table.show(mesh.rows(), mesh.order, self.styles_by_name, move_to)
        if not table.has_focus and self.focused is None:
            table.focus()

    def on_peer_table_highlighted(self, message: PeerTable.Highlighted) -> None:
        if message.key != self.mesh.selected:
            self.mesh.select(message.key)
            self.query_one(PeerDetail).show(self.mesh, message.key, self.styles_by_name)
            self.owner.keep_why_fresh()

    def on_peer_table_opened(self, _message: PeerTable.Opened) -> None:
        self.owner.action_details()

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
            return self.is_mounted and self.query_one("#filter", Input).has_class("-shown")
        return super().check_action(action, parameters)

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.add_class("-shown")
        line.focus()
        self.refresh_bindings()

    def action_clear_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.value = ""
        line.remove_class("-shown")
        self.query_one(PeerTable).focus()
        self.refresh_bindings()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.mesh.needle = event.value.strip()
        self.show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if not event.value.strip():
            self.action_clear_filter()
        else:
            self.query_one(PeerTable).focus()
