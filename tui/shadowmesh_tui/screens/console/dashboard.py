"""The dashboard of a controller: its networks and how they are, the clients of the chosen one, what happened last."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from shadowmesh.model.api import Client, Permission
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.rows import COLUMNS, ClientRow
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys, ListScreen
from shadowmesh_tui.screens.console.clientacts import CUT_OFF, Doing, by_name, do_each, named, removing
from shadowmesh_tui.screens.console.clientwindow import ClientWindow
from shadowmesh_tui.screens.console.createwindow import CreateWindow
from shadowmesh_tui.screens.console.joinwindow import JoinWindow
from shadowmesh_tui.screens.console.settingswindow import SettingsWindow
from shadowmesh_tui.screens.dialogs import ConfirmScreen
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import activity, client_facts
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.networkcards import NetworkCards
from shadowmesh_tui.widgets.notice import NoticePane
from shadowmesh_tui.widgets.rowtable import RowTable

_WITH_CARDS = (150, 30)  # from this size on networks are cards beside the clients


class ControllerDashboard(ListScreen[ClientRow]):
    NAME = "dashboard"
    LIST = "clients"
    PLACEHOLDER = "words that name, address, path, NAT, relay or tags contain; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (
        ("↑ ↓  j k", "choose a client"),
        ("Enter", "all about it: paths, history, rename, address"),
        ("Space", "mark it; what follows is done to all marked ones"),
        ("a", "let in who waits for approval"),
        ("x  X", "remove, here or from all networks"),
        ("/", "show only lines that contain these words"),
        ("s  S", "order by the next column, the other way round (or click a heading)"),
        ("+", "make a network"),
        ("e", "settings of the network"),
        ("i", "let a machine join: commands, code, and who comes"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", show=False),
        Binding("a", "approve", "Approve"),
        Binding("x", "remove(False)", "Remove"),
        Binding("X", "remove(True)", "Remove everywhere", show=False),
        Binding("i", "join", "Invite"),
        Binding("e", "settings", "Settings"),
        Binding("plus", "create", "New", key_display="+"),
        *CONSOLE_BINDINGS,
    ]
    DEFAULT_CSS = """
    ControllerDashboard #left { width: 1fr; height: auto; }
    ControllerDashboard #right { width: 1fr; height: 1fr; }
    ControllerDashboard #all { layout: vertical; height: 1fr; }
    ControllerDashboard RowTable { margin-top: 1; }
    ControllerDashboard .facts { height: auto; border-top: solid $foreground 25%; padding: 0 1; }
    ControllerDashboard .activity { display: none; height: 1fr; padding: 0 1; border-top: solid $foreground 25%; }
    ControllerDashboard.-cards #all { layout: horizontal; }
    ControllerDashboard.-cards #left { width: 46; height: 1fr; }
    ControllerDashboard.-cards .activity { display: block; }
    ControllerDashboard.-cards NetworkCards { max-height: 60%; padding: 1 1 0 1; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS, lambda r: r.client.client_id, lambda r: r.marked)
        self._networks, self._facts, self._activity = NetworkCards(), Lines(), Lines()
        self._facts.add_class("facts")
        self._activity.add_class("activity")
        self._nobody = NoticePane()

    def body(self) -> ComposeResult:
        with Horizontal(id="all"):
            with Vertical(id="left"):
                yield self._networks
                yield self._activity
            with Vertical(id="right"):
                yield self._nobody
                yield self.table
                yield self.filter
                yield self._facts

    def rows(self, desk: Desk) -> list[ClientRow]:
        return desk.rows()

    def show_body(self, desk: Desk) -> None:
        width, height = self.size
        cards = width >= _WITH_CARDS[0] and height >= _WITH_CARDS[1]
        self.set_class(cards, "-cards")
        self._networks.show(desk.console, self.palette, height * 6 // 10 if cards else height, cards=cards)
        if cards:
            self._activity.put(activity(desk.console, height, self.palette))
        nobody = self._instead_of_clients(desk)
        self._nobody.display, self.table.display = nobody is not None, nobody is None
        if nobody is not None:
            self._nobody.show(nobody, self.palette)
        self.show_rows(desk)
        self._show_facts(desk)

    def _instead_of_clients(self, desk: Desk) -> Notice | None:
        network, console = desk.console.network, desk.console
        if network is None:
            return None
        if network.network_id not in console.clients:
            return Notice(f"Reading the clients of {network.name} …", "")
        if not console.clients[network.network_id]:
            remedy = "Press i to let a machine join." if self.may(Permission.NETWORK_INVITE) else ""
            return Notice(f"Nobody is in {network.name} yet.", remedy)
        if desk.needle(self.LIST) and not desk.rows():
            return Notice(f"No client matches “{desk.needle(self.LIST)}”.", "Press Esc to show all.")
        return None

    def _show_facts(self, desk: Desk) -> None:
        client = self.client_at_cursor()
        tall = self.size.height >= 22
        self._facts.display = client is not None and self.table.display and tall
        if client is None:
            return
        wall = desk.wall()
        series = desk.console.series.get(client.client_id) if self.size.height >= 24 else None
        self._facts.put(client_facts(client, series, wall, self.table.size.width, self.palette))

    def client_at_cursor(self) -> Client | None:
        network, key = self.console.network, self.table.cursor_key
        return None if network is None or key is None else self.console.client(network.network_id, key)

    def on_row_table_moved(self, _message: RowTable.Moved) -> None:
        self._show_facts(self.desk)
        self.refresh_bindings()

    def on_network_cards_chosen(self, message: NetworkCards.Chosen) -> None:
        self.console.choose(message.network_id)
        self.network_chosen()

    # what may be done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.view.desk is None:
            return super().check_action(action, parameters)
        if action == "approve":
            return self.may(Permission.NETWORK_INVITE) and any(c.state == "pending" for c in self._meant())
        if action == "remove":
            return any(self.console.may_remove(c) for c in self._meant())
        if action == "join":
            return self.may(Permission.NETWORK_INVITE)
        if action == "settings":
            return self.may(Permission.NETWORK_CONFIGURE)
        if action == "create":
            return self.console.may_create
        return super().check_action(action, parameters)

    def _meant(self) -> list[Client]:
        """The marked clients; without marks the one at the cursor."""
        network = self.console.network
        if network is not None and self.console.marked:
            known = self.console.clients.get(network.network_id, {})
            return by_name(known[c] for c in self.console.marked & known.keys())
        client = self.client_at_cursor() if self.table.display else None
        return [] if client is None else [client]

    def action_mark(self) -> None:
        if self.table.display and self.table.cursor_key is not None:
            self.desk.mark(self.table.cursor_key)
            self.table.action_cursor(1)
            self.show()
            self.refresh_bindings()

    def on_row_table_opened(self, message: RowTable.Opened) -> None:
        network = self.console.network
        if network is not None:
            self.open(ClientWindow(self.view, network.network_id, message.key))

    def action_settings(self) -> None:
        if self.console.network is not None:
            self.open(SettingsWindow(self.view, self.console.network))

    def action_create(self) -> None:
        self.open(CreateWindow(self.view))

    def action_join(self) -> None:
        if self.console.network is not None:
            self.open(JoinWindow(self.view, self.console.network.network_id))

    def action_approve(self) -> None:
        meant = [c for c in self._meant() if c.state == "pending"]
        if meant:
            self._each(meant, lambda api, c: api.client_approve(c.network_id, c.client_id), "let in")

    def action_remove(self, everywhere: bool) -> None:
        meant = [c for c in self._meant() if self.console.may_remove(c)]
        if not meant:
            return
        from_where = "from all networks" if everywhere else f"from {meant[0].network_name}"

        def answered(yes: bool | None) -> None:
            if yes:
                self._each(meant, removing(everywhere), "removed")

        self.open(ConfirmScreen(f"Remove {named(meant)} {from_where}? {CUT_OFF}"), answered)

    @work(group="act")
    async def _each(self, clients: list[Client], function: Doing, done: str) -> None:
        await do_each(self, clients, function, done)
