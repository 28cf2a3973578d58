"""Who waits to be let in, over all networks where one may let machines in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.model.api import Client
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.table import Column, Order, in_order
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys, ListScreen
from shadowmesh_tui.screens.console.clientacts import Doing, approving, by_name, denying, do_each, named, removing
from shadowmesh_tui.screens.console.clientwindow import ClientWindow
from shadowmesh_tui.screens.dialogs import ConfirmScreen
from shadowmesh_tui.text import UNKNOWN
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import ago, figures
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.rowtable import RowTable


class _Waiting:
    """A line of the table. `known`: the network, and for how long it waits (seconds)."""

    def __init__(self, client: Client, network: str, wall: float, marked: bool) -> None:
        self.client, self.network, self.marked = client, network, marked
        self.waits = ago(client.created_at, wall)


COLUMNS: Sequence[Column[_Waiting]] = (
    Column("name", "client", lambda r: r.client.name, least=14, most=64, sort=lambda r: r.client.name.casefold()),
    Column("network", "network", lambda r: r.network, least=12, most=40, sort=lambda r: r.network.casefold()),
    Column("waits", "since", lambda r: r.waits, least=8, most=8, right=True, sort=lambda r: r.client.created_at),
    Column("address", "address", lambda r: r.client.ip, lambda _: "muted", least=10, most=15, rank=2),
    Column("proof", "its key", lambda r: "not proved" if r.client.expires_at else "proved",
           lambda r: "warning" if r.client.expires_at else "good", least=10, most=10, rank=1),
    Column("link", "link", lambda r: {"connecting": "here", "online": "here"}.get(r.client.status, "away"),
           lambda r: "muted" if r.client.status == "offline" else "good", least=4, most=4, rank=3),
    Column("invite", "invite", lambda r: r.client.invite or UNKNOWN, lambda _: "muted", least=12, most=22, rank=5),
    Column("version", "version", lambda r: r.client.version or UNKNOWN, lambda _: "muted", least=7, most=12, rank=6),
)  # fmt: skip


class ApprovalsScreen(ListScreen[_Waiting]):
    NAME = "approvals"
    LIST = "approvals"
    ORDER = Order("waits")
    PLACEHOLDER = "words that name, network or address contain; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (
        ("↑ ↓  j k", "choose who waits"),
        ("Enter", "all about it"),
        ("Space", "mark it; what follows is done to all marked ones"),
        ("a", "let in"),
        ("r", "reject: it is told, and has to join again"),
        ("X", "remove the machine from all networks"),
        ("/", "show only lines that contain these words"),
        ("s  S", "order by the next column, the other way round (or click a heading)"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", show=False),
        Binding("a", "approve", "Approve"),
        Binding("r", "reject", "Reject"),
        Binding("X", "remove", "Remove everywhere", show=False),
        *CONSOLE_BINDINGS,
    ]
    DEFAULT_CSS = """
    ApprovalsScreen RowTable { margin-top: 1; }
    ApprovalsScreen .facts { height: auto; border-top: solid $foreground 25%; padding: 0 1; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS, lambda r: r.client.client_id, lambda r: r.marked)
        self._facts = Lines()
        self._facts.add_class("facts")
        self._marked: set[str] = set()
        self._shown: dict[str, Client] = {}

    def body(self) -> ComposeResult:
        yield self.table
        yield self.filter
        yield self._facts

    def instead(self, desk: Desk) -> Notice | None:
        if not desk.console.approvals():
            return Notice("Nobody waits for approval.", "Who joins a network that asks for it shows up here by itself.")
        if not self.rows(desk):
            return Notice(f"Nobody who waits matches “{desk.needle(self.LIST)}”.", "Press Esc to show all.")
        return None

    def rows(self, desk: Desk) -> list[_Waiting]:
        words, wall = desk.needle(self.LIST).casefold().split(), desk.wall()
        found = []
        for client in desk.console.approvals():
            row = _Waiting(client, client.network_name, wall, client.client_id in self._marked)
            hay = "\n".join((client.name, row.network, client.ip, client.client_id)).casefold()
            if all(word in hay for word in words):
                found.append(row)
        return in_order(found, COLUMNS, self.order, lambda r: (r.client.name.casefold(), r.client.client_id))

    def show_body(self, desk: Desk) -> None:
        self._shown = {c.client_id: c for c in desk.console.approvals()}
        self._marked &= self._shown.keys()
        self.show_rows(desk)
        self._show_facts()

    def _show_facts(self) -> None:
        client = self._shown.get(self.table.cursor_key or "")
        self._facts.display = client is not None and self.size.height >= 18
        if client is None:
            return
        wall = self.desk.wall()
        says = (
            "proved"
            if client.expires_at is None
            else "not proved: it was registered, and has to enrol with the key first"
        )
        rows = [
            ("client", f"{client.name}  {client.client_id}"),
            ("WireGuard key", f"{client.public_key}  ({says})"),
            ("device", client.device or UNKNOWN),
            ("asked", f"{ago(client.created_at, wall)}, by invite {client.invite or UNKNOWN}"),
        ]
        self._facts.put(figures(rows, self.palette))

    def on_row_table_moved(self, _message: RowTable.Moved) -> None:
        self._show_facts()

    def on_row_table_opened(self, message: RowTable.Opened) -> None:
        client = self._shown.get(message.key)
        if client is not None:
            self.open(ClientWindow(self.view, client.network_id, client.client_id))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.view.desk is not None and action in ("mark", "approve", "reject", "remove"):
            meant = self._meant()
            return any(map(self.console.may_remove, meant)) if action == "remove" else bool(meant)
        return super().check_action(action, parameters)

    def _meant(self) -> list[Client]:
        """The marked ones; without marks the one at the cursor. As they stand now: some may have been let in meanwhile."""
        waiting = {c.client_id: c for c in self.console.approvals()}
        if self._marked & waiting.keys():
            return by_name(waiting[c] for c in self._marked & waiting.keys())
        key = self.table.cursor_key
        return [waiting[key]] if key in waiting else []

    def action_mark(self) -> None:
        key = self.table.cursor_key
        if key is not None:
            self._marked ^= {key}
            self.table.action_cursor(1)
            self.show()

    def action_approve(self) -> None:
        self._each(self._meant(), approving, "let in")

    def action_reject(self) -> None:
        self._ask("Reject {}? It is told so, and has to join again.", denying, "rejected")

    def action_remove(self) -> None:
        self._ask("Remove {} from all networks?", removing(True), "removed")

    def _ask(self, question: str, function: Doing, done: str) -> None:
        meant = self._meant()

        def answered(yes: bool | None) -> None:
            if yes:
                self._each(meant, function, done)

        if meant:
            self.open(ConfirmScreen(question.format(named(meant))), answered)

    @work(group="act")
    async def _each(self, clients: list[Client], function: Doing, done: str) -> None:
        await do_each(self, clients, function, done)
        self._marked -= {client.client_id for client in clients}
        self.show()
