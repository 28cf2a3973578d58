"""Tables of any kind of thing: which columns fit, in what order the lines stand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from rich.cells import cell_len, set_cell_size

from shadowmesh_tui.text import shorten

R = TypeVar("R")


def _plain(_row: Any) -> str:
    return "label"


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """`value` is the text of a cell, `style` the name of its style. `least` and `most`: cells that it takes. `rank`: a narrow
    table does without the columns of the highest rank first, never without those of 0. `sort`: what it is ordered by, None is
    unknown and comes last; without it nobody orders by it. `descends`: the most is looked at first."""

    key: str
    label: str
    value: Callable[[R], str]
    style: Callable[[R], str] = _plain
    least: int = 8
    most: int = 20
    right: bool = False
    rank: int = 0
    sort: Callable[[R], Any] | None = None
    descends: bool = False

    def cell(self, row: R, width: int) -> str:
        """Exactly `width` cells."""
        text = shorten(self.value(row), width)
        return " " * (width - cell_len(text)) + text if self.right else set_cell_size(text, width)


@dataclass(frozen=True, slots=True)
class Order:
    by: str = "name"
    descending: bool = False

    def pressed(self, column: Column[Any]) -> Order:
        """After a choice of this column: the other way round if it was chosen already."""
        if column.key == self.by:
            return replace(self, descending=not self.descending)
        return Order(column.key, column.descends)

    def next(self, columns: Sequence[Column[Any]]) -> Order:
        """The next column that one can order by, as it is looked at first."""
        usable = [c for c in columns if c.sort is not None]
        keys = [c.key for c in usable]
        at = (keys.index(self.by) + 1) % len(usable) if self.by in keys else 0
        return Order(usable[at].key, usable[at].descends)


def in_order(rows: list[R], columns: Sequence[Column[R]], order: Order, among_equals: Callable[[R], Any]) -> list[R]:
    """Unknown values come last in both directions."""
    column = next((c for c in columns if c.key == order.by and c.sort is not None), None)
    rows = sorted(rows, key=among_equals)
    if column is None or column.sort is None:
        return rows
    value = column.sort
    known = [(value(row), row) for row in rows]
    there = [pair for pair in known if pair[0] is not None]
    there.sort(key=lambda pair: pair[0], reverse=order.descending)
    return [row for _, row in there] + [row for found, row in known if found is None]


def fitting(
    columns: Sequence[Column[R]], width: int, rows: Sequence[R], measured: int = 1000
) -> list[tuple[Column[R], int]]:
    """The columns that fit into `width` cells with two blanks between them, and their widths. What is left goes to those whose
    text is longest; of more rows than `measured` some are looked at."""
    shown = list(columns)
    looked_at = rows[:: 1 + len(rows) // measured]

    def taken() -> int:
        return sum(c.least for c in shown) + 2 * (len(shown) - 1)

    while taken() > width and any(c.rank for c in shown):
        shown.remove(max((c for c in shown if c.rank), key=lambda c: c.rank))
    spare = max(0, width - taken())
    widths = []
    for column in shown:
        wanted = column.least
        if column.most > column.least and spare:
            wanted = max((cell_len(column.value(row)) for row in looked_at), default=column.least)
            wanted = max(column.least, min(column.most, wanted, column.least + spare))
        spare -= wanted - column.least
        widths.append(wanted)
    return list(zip(shown, widths, strict=True))


def heading(column: Column[Any], width: int, order: Order) -> str:
    """The label, with an arrow if the lines stand in this column's order; exactly `width` cells."""
    label = column.label
    if column.key == order.by:
        label = f"{shorten(label, width - 1)}{'▼' if order.descending else '▲'}"
    label = shorten(label, width)
    return label.rjust(width) if column.right else set_cell_size(label, width)
