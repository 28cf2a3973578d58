"""What was used of a network, or of all: read, summed up by client, user or network, and beside the plan."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.usage import Quota, UsageRow, UsageUnit
from shadowmesh_tui.console.table import Column, Order, in_order
from shadowmesh_tui.text import UNKNOWN, volume

WARNED = 80  # percent of a plan from which on it is warned of
MOST_ROWS = 20_000
MOST_QUOTAS = 50  # of networks beside each other
BAR = 20
By = Literal["client", "user", "network"]
BYS: Sequence[By] = ("client", "user", "network")
UNITS: Sequence[UsageUnit] = ("month", "day", "hour")


@dataclass(frozen=True, slots=True)
class UsedOf:
    """A question: of this network (None: of all where one may read it), in this month (None: the present one), by what time."""

    network_id: str | None
    month: str | None = None
    unit: UsageUnit = "month"


@dataclass(frozen=True, slots=True)
class Used:
    """`quotas`: by network. Not `complete`: there were more rows than are read here."""

    rows: list[UsageRow]
    quotas: dict[str, Quota]
    complete: bool = True


def read_used(client: ControllerClient, of: UsedOf) -> Used:
    """Blocks. Raises ShadowMeshError."""
    rows = list(islice(client.usage(of.network_id, month=of.month, by=of.unit), MOST_ROWS + 1))
    quotas = {}
    if of.month is None:  # how a network stands is told of the present month alone
        refs = [of.network_id] if of.network_id is not None else [n.network_id for n in client.network_list()]
        quotas = {ref: client.quota(ref) for ref in refs[:MOST_QUOTAS]}
    return Used(rows[:MOST_ROWS], quotas, complete=len(rows) <= MOST_ROWS)


@dataclass(slots=True)
class UsedLine:
    """What one client, user or network used in a month, day or hour. `share`: of the plan, if the line is a network's, else of the
    greatest line (0 to 1). `percent`: of the plan of a month."""

    key: str
    name: str
    beside: str  # a client's owner
    since: dt.datetime
    unit: UsageUnit
    direct_in: int = 0
    direct_out: int = 0
    relayed_in: int = 0
    relayed_out: int = 0
    quota: Quota | None = None
    share: float = 0.0
    percent: int | None = None

    @property
    def counted(self) -> int:
        """As a plan counts: each byte that came."""
        return self.direct_in + self.relayed_in

    @property
    def at(self) -> str:
        return self.since.strftime({"month": "%Y-%m", "day": "%Y-%m-%d", "hour": "%m-%d %H:%MZ"}[self.unit])

    def add(self, row: UsageRow) -> None:
        self.direct_in += row.direct_received
        self.direct_out += row.direct_sent
        self.relayed_in += row.relayed_received
        self.relayed_out += row.relayed_sent


def used_lines(used: Used, by: By, unit: UsageUnit, needle: str, order: Order) -> list[UsedLine]:
    """Summed up, those that match, in order."""
    lines: dict[tuple[str, dt.datetime], UsedLine] = {}
    plans: dict[str, Quota | None] = {}
    for row in used.rows:
        user = row.user or "no user"
        what, name, beside = {
            "client": (row.client_id, row.client or row.client_id, user),
            "user": (user, user, ""),
            "network": (row.network_id, row.network, ""),
        }[by]
        line = lines.get((what, row.since))
        if line is None:
            key = f"{what} {row.since.isoformat()}"
            line = lines[what, row.since] = UsedLine(key, name, beside, row.since, unit)
            line.quota = used.quotas.get(what) if unit == "month" else None
            plans[line.key] = used.quotas.get(row.network_id)
        line.add(row)
    most = max((line.counted for line in lines.values()), default=0)
    for line in lines.values():
        plan = plans[line.key]
        if plan is not None and plan.monthly_bytes and unit == "month":
            line.percent = plan.percent if line.quota is not None else line.counted * 100 // plan.monthly_bytes
        if line.quota is not None and line.quota.monthly_bytes:
            line.share = min(1.0, line.quota.used / line.quota.monthly_bytes)
        elif by != "network":
            line.share = line.counted / most if most else 0.0
    words = needle.casefold().split()
    found = [
        line for line in lines.values() if all(w in f"{line.name}\n{line.beside}\n{line.at}".casefold() for w in words)
    ]
    return in_order(found, COLUMNS, order, lambda r: (r.name.casefold(), r.key))


def level(quota: Quota) -> str:
    """The style of how a network stands."""
    percent = quota.percent or 0
    return "error" if quota.over or percent >= 100 else "warning" if percent >= WARNED else "good"


def bar(part: float, width: int) -> str:
    """Filled from the left; what isn't nothing shows."""
    full = max(1 if part > 0 else 0, min(width, int(part * width + 0.5)))
    return "█" * full + "─" * (width - full)


def _style(line: UsedLine) -> str:
    return level(line.quota) if line.quota is not None and line.quota.monthly_bytes else "me"


def _percent(line: UsedLine) -> str:
    return UNKNOWN if line.percent is None else f"{line.percent} %"


def _bytes(count: int) -> str:
    return volume(count) if count else "0"


COLUMNS: Sequence[Column[UsedLine]] = (
    Column("at", "time", lambda r: r.at, lambda _: "muted", least=12, most=12, sort=lambda r: r.since, descends=True),
    Column("name", "whose", lambda r: r.name, least=12, most=64, sort=lambda r: r.name.casefold()),
    Column("counted", "used", lambda r: _bytes(r.counted), lambda r: "label", least=7, most=7, right=True, descends=True,
           sort=lambda r: r.counted),
    Column("direct", "↓ direct", lambda r: _bytes(r.direct_in), lambda _: "direct", least=8, most=8, right=True, descends=True,
           rank=1, sort=lambda r: r.direct_in),
    Column("relayed", "↓ relay", lambda r: _bytes(r.relayed_in), lambda _: "relay", least=8, most=8, right=True, descends=True,
           rank=1, sort=lambda r: r.relayed_in),
    Column("sent", "↑ direct", lambda r: _bytes(r.direct_out), lambda _: "muted", least=8, most=8, right=True, descends=True,
           rank=6, sort=lambda r: r.direct_out),
    Column("relayed_sent", "↑ relay", lambda r: _bytes(r.relayed_out), lambda _: "muted", least=8, most=8, right=True,
           descends=True, rank=5, sort=lambda r: r.relayed_out),
    Column("bar", "share", lambda r: bar(r.share, BAR), _style, least=BAR, most=BAR, rank=3),
    Column("percent", "of plan", _percent, _style, least=7, most=7, right=True, rank=2),
    Column("beside", "user", lambda r: r.beside, lambda _: "muted", least=18, most=40, rank=4,
           sort=lambda r: r.beside.casefold()),
)  # fmt: skip


def month_of(wall: float) -> str:
    """Of a Unix time, in UTC."""
    return dt.datetime.fromtimestamp(wall, dt.UTC).strftime("%Y-%m")


def month_before(month: str, steps: int = 1) -> str:
    """`2026-02` before `2026-03`; of negative steps, after it."""
    year, number = map(int, month.split("-"))
    whole = year * 12 + number - 1 - steps
    return f"{whole // 12:04}-{whole % 12 + 1:02}"


@dataclass(slots=True)
class UsedLook:
    """How the usage is looked at."""

    by: By = "client"
    unit: UsageUnit = "month"
    month: str | None = None  # None: the present one
    made: tuple[tuple[object, ...], list[UsedLine]] = field(default=((), []))
