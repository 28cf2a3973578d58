"""Which columns the table of peers has at a given width, and what stands in a cell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from shadowmesh_tui import text
from shadowmesh_tui.state import Order, PeerRow, SortBy

ONLINE = "online"
_WORDS = {True: "yes", False: "no", None: "?"}


@dataclass(frozen=True, slots=True)
class Column:
    """`key` is a SortBy value or ONLINE; `width` is what the text may take, in cells."""

    key: str
    label: str
    width: int
    right: bool = False

    def header(self, order: Order) -> str:
        """The label, with an arrow if the table is ordered by this column."""
        if self.key != order.by.value:
            return self.label.rjust(self.width) if self.right else self.label
        arrow = "▼" if order.descending else "▲"
        marked = f"{self.label[: self.width - 1]}{arrow}"
        return marked.rjust(self.width) if self.right else marked


# what a narrow screen does without, the first named first
_DISPENSABLE = (SortBy.VIA, SortBy.HANDSHAKE, SortBy.TX, SortBy.RX, ONLINE, SortBy.ADDRESS, SortBy.LATENCY)


def columns_for(width: int, rows: Sequence[PeerRow]) -> list[Column]:
    """The columns that fit into `width` cells with a blank between them; text takes the room that is left."""

    def longest(values: Sequence[str], least: int, most: int) -> int:
        return max(least, min(most, max(map(cell_len, values), default=least)))

    columns = [
        Column(SortBy.NAME, "peer", 12),
        Column(ONLINE, "on", 3),
        Column(SortBy.ADDRESS, "address", longest([r.peer.ip for r in rows], 10, 15)),
        Column(SortBy.PATH, "path and reason", 18),
        Column(SortBy.VIA, "endpoint or relay", 18 + 5),  # less than a whole endpoint is no use
        Column(SortBy.LATENCY, "latency", 7, right=True),
        Column(SortBy.RX, "rx", 8, right=True),
        Column(SortBy.TX, "tx", 8, right=True),
        Column(SortBy.HANDSHAKE, "handshake", 9, right=True),
    ]

    def spare() -> int:
        return width - sum(c.width for c in columns) - (len(columns) - 1)

    wanted = {
        SortBy.PATH: longest([text.path_code(r.peer) for r in rows], 14, 31) + 2,
        SortBy.NAME: longest([r.peer.name for r in rows], 12, 24),
        SortBy.VIA: longest([r.via for r in rows], 12, 47),
    }
    for key in _DISPENSABLE:
        # the address is worth less than a whole reason, figures are worth more
        missing = max(0, wanted[SortBy.PATH] - 18) if key == SortBy.VIA else 0
        if spare() < missing:
            columns = [c for c in columns if c.key != key]
            if key == SortBy.VIA:
                columns[-1] = Column(SortBy.HANDSHAKE, "hs", 4, right=True)
    for key, width_wanted in wanted.items():
        for i, column in enumerate(columns):
            if column.key == key:
                grown = max(0, min(spare(), width_wanted - column.width))
                columns[i] = replace(column, width=column.width + grown)
    return columns


def cell(row: PeerRow, column: Column) -> str:
    """The text of a cell, no longer than the column is wide."""
    peer = row.peer
    match column.key:
        case SortBy.NAME:
            value = peer.name
        case SortBy.ADDRESS:
            value = peer.ip
        case SortBy.PATH:
            value = f"{text.PATH_GLYPH[peer.path]} {text.path_code(peer)}"
        case SortBy.VIA:
            value = row.via or text.UNKNOWN
        case SortBy.LATENCY:
            value = text.latency(peer.latency_ms if peer.path != "none" else None)
        case SortBy.RX:
            value = text.rate(row.rx_rate)
        case SortBy.TX:
            value = text.rate(row.tx_rate)
        case SortBy.HANDSHAKE:
            value = text.duration(row.handshake_age)
        case _:
            value = _WORDS[peer.online]
    value = text.shorten(value, column.width)
    return value.rjust(column.width) if column.right else value
