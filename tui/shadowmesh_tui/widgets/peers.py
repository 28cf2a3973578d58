"""The table of peers. It owns its cursor, which stays on its peer whatever the rows do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from shadowmesh_tui.columns import ONLINE, Column, cell, columns_for
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Order, PeerKey, PeerRow, SortBy
from shadowmesh_tui.text import duration

_MANY = 20


class _NameCell(Text):
    """The first cell of a row; it knows whose row it is, so that rows can be put in order."""

    def __init__(self, text: str, style: object, row: str) -> None:
        super().__init__(text, style=style)  # type: ignore[arg-type]
        self.row = row


class PeerTable(DataTable[Text]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Details"),
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
    ]
    DEFAULT_CSS = """
    PeerTable { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; background: $background; padding: 0 0 0 1; }
    PeerTable:focus { background-tint: $foreground 0%; }
    PeerTable > .datatable--header, PeerTable:focus > .datatable--header {
        background: $background; background-tint: $foreground 0%; text-style: bold;
    }
    PeerTable.-stale { opacity: 60%; }
    PeerTable:nocolor > .datatable--cursor { text-style: bold reverse; }
    """

    class Highlighted(Message):
        """The cursor is on this peer now."""

        def __init__(self, key: PeerKey) -> None:
            self.key = key
            super().__init__()

    class Opened(Message):
        """Enter or a click on the row of this peer, which was chosen already."""

        def __init__(self, key: PeerKey) -> None:
            self.key = key
            super().__init__()

    class SortPressed(Message):
        def __init__(self, by: SortBy) -> None:
            self.by = by
            super().__init__()

    def __init__(self) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=0)
        self._columns_shown: list[Column] = []
        self._look: tuple[object, ...] = ()
        self._cells: dict[str, list[tuple[str, str]]] = {}
        self._keys: dict[str, PeerKey] = {}
        self._seen: dict[str, tuple[object, ...]] = {}  # all that the cells were made of
        self._order: list[str] = []
        self._shown: tuple[Sequence[PeerRow], Order, Palette] | None = None

    def on_resize(self, _event: events.Resize) -> None:
        if self._shown is not None:
            self.show(*self._shown)  # the columns that fit now

    @property
    def cursor_key(self) -> PeerKey | None:
        """The peer under the cursor."""
        return self._keys[self._order[self.cursor_row]] if 0 <= self.cursor_row < len(self._order) else None

    def go_to(self, key: PeerKey) -> None:
        """Moves the cursor to this peer, if it is there."""
        if str(key) in self._order:
            self.move_cursor(row=self._order.index(str(key)), animate=False)

    def action_first(self) -> None:
        self.move_cursor(row=0, animate=False)

    def action_last(self) -> None:
        self.move_cursor(row=max(0, self.row_count - 1), animate=False)

    def show(self, rows: Sequence[PeerRow], order: Order, styles: Palette, move_to: PeerKey | None = None) -> None:
        """Shows these rows in this order, touching only what changed. `move_to` moves the cursor, if it is there."""
        self._shown = rows, order, styles
        target, index = move_to or self.cursor_key, self.cursor_row
        columns = columns_for(self.size.width - 2, rows)  # of the padding and the scroll bar
        look = (columns, order, styles)
        if look != self._look:
            self._rebuild(columns, order, styles)
            self._look = look
        wanted = {str(row.key): row for row in rows}
        gone = [name for name in self._cells if name not in wanted]
        if len(gone) > _MANY:  # each removal costs a walk over all rows
            self._empty()
        else:
            for name in gone:
                self.remove_row(name)
                del self._cells[name], self._keys[name], self._seen[name]
        for name, row in wanted.items():
            self._put(name, row, styles)
        names = list(wanted)
        if list(self._cells) != names:  # rows stand in the order of their adding, or of the last sort
            rank = {name: i for i, name in enumerate(names)}
            self.sort(SortBy.NAME.value, key=lambda first: rank[first.row])
            self._cells = {name: self._cells[name] for name in names}
        self._order = names
        if not names:
            return
        goal = str(target) if target is not None and str(target) in wanted else names[min(index, len(names) - 1)]
        at = names.index(goal)
        if at != self.cursor_row:
            self.move_cursor(row=at, animate=False)
        if target is None or str(target) != goal:
            self.post_message(self.Highlighted(self._keys[goal]))

    def _rebuild(self, columns: list[Column], order: Order, styles: Palette) -> None:
        self._empty(columns=True)
        self._columns_shown = columns
        for i, column in enumerate(columns):
            gap = 1 if i < len(columns) - 1 else 0
            style = styles["title" if column.key == order.by.value else "muted"]
            self.add_column(Text(column.header(order), style=style), key=column.key, width=column.width + gap)

    def _empty(self, *, columns: bool = False) -> None:
        self.clear(columns=columns)
        self._cells, self._keys, self._seen = {}, {}, {}

    def _put(self, name: str, row: PeerRow, styles: Palette) -> None:
        seen = (row.peer, row.rx_rate, row.tx_rate, duration(row.handshake_age))
        if self._seen.get(name) == seen:
            return
        self._seen[name] = seen
        cells = [(cell(row, c), self._style(row, c)) for c in self._columns_shown]
        known = self._cells.get(name)
        if known == cells:
            return
        made = [
            _NameCell(text, styles[style], name) if i == 0 else Text(text, style=styles[style])
            for i, (text, style) in enumerate(cells)
        ]
        if known is None:
            self.add_row(*made, key=name)
            self._keys[name] = row.key
        else:
            for column, old, new, value in zip(self._columns_shown, known, cells, made, strict=True):
                if old != new:
                    self.update_cell(name, column.key, value)
        self._cells[name] = cells

    @staticmethod
    def _style(row: PeerRow, column: Column) -> str:
        peer = row.peer
        if column.key == SortBy.PATH:
            return peer.path
        if column.key == ONLINE:
            return "good" if peer.online else "muted"
        if peer.path == "none" and column.key != SortBy.NAME:
            return "muted"
        if column.key in (SortBy.RX, SortBy.TX):
            return "label" if (row.rx_rate if column.key == SortBy.RX else row.tx_rate) else "muted"
        return "muted" if peer.online is False else "label"

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        name = event.row_key.value
        if name in self._keys and self.cursor_key == self._keys[name]:
            self.post_message(self.Highlighted(self._keys[name]))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        name = event.row_key.value
        if name in self._keys:
            self.post_message(self.Opened(self._keys[name]))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        event.stop()
        if event.column_key.value in set(SortBy):
            self.post_message(self.SortPressed(SortBy(event.column_key.value)))
