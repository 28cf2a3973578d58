"""Relays as lines of a table; and what taking one away breaks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shadowmesh.model.api import Relay
from shadowmesh_tui.console.series import RelayRate
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.console.table import Column, Order, in_order
from shadowmesh_tui.text import UNKNOWN, rate, shorten, sparkline

SPARK = 16
_CELLS = 40  # of a name in a sentence
_STATE_RANK = {"overloaded": 0, "away": 1, "draining": 2, "online": 3}


@dataclass(frozen=True, slots=True)
class RelayRow:
    """`homes`: clients of the networks that are known whose home it is; `pinned`: networks that may use it alone."""

    relay: Relay
    rate: RelayRate | None = None
    homes: int = 0
    pinned: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        if not self.relay.online:
            return "away"
        if self.relay.draining:
            return "draining"
        return "overloaded" if self.relay.load is not None and self.relay.load.overloaded else "online"

    @property
    def clients(self) -> int | None:
        """Sessions, as the relay counts them; for who may not know that, homes."""
        if self.relay.load is not None and self.relay.online:
            return self.relay.load.sessions
        return self.homes or None


_MARKS = {"online": ("● online", "good"), "draining": ("◌ draining", "warning"), "overloaded": ("! overload", "error"),
          "away": ("✗ away", "error")}  # fmt: skip


def _rate(row: RelayRow) -> float | None:
    return row.rate.now if row.rate is not None and row.relay.online else None


def _of_load(row: RelayRow, name: str) -> int | None:
    return getattr(row.relay.load, name) if row.relay.load is not None and row.relay.online else None


def _figure(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _cpu(row: RelayRow) -> str:
    load = row.relay.load
    return UNKNOWN if load is None or not row.relay.online else f"{load.cpu * 100:.0f} %"


def _cpu_style(row: RelayRow) -> str:
    load = row.relay.load
    return "warning" if load is not None and load.cpu >= 0.8 else "label"


COLUMNS: Sequence[Column[RelayRow]] = (
    Column("name", "relay", lambda r: r.relay.name, lambda r: "label" if r.relay.online else "muted", least=12, most=40,
           sort=lambda r: r.relay.name.casefold()),
    Column("state", "state", lambda r: _MARKS[r.state][0], lambda r: _MARKS[r.state][1], least=10, most=10,
           sort=lambda r: _STATE_RANK[r.state]),
    Column("region", "region", lambda r: r.relay.region or UNKNOWN, lambda _: "muted", least=8, most=20, rank=3,
           sort=lambda r: r.relay.region.casefold() or None),
    Column("clients", "clients", lambda r: _figure(r.clients), least=7, most=7, right=True, descends=True,
           sort=lambda r: r.clients),
    Column("rate", "forwards", lambda r: rate(_rate(r)), least=8, most=8, right=True, descends=True, sort=_rate),
    Column("cpu", "cpu", _cpu, _cpu_style, least=5, most=5, right=True, descends=True, rank=1,
           sort=lambda r: r.relay.load.cpu if r.relay.load is not None and r.relay.online else None),
    Column("dropped", "dropped", lambda r: _figure(_of_load(r, "dropped_frames")), lambda _: "muted", least=7, most=9,
           right=True, descends=True, rank=5, sort=lambda r: _of_load(r, "dropped_frames")),
    Column("spark", "traffic", lambda r: sparkline(list(r.rate.bytes), SPARK) if r.rate is not None else "", lambda _: "me",
           least=SPARK, most=SPARK, rank=6),
    Column("networks", "networks", lambda r: _figure(_of_load(r, "networks")), lambda _: "muted", least=8, most=8, right=True,
           descends=True, rank=4, sort=lambda r: _of_load(r, "networks")),
    Column("version", "version", lambda r: r.relay.version or UNKNOWN, lambda _: "muted", least=7, most=12, rank=2,
           sort=lambda r: r.relay.version or None),
    Column("url", "reached at", lambda r: r.relay.url or UNKNOWN, lambda _: "muted", least=16, most=48, rank=7),
)  # fmt: skip


def relay_rows(console: Console, needle: str, order: Order) -> list[RelayRow]:
    words = needle.casefold().split()
    homes: dict[str, int] = {}
    for clients in console.clients.values():
        for client in clients.values():
            if client.relay is not None and client.status == "online":
                homes[client.relay] = homes.get(client.relay, 0) + 1
    found = []
    for relay in console.relays.values():
        pinned = tuple(n.name for n in console.networks.values() if n.relay == relay.name)
        row = RelayRow(relay, console.relay_rates.get(relay.id), homes.get(relay.name, 0), pinned)
        hay = "\n".join((relay.name, relay.region, row.state, relay.url or "", relay.version, relay.id)).casefold()
        if all(word in hay for word in words):
            found.append(row)
    return in_order(found, COLUMNS, order, lambda r: (r.relay.name.casefold(), r.relay.id))


def what_breaks(row: RelayRow, rows: Iterable[RelayRow], *, removed: bool) -> str:
    """In a sentence or three: what is lost once it is drained, or removed."""
    others = [r for r in rows if r.relay.id != row.relay.id and r.relay.online and not r.relay.draining]
    clients = row.clients
    who = f"Its {clients} client{'s' if clients != 1 else ''}" if clients else "Clients that are reached through it"
    said = []
    if not others:
        said.append("No other relay is in use: pairs that can't meet directly lose each other.")
    elif removed:
        said.append(f"{who} are cut off it at once and go to others.")
    else:
        said.append(f"{who} go to others; what runs through it goes on until it ends.")
    if row.pinned and others:
        names = ", ".join(shorten(name, _CELLS) for name in row.pinned[:3])
        more = f" and {len(row.pinned) - 3} more" if len(row.pinned) > 3 else ""
        if removed:
            said.append(f"{names}{more} may use it only; after that, any.")
        else:
            said.append(f"{names}{more} may use it only: pairs there that can't meet directly lose each other.")
    if removed:
        said.append("To come back it has to register with a new token.")
    return " ".join(said)
