"""A table of any kind of thing, of any length: only the lines that are seen are made. It owns its cursor, which stays on its
line whatever the lines do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from shadowmesh_tui.console.table import Column, Order, fitting, heading
from shadowmesh_tui.palette import Palette

R = TypeVar("R")


class RowTable(ScrollView, Generic[R], can_focus=True):
    """`key`: which line is which. `marked`: whether a line bears a mark; None: they bear none. `opens`: whether there is more about a
    line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("down,j", "cursor(1)", show=False),
        Binding("up,k", "cursor(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("home,g", "cursor(-1000000000)", show=False),
        Binding("end,G", "cursor(1000000000)", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rowtable--cursor", "rowtable--header"}
    DEFAULT_CSS = """
    RowTable { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; overflow-y: auto; background: $background; }
    RowTable > .rowtable--header { text-style: bold; }
    RowTable > .rowtable--cursor { background: $block-cursor-blurred-background; }
    RowTable:focus > .rowtable--cursor { background: $block-cursor-background; color: $block-cursor-foreground; text-style: bold; }
    RowTable:nocolor > .rowtable--cursor { text-style: bold reverse; }
    RowTable.-stale { opacity: 60%; }
    """

    class Moved(Message):
        """The cursor is on this line now."""

        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__()

    class Opened(Message):
        """Enter, or a click on the line of the cursor."""

        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__()

    class SortPressed(Message):
        def __init__(self, column: Column[Any]) -> None:
            self.column = column
            super().__init__()

    def __init__(
        self,
        columns: Sequence[Column[R]],
        key: Callable[[R], str],
        marked: Callable[[R], bool] | None = None,
        *,
        id: str | None = None,  # noqa: A002  (Textual's name)
        opens: bool = True,
    ) -> None:
        super().__init__(id=id)
        self._opens = opens
        self._columns, self._key, self._marked = columns, key, marked
        self._rows: Sequence[R] = ()
        self._order = Order()
        self._styles: Palette = {}
        self._at = 0
        self.steady = False  # the line of the cursor stays where it is on the screen, too
        self._cursor_key: str | None = None
        self._fitted: list[tuple[Column[R], int]] = []

    @property
    def row_count(self) -> int:
        return len(self._rows)

    @property
    def cursor_row(self) -> int:
        return self._at

    @property
    def cursor_key(self) -> str | None:
        return self._cursor_key if self._rows else None

    def show(self, rows: Sequence[R], order: Order, styles: Palette) -> None:
        """These lines, in this order."""
        same = rows is self._rows and order == self._order and styles is self._styles
        self._rows, self._order, self._styles = rows, order, styles
        was_at = self._at
        if not same:
            self._fit()
            self._find_cursor()
        size = Size(self.size.width, len(rows) + 1)
        if self.virtual_size != size:
            self.virtual_size = size
        if self.steady and self._at != was_at:
            self.scroll_to(y=max(0, self.scroll_offset.y + self._at - was_at), animate=False, immediate=True)
        self.refresh()

    def _fit(self) -> None:
        room = self.size.width - 2 - (2 if self._marked is not None else 0)
        self._fitted = fitting(self._columns, room, self._rows)

    def _find_cursor(self) -> None:
        if not self._rows:
            return
        if not (self._at < len(self._rows) and self._key(self._rows[self._at]) == self._cursor_key):
            places = (i for i, row in enumerate(self._rows) if self._key(row) == self._cursor_key)
            self._at = next(places, min(self._at, len(self._rows) - 1))
        key = self._key(self._rows[self._at])
        if key != self._cursor_key:
            self._cursor_key = key
            self.post_message(self.Moved(key))

    def on_resize(self, _event: events.Resize) -> None:
        self._fit()
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)
        self._scroll_to_cursor()
        self.refresh()

    # moving

    def go_to(self, key: str) -> None:
        """Moves the cursor to this line, if it is there."""
        for i, row in enumerate(self._rows):
            if self._key(row) == key:
                self._move(i)
                return

    def _move(self, at: int) -> None:
        if not self._rows:
            return
        self._at = max(0, min(len(self._rows) - 1, at))
        self._scroll_to_cursor()
        self.refresh()
        key = self._key(self._rows[self._at])
        if key != self._cursor_key:
            self._cursor_key = key
            self.post_message(self.Moved(key))

    def _scroll_to_cursor(self) -> None:
        lines = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self._at < top:
            self.scroll_to(y=self._at, animate=False, immediate=True)
        elif self._at >= top + lines:
            self.scroll_to(y=self._at - lines + 1, animate=False, immediate=True)

    def action_cursor(self, step: int) -> None:
        self._move(self._at + step)

    def action_page(self, pages: int) -> None:
        self._move(self._at + pages * max(1, self.size.height - 2))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._opens or action != "open"

    def action_open(self) -> None:
        if self.cursor_key is not None:
            self.post_message(self.Opened(self.cursor_key))

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            x = event.x - 1 - (2 if self._marked is not None else 0)
            for column, width in self._fitted:
                if 0 <= x < width and column.sort is not None:
                    self.post_message(self.SortPressed(column))
                x -= width + 2
            return
        at = self.scroll_offset.y + event.y - 1
        if not 0 <= at < len(self._rows):
            return
        if at == self._at:
            self.action_open()
        else:
            self._move(at)

    # drawing

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        if y == 0:
            return self._line(
                self._header(), base + self.get_component_rich_style("rowtable--header", partial=True), width
            )
        at = self.scroll_offset.y + y - 1
        if at >= len(self._rows):
            return Strip.blank(width, base)
        if at != self._at:
            return self._line(self._cells(self._rows[at]), base, width)
        # the cursor's colours count: those of the cells might not be read on it
        cursor = self.get_component_rich_style("rowtable--cursor", partial=True)
        return self._line([(text, "") for text, _ in self._cells(self._rows[at])], base + cursor, width)

    def _line(self, parts: Sequence[tuple[str, str]], base: Style, width: int) -> Strip:
        nothing = Style()
        segments = [Segment(" ", base)]
        segments += [Segment(text, base + self._styles.get(style, nothing)) for text, style in parts]
        return Strip(segments).adjust_cell_length(width, base)

    def _header(self) -> list[tuple[str, str]]:
        parts = [("  ", "")] if self._marked is not None else []
        for column, width in self._fitted:
            style = "title" if column.key == self._order.by else "muted"
            parts += [(heading(column, width, self._order), style), ("  ", "")]
        return parts

    def _cells(self, row: R) -> list[tuple[str, str]]:
        parts = []
        if self._marked is not None:
            parts.append(("✓ ", "me") if self._marked(row) else ("  ", ""))
        for column, width in self._fitted:
            parts += [(column.cell(row, width), column.style(row)), ("  ", "")]
        return parts

    def lines(self) -> list[str]:
        """The text of all lines that are in view, the header first."""
        return [self.render_line(y).text.rstrip() for y in range(min(self.size.height, len(self._rows) + 1))]
