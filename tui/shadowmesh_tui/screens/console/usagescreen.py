"""What a network, or all of them, used of its plan: by client, user or network, in a month, its days or its hours."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.client_api.exports import export
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import Permission
from shadowmesh.model.text import escaped
from shadowmesh.model.usage import Quota, UsageRow
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.console.table import Order
from shadowmesh_tui.console.used import (
    BYS,
    COLUMNS,
    UNITS,
    WARNED,
    Used,
    UsedLine,
    UsedLook,
    UsedOf,
    bar,
    level,
    month_before,
    month_of,
    used_lines,
)
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys, ListScreen
from shadowmesh_tui.screens.console.filewindow import FileWindow, file_name
from shadowmesh_tui.text import shorten, volume
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.lines import Lines
from shadowmesh_tui.widgets.notice import NoticePane

_FIRST_MONTH = "2020-01"


class UsageScreen(ListScreen[UsedLine]):
    NAME = "usage"
    LIST = "usage"
    OPENS = False
    ORDER = Order("counted", descending=True)
    PLACEHOLDER = "words that name, user or time contain; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (
        ("v", "sums by client, by user, by network"),
        ("t", "the month as a whole, by its days, by its hours"),
        ("[  ]", "the month before, the next one"),
        ("e", "write it to a file: CSV, in bytes"),
        ("/", "show only lines that contain these words"),
        ("s  S", "order by the next column, the other way round (or click a heading)"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "by", "Whose"),
        Binding("t", "unit", "Time"),
        Binding("left_square_bracket", "month(1)", "Month", key_display="[]"),
        Binding("right_square_bracket", "month(-1)", "Next month", show=False),
        Binding("e,w", "export", "CSV", key_display="e"),
        *CONSOLE_BINDINGS,
    ]
    DEFAULT_CSS = """
    UsageScreen #standing { height: auto; padding: 1 1 0 1; }
    UsageScreen RowTable { margin-top: 1; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS, lambda r: r.key)
        self._look = UsedLook()
        self._standing = Lines(id="standing")
        self._nothing = NoticePane()

    def body(self) -> ComposeResult:
        yield self._standing
        yield self._nothing
        yield self.table
        yield self.filter

    # which question is answered

    @property
    def of(self) -> UsedOf | None:
        """What is asked; None: nothing can be."""
        if self._look.by == "network":
            return UsedOf(None, self._look.month, self._look.unit)
        network = self.console.network
        if network is None or not self.console.may(Permission.LOGS_VIEW, network.network_id):
            return None
        return UsedOf(network.network_id, self._look.month, self._look.unit)

    def _ask(self) -> None:
        of = self.console.used_shown = self.of
        if of is not None:
            self.desk.want(Wants(usages={of}))

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if self.view.desk is not None:
            self._ask()

    def on_screen_suspend(self) -> None:
        if (
            self.view.desk is not None
            and self.app.screen is not self
            and self.app.current_mode != f"console-{self.NAME}"
        ):
            self.console.used_shown = None

    def network_chosen(self) -> None:
        self._ask()
        super().network_chosen()

    # showing it

    def rows(self, desk: Desk) -> list[UsedLine]:
        used = desk.console.used.get(self.of) if self.of is not None else None
        if used is None:
            return []
        needle, look = desk.needle(self.LIST), self._look
        mark = (id(used), look.by, look.unit, needle, self.order)
        if look.made[0] != mark:
            look.made = mark, used_lines(used, look.by, look.unit, needle, self.order)
        return look.made[1]

    def show_body(self, desk: Desk) -> None:
        of = self.of
        if of != desk.console.used_shown:  # who may read what has changed, or the network is gone
            self._ask()
        used = desk.console.used.get(of) if of is not None else None
        self._standing.put(self._standing_lines(used))
        nothing = self._instead_of_lines(desk, used)
        self._nothing.display, self.table.display = nothing is not None, nothing is None
        if nothing is not None:
            self._nothing.show(nothing, self.palette)
        self.show_rows(desk)

    def _instead_of_lines(self, desk: Desk, used: Used | None) -> Notice | None:
        network = desk.console.network
        if self.of is None:
            name = network.name if network is not None else "no network"
            return Notice(f"Your role in {name} doesn't read what is used.", "Press n for another network.")
        if used is None:
            return Notice("Reading what was used …", "")
        if not used.rows:
            full = network is None or self._look.by == "network" or network.reports == "full"
            remedy = "" if full else "Direct bytes are told of where the network has them reported (reports: full)."
            return Notice(f"Nothing was used in {self._month}.", remedy)
        if desk.needle(self.LIST) and not self.rows(desk):
            return Notice(f"Nothing matches “{desk.needle(self.LIST)}”.", "Press Esc to show all.")
        return None

    @property
    def _month(self) -> str:
        return self._look.month or month_of(self.desk.wall())

    def _standing_lines(self, used: Used | None) -> Text:
        """Of the chosen network, or of all: used of the plan, with a bar; what was direct and what went by relays."""
        styles, look, network = self.palette, self._look, self.console.network
        whole = look.by == "network"
        name = "all networks" if whole else shorten(network.name, 40) if network is not None else ""
        head = Text(no_wrap=True, overflow="ellipsis").append(name, style=styles["title"])
        head.append(f", {self._month}, ", style=styles["muted"])
        head.append(f"by {look.by}" if look.unit == "month" else f"by {look.by} and {look.unit}", style=styles["label"])
        if used is None:
            return Text("\n").join([head, Text(), Text()])
        quota = None if whole or network is None else used.quotas.get(network.network_id)
        lines = [head, self._plan_line(used, quota), self._sums_line(used)]
        if quota is not None and quota.over:
            words = "✗ used up: what goes by relays is slowed down, nobody may join"
            lines.insert(2, Text(words, style=styles["error"], no_wrap=True, overflow="ellipsis"))
        return Text("\n").join(lines)

    def _plan_line(self, used: Used, quota: Quota | None) -> Text:
        styles, line = self.palette, Text(no_wrap=True, overflow="ellipsis")
        if quota is None:
            near = sorted(((q.percent or 0, q.network) for q in used.quotas.values()), reverse=True)
            near = [(percent, name) for percent, name in near if percent >= WARNED]
            if near:
                said = ", ".join(f"{shorten(name, 24)} {percent} %" for percent, name in near[:3])
                more = f" and {len(near) - 3} more" if len(near) > 3 else ""
                return line.append(f"! {said}{more} of the plan", style=styles["warning"])
            words = "no network is near the end of its plan" if used.quotas else "plans are told of the present month"
            return line.append(words, style=styles["muted"])
        if quota.monthly_bytes is None:
            plan = "no plan" if quota.plan is None else f"plan {quota.plan}"
            line.append(f"{volume(quota.used)} used, ", style=styles["label"])
            return line.append(f"{plan}: no limit of traffic", style=styles["muted"])
        style = styles[level(quota)]
        width = max(8, min(40, self.size.width - 60))
        line.append(f"{bar(min(1.0, quota.used / quota.monthly_bytes), width)} ", style=style)
        line.append(f"{quota.percent} %", style=style)
        line.append(f" {volume(quota.used)} of {volume(quota.monthly_bytes)}, plan {quota.plan}", style=styles["label"])
        if not quota.over and (quota.percent or 0) >= WARNED:
            line.append(f"  ! over {WARNED} %", style=styles["warning"])
        return line

    def _sums_line(self, used: Used) -> Text:
        styles, line = self.palette, Text(no_wrap=True, overflow="ellipsis")
        direct, relayed = sum(r.direct_received for r in used.rows), sum(r.relayed_received for r in used.rows)
        line.append("● direct ", style=styles["direct"]).append(f"{volume(direct)}   ", style=styles["label"])
        line.append("◌ by relays ", style=styles["relay"]).append(volume(relayed), style=styles["label"])
        if not used.complete:
            line.append("   ! there is more than is shown: e writes all of it to a file", style=styles["warning"])
        return line

    # how it is looked at

    def _again(self) -> None:
        self._ask()
        self.show()

    def action_by(self) -> None:
        self._look.by = BYS[(BYS.index(self._look.by) + 1) % len(BYS)]
        self._again()

    def action_unit(self) -> None:
        """Days and hours stand in their order, the newest first."""
        look = self._look
        look.unit = UNITS[(UNITS.index(look.unit) + 1) % len(UNITS)]
        self.desk.looking.orders[self.LIST] = self.ORDER if look.unit == "month" else Order("at", descending=True)
        self._again()

    def action_month(self, back: int) -> None:
        present = month_of(self.desk.wall())
        month = month_before(self._month, back)
        if _FIRST_MONTH <= month <= present:
            self._look.month = None if month == present else month
            self._again()

    # the file

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "export" and self.view.desk is not None:
            return self.of is not None
        return super().check_action(action, parameters)

    def action_export(self) -> None:
        of = self.of
        if of is None:
            return
        network = self.console.networks.get(of.network_id or "")
        name = file_name("usage", "all" if network is None else network.name, self._month)
        words = f"All lines by client and {of.unit}, in bytes. What is written is for your user alone."
        self.open(FileWindow("export", f"{name}.csv", words, (".csv",)), partial(self._chosen, of))

    def _chosen(self, of: UsedOf, chosen: tuple[Path, bool] | None) -> None:
        if chosen is not None:
            self._export(of, *chosen)

    @work(group="export")
    async def _export(self, of: UsedOf, path: Path, replace: bool) -> None:
        def write(client: ControllerClient) -> int:
            rows = client.usage(of.network_id, month=of.month, by=of.unit)
            return export(path, "csv", "usage", UsageRow, rows, replace=replace)

        count = await self.act(write, failed="Not written")
        if count is not None:
            self.notify(f"{escaped(str(path))}: {count:,} lines.", markup=False)
