"""Adding to what clients used, by hour and by day; and what that means for the quota of their networks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump
from shadowmesh.controller.store.upsert import upsert
from shadowmesh.model.ids import NetworkRef
from shadowmesh.protocol.token import RelayLimits

COUNTS = ("relayed_sent", "relayed_received", "direct_sent", "direct_received")
WARN, FULL = 80, 100  # percent


@dataclass(frozen=True, slots=True)
class Reached:
    """So many percent of a network's month are used up now, for the first time."""

    ref: NetworkRef
    percent: int
    plan: str
    month: str
    used: int
    of: int


def give_plan(conn: Connection, ref: str, plan: str | None, now: dt.datetime) -> None:
    """To a network that is made. Raises ShadowMeshError(plan_missing) where there is no such plan; None: it gets none."""
    if plan is None:
        return
    p, np = schema.plans, schema.network_plans
    if conn.execute(sa.select(p.c.name).where(p.c.name == plan)).first() is None:
        raise conflict(
            "plan_missing",
            f"networks get the plan {plan} here, which there isn't",
            "ask the controller's administrator",
        )
    conn.execute(np.insert().values(network_ref=ref, plan=plan, month=month_of(now), told=0))


def month_of(at: dt.datetime) -> str:
    return at.strftime("%Y-%m")


def month_begin(month: str) -> dt.datetime:
    """Its first moment, UTC. Raises ValueError."""
    return dt.datetime.strptime(month, "%Y-%m").replace(tzinfo=dt.UTC)


def next_month(begin: dt.datetime) -> dt.datetime:
    return (begin + dt.timedelta(days=32)).replace(day=1)


def add_usage(
    conn: Connection,
    at: dt.datetime,
    used: Mapping[str, Mapping[str, int]],
    now: dt.datetime,
    *conditions: sa.ColumnElement[bool],
) -> list[Reached]:
    """`used`: numbers by client, of COUNTS, that were used `at` a time. Only of clients that there are, in networks that
    meet the conditions. What is told late of a month that is over means nothing for the quota of this one."""
    c, n = schema.clients, schema.networks
    query = (
        sa.select(c.c.id, c.c.network_ref, c.c.owner_id)
        .join(n, n.c.ref == c.c.network_ref)
        .where(c.c.id.in_(used), *conditions)
        .order_by(c.c.id)  # nodes that add at one moment wait for each other in one order
    )
    known = conn.execute(query).all()
    day = at.astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for table, name, begin in (
        (schema.usage_hours, "hour", at.replace(minute=0, second=0, microsecond=0)),
        (schema.usage_days, "day", day),
    ):
        rows = [
            {"client_id": row.id, name: begin, "network_ref": row.network_ref, "owner_id": row.owner_id}
            | {count: used[row.id].get(count, 0) for count in COUNTS}
            for row in known
        ]
        upsert(conn, table, rows, added=COUNTS)
    if month_of(at) != month_of(now):
        return []
    return reached(conn, {row.network_ref for row in known}, now)


def used_in(conn: Connection, ref: str, begin: dt.datetime) -> int:
    """Bytes that came to the network's clients in the month that begins then."""
    d = schema.usage_days
    total = sa.func.coalesce(sa.func.sum(d.c.relayed_received + d.c.direct_received), 0)
    query = sa.select(total).where(d.c.network_ref == ref, d.c.day >= begin, d.c.day < next_month(begin))
    return int(conn.execute(query).scalar_one())


def plan_of(conn: Connection, ref: str) -> Row[Any] | None:
    """The network's plan, with `month` and `told`."""
    p, np = schema.plans, schema.network_plans
    query = sa.select(p, np.c.month, np.c.told).join(np, np.c.plan == p.c.name).where(np.c.network_ref == ref)
    return conn.execute(query).first()


def reached(conn: Connection, refs: Collection[str], now: dt.datetime) -> list[Reached]:
    """Notes how far the months of these networks are used up; where that is more, or less, than was noted, tells it.

    A network that goes over its quota, or comes back below, gets a new serial: so tokens are made by what holds now.
    """
    np, found = schema.network_plans, []
    month = month_of(now)
    for ref in sorted(refs):
        plan = plan_of(conn, ref)
        if plan is None:
            continue
        used = used_in(conn, ref, month_begin(month)) if plan.monthly_bytes is not None else 0
        percent = used * 100 // plan.monthly_bytes if plan.monthly_bytes is not None else 0
        told = plan.told if plan.month == month else 0
        level = FULL if percent >= FULL else WARN if percent >= WARN else 0
        if (level, month) == (plan.told, plan.month):
            continue
        as_read = sa.and_(np.c.network_ref == ref, np.c.month == plan.month, np.c.told == plan.told)
        if conn.execute(np.update().where(as_read).values(month=month, told=level)).rowcount == 0:
            continue  # another node was faster, and tells it
        if (level == FULL) != (plan.told == FULL):
            bump(conn, NetworkRef(ref))
        if level > told:
            found.append(Reached(NetworkRef(ref), level, plan.name, month, used, plan.monthly_bytes))
    return found


def relay_limits(plan: Row[Any] | None, now: dt.datetime) -> RelayLimits:
    """What the network's tokens for relays say now."""
    if plan is None:
        return RelayLimits()
    kbit = plan.relay_kbit or 0
    if plan.told >= FULL and plan.month == month_of(now):
        kbit = min(plan.over_quota_kbit, kbit or plan.over_quota_kbit)
    return RelayLimits(kbit=kbit, network_kbit=plan.network_relay_kbit or 0)
