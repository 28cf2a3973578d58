"""Which columns the table of peers has at a given width, and what stands in a cell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def columns_for(width: int, rows: Sequence[PeerRow]) -> list[Column]:
    """The columns that fit into `width` cells with a blank between them; the address it goes to only where there is room."""

    def longest(values: Sequence[str], least: int, most: int) -> int:
        return max(least, min(most, max(map(len, values), default=least)))

    name = longest([r.peer.name for r in rows], 12, 24)
    address = longest([r.peer.ip for r in rows], 10, 15)
    code = longest([text.path_code(r.peer) for r in rows], 14, 31) + 2
    via = longest([r.via for r in rows], 12, 47)
    figures = [
        Column(SortBy.LATENCY, "latency", 7, right=True),
        Column(SortBy.RX, "rx", 8, right=True),
        Column(SortBy.TX, "tx", 8, right=True),
    ]
    fixed = 3 + address + sum(c.width for c in figures)
    narrow_gaps, wide_gaps = 7, 8
    least = {"name": 12, "code": 18}
    spare = width - fixed - 4 - narrow_gaps - least["name"] - least["code"]
    has_via = spare >= 1 + 18 + 5
    handshake = Column(SortBy.HANDSHAKE, "handshake" if has_via else "hs", 9 if has_via else 4, right=True)
    spare = width - fixed - handshake.width - (wide_gaps if has_via else narrow_gaps)
    spare -= least["name"] + least["code"] + (18 if has_via else 0)
    widths = {"name": least["name"], "code": least["code"], "via": 18 if has_via else 0}
    for which, wanted in (("name", name), ("code", code), ("via", via if has_via else 0)):
        grown = max(0, min(spare, wanted - widths[which]))
        widths[which] += grown
        spare -= grown
    return [
        Column(SortBy.NAME, "peer", widths["name"]),
        Column(ONLINE, "on", 3),
        Column(SortBy.ADDRESS, "address", address),
        Column(SortBy.PATH, "path and reason", widths["code"]),
        *([Column(SortBy.VIA, "endpoint or relay", widths["via"])] if has_via else []),
        *figures,
        handshake,
    ]


def cell(row: PeerRow, column: Column) -> str:
    """The text of a cell, no longer than the column is wide."""
    peer = row.peer
    match column.key:
        case SortBy.NAME:
            value = text.printable(peer.name)
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
