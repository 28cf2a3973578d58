"""Logs to read, followed live: what happened in the chosen network; and what a log's screen shares with that of the audit log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.client_api.exports import export
from shadowmesh.client_api.logwording import log_detail, teller
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import AuditEntry, Permission
from shadowmesh.model.connectivity import ConnectionLog
from shadowmesh.model.reasons import EXPLANATIONS
from shadowmesh.model.text import escaped
from shadowmesh_tui.console.desk import Desk, Fetched
from shadowmesh_tui.console.logbook import AT_ONCE, LogBook
from shadowmesh_tui.console.table import Column, Order, in_order
from shadowmesh_tui.console.timerange import RANGES, TimeRange, after, parse
from shadowmesh_tui.notices import Notice, sentence
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys
from shadowmesh_tui.screens.console.factswindow import FactsWindow
from shadowmesh_tui.screens.console.fetching import FetchingScreen
from shadowmesh_tui.screens.console.filewindow import FileWindow, file_name
from shadowmesh_tui.screens.console.textwindow import TextWindow
from shadowmesh_tui.text import UNKNOWN, latency, shorten, volume
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import figures
from shadowmesh_tui.widgets.rowtable import RowTable

L = TypeVar("L", ConnectionLog, AuditEntry)
Reading = Callable[[ControllerClient, dt.datetime | None, dt.datetime | None, int], Iterator[L]]
EXPORTED = (".jsonl", ".csv", ".db")
LOG_KEYS: Keys = (
    ("↑ ↓  j k", "choose a line; at the newest one, the list follows what comes"),
    ("Enter", "all that it says"),
    ("/", "show only lines that contain these words"),
    ("t  T", "another time: the next one, or as you type it"),
    ("w", "write it to a file: JSON lines, CSV or SQLite"),
    ("s  S", "order by the next column, the other way round"),
)
LOG_BINDINGS: list[BindingType] = [
    Binding("t", "next_range", "Time"),
    Binding("T", "type_range", "From … to", show=False),
    Binding("w", "export", "Export"),
]
_RANGE_HINT = "90m, 24h, 2026-01-31, or 2026-01-31 12:00 .. 13:30"


class LogScreen(FetchingScreen[L], Generic[L]):
    """Subclasses say what is asked for and how a line reads."""

    EVERY_S = 2.0
    ORDER = Order("at", descending=True)
    FIRST_RANGE: ClassVar[TimeRange] = RANGES[1]

    def __init__(self, view: View, columns: Sequence[Column[L]]) -> None:
        super().__init__(view, columns, lambda line: str(self.number(line)))
        self.table.steady = True
        self.range = self.FIRST_RANGE
        self._made: tuple[tuple[object, ...], list[L]] = ((), [])
        self._by_key: dict[str, L] = {}

    @staticmethod
    def number(line: L) -> int:
        """By which lines are in order."""
        raise NotImplementedError

    def hay(self, line: L) -> str:
        """What the filter looks through."""
        return "\n".join(column.value(line) for column in self.columns)

    @staticmethod
    def moment(line: L) -> dt.datetime:
        raise NotImplementedError

    def lines(self) -> Reading[L]:
        """How they are asked for: those after a number and of a time, oldest first."""
        raise NotImplementedError

    def body(self) -> ComposeResult:
        yield self.head
        yield self.table
        yield self.filter
        yield self.facts

    # reading

    def book(self, desk: Desk) -> LogBook[L]:
        """Of what is looked at; another time is another book."""
        fetched = self.fetched(desk)
        if fetched.value is None or fetched.value.of != self.range:
            fetched.value, fetched.error = LogBook(self.range, self.number), None
            fetched.revision += 1
        book: LogBook[L] = fetched.value
        return book

    def asks(self, desk: Desk) -> Callable[[ControllerClient], Any]:
        book = self.book(desk)
        begin, until, last, lines = self.range.begins(desk.wall()), self.range.until, book.last, self.lines()
        if book.whole and not book.of.goes_on:
            return lambda _client: []
        return lambda client: list(islice(lines(client, begin, until, last), AT_ONCE))

    def take(self, fetched: Fetched[Any], answer: Any) -> bool:
        fetched.error = None
        desk, book = self.view.desk, fetched.value
        if desk is None or book is None:
            return False
        begin, more = self.range.begins(desk.wall()), len(answer) == AT_ONCE
        changed = book.add(answer)
        changed += 0 if begin is None else book.forget(lambda line: self.moment(line) < begin)
        fetched.revision += bool(changed)
        book.whole |= not more
        return more

    # what is shown

    def instead(self, desk: Desk) -> Notice | None:
        error = self.fetched(desk).error
        if error is not None and not self.book(desk).lines:
            return Notice(sentence(error.what), sentence(error.remedy), "error")
        return None

    def rows(self, desk: Desk) -> list[L]:
        """The same list until something changes: of thousands of lines it is dear."""
        fetched, needle = self.fetched(desk), desk.needle(self.list_name)
        mark = (desk.context, self.what, self.range, fetched.revision, needle, self.order)
        if mark != self._made[0]:
            words = needle.casefold().split()
            found = [
                line
                for line in self.book(desk).lines
                if not words or all(word in self.hay(line).casefold() for word in words)
            ]
            self._made = mark, in_order(found, self.columns, self.order, self.number)
            self._by_key = {str(self.number(line)): line for line in self._made[1]}
        return self._made[1]

    def show_body(self, desk: Desk) -> None:
        rows, follows = self.rows(desk), self.table.cursor_row == 0
        self.head.put(self._head(desk, len(rows)))
        self.show_rows(desk)
        if follows and rows:
            self.table.go_to(str(self.number(rows[0])))
        self._show_facts(desk)

    def _head(self, desk: Desk, count: int) -> Text:
        styles, book = self.palette, self.book(desk)
        text = Text(no_wrap=True, overflow="ellipsis").append(self.about(desk), style=styles["title"])
        text.append(f"  {self.range.words}", style=styles["label"])
        said = f"{count:,} of {len(book.lines):,}" if desk.needle(self.list_name) else f"{count:,}"
        text.append(f"  {said} {'line' if said == '1' else 'lines'}", style=styles["muted"])
        if book.dropped:
            text.append(f", {book.dropped:,} older ones not held: export has all", style=styles["warning"])
        if self.range.goes_on and self.table.cursor_row == 0 and self.order == self.ORDER:
            text.append("  ● live", style=styles["good"])
        return text

    def about(self, desk: Desk) -> str:
        raise NotImplementedError

    def row(self) -> L | None:
        return self._by_key.get(self.table.cursor_key or "")

    def _show_facts(self, desk: Desk) -> None:
        line = self.row() if self.table.row_count else None
        self.facts.display = self.size.height >= 18 or line is None
        if line is not None:
            self.facts.put(figures(self.said(line)[:4], self.palette))
        elif desk.needle(self.list_name):
            self.facts.put(Text("No line has these words. Esc shows all.", style=self.palette["label"]))
        else:
            words = "Nothing happened in this time" + (
                ": what comes shows up here by itself." if self.range.goes_on else "."
            )
            self.facts.put(Text(words, style=self.palette["label"]))

    def said(self, line: L) -> list[tuple[str, str]]:
        """All that a line says, the dearest first."""
        raise NotImplementedError

    def on_row_table_moved(self, _message: RowTable.Moved) -> None:
        if self.view.desk is not None:
            self._show_facts(self.desk)

    def on_row_table_opened(self, message: RowTable.Opened) -> None:
        line = self._by_key.get(message.key)
        if line is not None:
            self.open(FactsWindow(self.view, self.NAME, figures(self.said(line), self.palette, 16)))

    # the time

    def action_next_range(self) -> None:
        self._look_at(after(self.range))

    def action_type_range(self) -> None:
        self.open(TextWindow("from when, or from … to", "", _RANGE_HINT), self._typed)

    def _typed(self, text: str | None) -> None:
        if text is None:
            return
        found = parse(text, self.desk.wall())
        if found is None:
            self.notify(f"Write it as {_RANGE_HINT}.", title="Not understood", severity="warning", markup=False)
        else:
            self._look_at(found)

    def _look_at(self, of: TimeRange) -> None:
        self.range = of
        self.show()
        self.read()

    # a file

    def exported(self) -> tuple[str, str, type[Any]]:
        """What the file is called (without its end), the name of its table, what its lines are."""
        raise NotImplementedError

    def action_export(self) -> None:
        name, _, _ = self.exported()
        words = (
            f"All lines of {self.range.words}, not only those that the filter shows; your user alone may read the file. "
            ".jsonl is JSON lines, .csv a table, .db SQLite."
        )
        self.open(FileWindow("export", f"{name}.jsonl", words, EXPORTED), self._chosen)

    def _chosen(self, choice: tuple[Path, bool] | None) -> None:
        if choice is not None:
            self._export(*choice)

    @work(group="export")
    async def _export(self, path: Path, replace: bool) -> None:
        _, table, kind = self.exported()
        begin, until, lines = self.range.begins(self.desk.wall()), self.range.until, self.lines()
        count = await self.act(
            lambda client: export(path, None, table, kind, lines(client, begin, until, 0), replace=replace),
            failed="Not exported",
        )
        if count is not None:
            self.notify(f"{shorten(escaped(str(path)), 120)}: {count:,} lines.", markup=False)


# the log of a network

_EXPLAINED = {reason.value: words for reason, words in EXPLANATIONS.items()}
_STYLE = {"upgrade_p2p": "good", "fallback_relay": "warning", "client_removed": "error", "quota_reached": "error"}


def _detail(line: ConnectionLog) -> str:
    return line.reason or log_detail(line, volume) or ""


COLUMNS: Sequence[Column[ConnectionLog]] = (
    Column("at", "at", lambda r: f"{r.timestamp.astimezone():%m-%d %H:%M:%S}", lambda _: "muted", least=14, most=14,
           descends=True, sort=lambda r: (r.timestamp, r.log_id)),
    Column("event", "what", lambda r: r.event_type.replace("_", " "), lambda r: _STYLE.get(r.event_type, "label"),
           least=14, most=16, sort=lambda r: r.event_type),
    Column("client", "client", teller, least=12, most=32, sort=lambda r: teller(r).casefold()),
    Column("peer", "peer", lambda r: r.remote_peer_name or r.remote_peer_id or UNKNOWN, least=10, most=32, rank=2,
           sort=lambda r: (r.remote_peer_name or r.remote_peer_id).casefold() or None),
    Column("reason", "why", _detail, lambda _: "muted", least=16, most=60, rank=1, sort=lambda r: _detail(r) or None),
    Column("latency", "latency", lambda r: latency(r.latency_ms), lambda _: "muted", least=7, most=7, right=True, rank=3,
           descends=True, sort=lambda r: r.latency_ms),
    Column("relay", "relay", lambda r: r.relay_name or r.relay_id or UNKNOWN, lambda _: "muted", least=8, most=20, rank=4,
           sort=lambda r: r.relay_name or r.relay_id),
    Column("source", "told by", lambda r: r.source, lambda _: "muted", least=10, most=10, rank=5, sort=lambda r: r.source),
)  # fmt: skip


class NetworkLogScreen(LogScreen[ConnectionLog]):
    NAME = "logs"
    LIST = "logs"
    PLACEHOLDER = "words of client, peer, event, reason or relay; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = LOG_KEYS
    BINDINGS: ClassVar[list[BindingType]] = [*LOG_BINDINGS, *CONSOLE_BINDINGS]

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS)

    @staticmethod
    def number(line: ConnectionLog) -> int:
        return line.log_id

    @property
    def what(self) -> str:
        network = self.console.network
        return "" if network is None or not self.may(Permission.LOGS_VIEW) else f"logs {network.network_id}"

    def instead(self, desk: Desk) -> Notice | None:
        if not self.what:
            return Notice("Your role in this network doesn't read its log.", "An owner can give you logs.view in it.")
        return super().instead(desk)

    @staticmethod
    def moment(line: ConnectionLog) -> dt.datetime:
        return line.timestamp

    def lines(self) -> Reading[ConnectionLog]:
        network_id = self.what.removeprefix("logs ")
        return lambda client, since, until, last: client.log(network_id, after=last, since=since, until=until)

    def about(self, desk: Desk) -> str:
        network = desk.console.network
        return "" if network is None else shorten(network.name, 40)

    def said(self, line: ConnectionLog) -> list[tuple[str, str]]:
        peer = f" with {line.remote_peer_name or line.remote_peer_id}" if line.remote_peer_id else ""
        rows = [
            ("what", f"{line.event_type.replace('_', ' ')}: {teller(line)}{peer}"),
            ("why", line.reason or log_detail(line, volume) or UNKNOWN),
            ("", _EXPLAINED.get(line.reason, "")),
            ("at", f"{line.timestamp.astimezone():%Y-%m-%d %H:%M:%S}, told by the {line.source}"),
            ("path", " ".join(part for part in (line.path, line.connection_type or "") if part) or UNKNOWN),
            ("latency", latency(line.latency_ms)),
            ("relay", " ".join(part for part in (line.relay_name, line.relay_id) if part) or UNKNOWN),
            ("client", line.client_id or UNKNOWN),
            ("peer", line.remote_peer_id or UNKNOWN),
            ("detail", log_detail(line, volume) or UNKNOWN),
            ("number", str(line.log_id)),
        ]
        return [row for row in rows if row[1]]

    def exported(self) -> tuple[str, str, type[Any]]:
        network = self.console.network
        return file_name("log", network.name if network is not None else "network"), "logs", ConnectionLog
