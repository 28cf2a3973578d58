"""The relays of a controller: how each does; drained, put back into use, removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.relayrows import COLUMNS, RelayRow, relay_rows, what_breaks
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.console.table import Order
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys, ListScreen
from shadowmesh_tui.screens.dialogs import ConfirmScreen
from shadowmesh_tui.text import UNKNOWN, rate, shorten, sparkline, volume
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import ago, figures
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.rowtable import RowTable

_CELLS = 40  # of a name in a sentence


class RelaysScreen(ListScreen[RelayRow]):
    NAME = "relays"
    LIST = "relays"
    OPENS = False
    PLACEHOLDER = "words that name, region, state, address or version contain; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (
        ("↑ ↓  j k", "choose a relay"),
        ("d", "drain it: its clients go to others, and it takes no new ones"),
        ("u", "put it back into use"),
        ("x", "remove it"),
        ("/", "show only lines that contain these words"),
        ("s  S", "order by the next column, the other way round (or click a heading)"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "drain", "Drain"),
        Binding("u", "undrain", "Undrain"),
        Binding("x", "remove", "Remove"),
        *CONSOLE_BINDINGS,
    ]
    DEFAULT_CSS = """
    RelaysScreen RowTable { margin-top: 1; }
    RelaysScreen .facts { height: auto; border-top: solid $foreground 25%; padding: 0 1; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS, lambda r: r.relay.id)
        self._facts = Lines()
        self._facts.add_class("facts")
        self._shown: dict[str, RelayRow] = {}
        self._offered: list[bool | None] = []

    def body(self) -> ComposeResult:
        yield self.table
        yield self.filter
        yield self._facts

    def instead(self, desk: Desk) -> Notice | None:
        if not desk.console.relays:
            remedy = "`shadowmesh relay token` makes a token for one,\nand `shadowmesh relay install` has it run."
            return Notice(
                "There is no relay.", remedy if desk.console.may_administer else "Who runs the controller adds them."
            )
        if not self.rows(desk):
            return Notice(f"No relay matches “{desk.needle(self.LIST)}”.", "Press Esc to show all.")
        return None

    def rows(self, desk: Desk) -> list[RelayRow]:
        return relay_rows(desk.console, desk.needle(self.LIST), self.order)

    def show_body(self, desk: Desk) -> None:
        self._shown = {row.relay.id: row for row in relay_rows(desk.console, "", Order())}
        self.show_rows(desk)
        self._show_facts()
        self._refresh_offers()

    def _refresh_offers(self) -> None:
        """The footer is made anew, which is dear, so only when what is offered changes."""
        offered = [self.check_action(action, ()) for action in ("drain", "undrain", "remove")]
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    def _show_facts(self) -> None:
        row = self.row_at_cursor
        self._facts.display = row is not None and self.size.height >= 18
        if row is None:
            return
        relay, load, wall = row.relay, row.relay.load, self.desk.wall()
        lines = [
            ("relay", " ".join(part for part in (relay.name, relay.region, relay.id) if part)),
            ("reached at", relay.url or UNKNOWN),
            ("by UDP", relay.udp or "not"),
            ("seen", f"{'connected' if relay.online else ago(relay.last_seen, wall)}, registered {ago(relay.created_at, wall)}"),
        ]  # fmt: skip
        if relay.capacity_mbit is not None:
            lines.append(("may use", f"{relay.capacity_mbit:,} Mbit/s"))
        if load is not None and relay.online:
            lines.append(("since start", f"{volume(load.forwarded_bytes)} forwarded, {load.dropped_frames:,} frames dropped"))  # fmt: skip
        if row.rate is not None and row.rate.now is not None and self.size.height >= 24:
            width = max(8, min(60, self.table.size.width - 34))
            lines.append(("forwards", f"{sparkline(list(row.rate.bytes), width)}  {rate(row.rate.now)}"))
        if row.homes:
            lines.append(("home of", f"{row.homes} clients of {self._networks_known()}"))
        if row.pinned:
            lines.append(("the relay of", ", ".join(row.pinned)))
        self._facts.put(figures(lines[: max(4, self.size.height - 13)], self.palette))

    def _networks_known(self) -> str:
        known = [n.name for key, n in self.console.networks.items() if key in self.console.clients]
        return known[0] if len(known) == 1 else f"{len(known)} networks that were looked at"

    @property
    def row_at_cursor(self) -> RelayRow | None:
        return self._shown.get(self.table.cursor_key or "") if self.table.is_attached else None

    def on_row_table_moved(self, _message: RowTable.Moved) -> None:
        self._show_facts()
        self._refresh_offers()

    # what may be done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.view.desk is not None and action in ("drain", "undrain", "remove"):
            row = self.row_at_cursor
            if row is None or not self.console.may_administer:
                return False
            return action == "remove" or row.relay.draining == (action == "undrain")
        return super().check_action(action, parameters)

    def action_drain(self) -> None:
        self._asked("Drain", lambda api, ref: api.relay_drain(ref), "draining")

    def action_undrain(self) -> None:
        row = self.row_at_cursor
        if row is not None:
            self._do(row, lambda api, ref: api.relay_drain(ref, draining=False), "in use again")

    def action_remove(self) -> None:
        self._asked("Remove", lambda api, ref: api.relay_remove(ref), "removed")

    def _asked(self, verb: str, function: Callable[[ControllerClient, str], Any], done: str) -> None:
        row = self.row_at_cursor
        if row is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._do(row, function, done)

        breaks = what_breaks(row, self._shown.values(), removed=verb == "Remove")
        self.open(ConfirmScreen(f"{verb} {shorten(row.relay.name, _CELLS)}? {breaks}"), answered)

    @work(group="act")
    async def _do(self, row: RelayRow, function: Callable[[ControllerClient, str], Any], done: str) -> None:
        name = shorten(row.relay.name, _CELLS)
        await self.act(
            lambda api: function(api, row.relay.id),
            done=f"{name}: {done}.",
            failed=f"{name}: not {done}",
            wants=Wants(relays=True),
        )
