"""What clients use: taken from relays and devices, shown to people; plans, and whose network has which."""

from __future__ import annotations

import builtins
import datetime as dt
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, overseen, require_admin, visible
from shadowmesh.controller.refusals import conflict, unknown
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.clients import ALIVE
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import RelayLink, encode
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.usagesums import (
    COUNTS,
    FULL,
    Reached,
    add_usage,
    month_begin,
    month_of,
    next_month,
    plan_of,
    reached,
    used_in,
)
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.controller.store.networks import bump
from shadowmesh.controller.store.relayuse import served_by
from shadowmesh.model import api
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.relaylink import Usage, UsageTaken
from shadowmesh.model.usage import NetworkPlanPut, Plan, PlanPut, Quota, UsageRow, UsageUnit

_OLDEST = dt.timedelta(days=31)  # a relay that was cut off for longer has what it counted put to this time
_LIMITS = ("max_clients", "monthly_bytes", "relay_kbit", "network_relay_kbit", "over_quota_kbit")


class UsageBook:
    def __init__(self, context: ServiceContext, maps: Maps, events: Events) -> None:
        self._context = context
        self._maps = maps
        self._events = events

    # what comes in

    async def take(self, link: RelayLink, message: Usage) -> None:
        """What a relay counted: each number of its ledger once. Without an answer it is told again."""
        now = self._context.now()
        at = min(now, max(now - _OLDEST, dt.datetime.fromtimestamp(message.at, dt.UTC)))
        used: dict[str, dict[str, int]] = {
            e.client_id: {"relayed_sent": e.sent, "relayed_received": e.received} for e in message.entries
        }

        def tx(conn: Connection) -> list[Reached]:
            if not _is_new(conn, link.relay_id, message, now):
                return []
            return add_usage(conn, at, used, now, served_by(conn, link.relay_id))

        try:
            found = await self._context.write(tx)
        except StorageFailed as e:
            self._context.rare("what a relay counted isn't stored yet", relay=link.relay_id, why=e.what)
            return
        link.post(encode(UsageTaken(ledger=message.ledger, number=message.number)))
        await self.tell(found)

    async def tell(self, found: Collection[Reached]) -> None:
        """Warns of what is used up, and has it hold from the next token on."""
        for of in found:
            kind = "quota_reached" if of.percent >= FULL else "quota_warning"
            data = {"plan": of.plan, "month": of.month, "used": of.used, "of": of.of, "percent": of.percent}
            self._events.publish(kind, of.ref, **data)
        await self._maps.refresh_all([of.ref for of in found if of.percent >= FULL])

    async def keep_house(self) -> None:
        """A new month begins with nothing used."""
        np, month = schema.network_plans, month_of(self._context.now())
        old = sa.select(np.c.network_ref).where(np.c.month != month)
        refs = await self._context.read(lambda conn: list(conn.execute(old).scalars()))
        if refs:
            await self._context.write(lambda conn: reached(conn, refs, self._context.now()))
            await self._maps.refresh_all([NetworkRef(ref) for ref in refs])

    # what is known

    async def list(
        self,
        who: Principal,
        network_name: str | None,
        user: str | None,
        month: str | None,
        unit: UsageUnit,
        after: int,
        limit: int,
    ) -> api.Page[UsageRow]:
        """By time, then network and client; `after`: so many were seen. Of networks that are overseen all, of others one's own."""
        begin = month_begin(month or month_of(self._context.now()))
        n = schema.networks

        def tx(conn: Connection) -> api.Page[UsageRow]:
            if network_name is not None:
                ref = find_network(conn, who, network_name, Permission.LOGS_VIEW).ref
                within: sa.ColumnElement[bool] = n.c.ref == ref
            else:
                within = visible(conn, who, Permission.LOGS_VIEW)
            seen = sa.and_(within, sa.or_(overseen(conn, who), _mine(who, unit)))
            query = _rows(unit, begin).where(seen)
            if user is not None:
                query = query.where(schema.users.c.email == user.lower())
            rows = conn.execute(query.offset(after).limit(limit + 1)).all()
            more = str(after + limit) if len(rows) > limit else None
            return api.Page(items=[_row(row, begin) for row in rows[:limit]], next=more)

        return await self._context.read(tx)

    async def quota(self, who: Principal, network_name: str) -> Quota:
        def tx(conn: Connection) -> Quota:
            return self._quota(conn, find_network(conn, who, network_name, Permission.NETWORK_VIEW))

        return await self._context.read(tx)

    def _quota(self, conn: Connection, network: Row[Any]) -> Quota:
        c, month = schema.clients, month_of(self._context.now())
        plan, used = plan_of(conn, network.ref), used_in(conn, network.ref, month_begin(month))
        alive = sa.select(sa.func.count()).where(c.c.network_ref == network.ref, c.c.state.in_(ALIVE))
        most = None if plan is None else plan.monthly_bytes
        of_plan = None if plan is None else plan.max_clients
        return Quota(
            network_id=network.ref,
            network=network.name,
            month=month,
            used=used,
            plan=None if plan is None else plan.name,
            monthly_bytes=most,
            percent=None if most is None else used * 100 // most,
            over=most is not None and used >= most,
            clients=conn.execute(alive).scalar_one(),
            max_clients=min(network.max_clients, of_plan or network.max_clients),
        )

    # plans

    async def plans(self, who: Principal) -> builtins.list[Plan]:
        require_admin(who)
        return await self._context.read(lambda conn: [_plan(row) for row in conn.execute(_plans())])

    async def set_plan(self, who: Principal, name: str, wish: PlanPut) -> Plan:
        """Makes it or changes it; for networks that have it, too."""
        require_admin(who)
        p, np, values = schema.plans, schema.network_plans, wish.model_dump()

        def tx(conn: Connection) -> tuple[Plan, builtins.list[str], builtins.list[Reached]]:
            old = conn.execute(sa.select(p).where(p.c.name == name)).first()
            if old is None:
                conn.execute(p.insert().values(name=name, **values))
            else:
                conn.execute(p.update().where(p.c.name == name).values(**values))
            before = None if old is None else shown(old._mapping, *_LIMITS)
            record(self._context, conn, who, "plan.set", name, before=before, after=values)
            refs = list(conn.execute(sa.select(np.c.network_ref).where(np.c.plan == name)).scalars())
            found = reached(conn, refs, self._context.now())
            for ref in refs:
                bump(conn, NetworkRef(ref))
            return _plan(conn.execute(_plans().where(p.c.name == name)).one()), refs, found

        plan, refs, found = await self._context.write(tx)
        await self._maps.refresh_all(map(NetworkRef, refs))
        await self.tell(found)
        return plan

    async def delete_plan(self, who: Principal, name: str) -> None:
        require_admin(who)
        p, np = schema.plans, schema.network_plans

        def tx(conn: Connection) -> None:
            old = conn.execute(sa.select(p).where(p.c.name == name)).first()
            if old is None:
                raise _no_such_plan(conn, name)
            n = schema.networks
            having = sa.select(n.c.name).join(np, np.c.network_ref == n.c.ref).where(np.c.plan == name)
            if found := conn.execute(having.order_by(n.c.name).limit(6)).scalars().all():
                some = ", ".join([*found[:5], *("…" for _ in found[5:])])
                raise conflict(
                    "plan_in_use", f"networks have the plan {name}: {some}", "give them another, or none: `plan assign`"
                )
            conn.execute(p.delete().where(p.c.name == name))
            record(self._context, conn, who, "plan.delete", name, before=shown(old._mapping, *_LIMITS))

        await self._context.write(tx)

    async def assign(self, who: Principal, network_name: str, wish: NetworkPlanPut) -> Quota:
        require_admin(who)
        p, np = schema.plans, schema.network_plans

        def tx(conn: Connection) -> tuple[Quota, builtins.list[Reached]]:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW, lock=True)
            old = plan_of(conn, network.ref)
            conn.execute(np.delete().where(np.c.network_ref == network.ref))
            if wish.plan is not None:
                if conn.execute(sa.select(p.c.name).where(p.c.name == wish.plan)).first() is None:
                    raise _no_such_plan(conn, wish.plan)
                month = month_of(self._context.now())
                conn.execute(np.insert().values(network_ref=network.ref, plan=wish.plan, month=month, told=0))
            found = reached(conn, [network.ref], self._context.now())
            bump(conn, NetworkRef(network.ref))
            before = {"plan": None if old is None else old.name}
            more = {"before": before, "after": {"plan": wish.plan}}
            record(self._context, conn, who, "plan.assign", network.name, id=network.ref, **more)
            return self._quota(conn, network), found

        quota, found = await self._context.write(tx)
        await self._maps.refresh(NetworkRef(quota.network_id))
        await self.tell(found)
        return quota


def _is_new(conn: Connection, relay_id: str, message: Usage, now: dt.datetime) -> bool:
    """Whether this number of the ledger wasn't taken yet; it is from now on."""
    t = schema.usage_ledgers
    mine = sa.and_(t.c.relay_id == relay_id, t.c.ledger == message.ledger)
    newer = t.update().where(mine, t.c.number < message.number).values(number=message.number, at=now)
    if conn.execute(newer).rowcount:
        return True
    if conn.execute(sa.select(t.c.number).where(mine)).first() is not None:
        return False
    conn.execute(t.insert().values(relay_id=relay_id, ledger=message.ledger, number=message.number, at=now))
    return True


def _table(unit: UsageUnit) -> tuple[sa.Table, sa.ColumnElement[dt.datetime]]:
    if unit == "hour":
        return schema.usage_hours, schema.usage_hours.c.hour
    return schema.usage_days, schema.usage_days.c.day


def _mine(who: Principal, unit: UsageUnit) -> sa.ColumnElement[bool]:
    table, _ = _table(unit)
    return table.c.owner_id == who.user_id if who.user_id is not None else sa.false()


def _rows(unit: UsageUnit, begin: dt.datetime) -> sa.Select[Any]:
    t, when = _table(unit)
    c, n, u = schema.clients, schema.networks, schema.users
    names = (t.c.network_ref, n.c.name.label("network"), t.c.client_id, c.c.name.label("client"), u.c.email)
    sums = [sa.func.sum(t.c[count]).label(count) for count in COUNTS]
    at = (when.label("since"),) if unit != "month" else ()
    query = (
        sa.select(*names, *at, *sums)
        .join(n, n.c.ref == t.c.network_ref)
        .outerjoin(c, c.c.id == t.c.client_id)
        .outerjoin(u, u.c.id == t.c.owner_id)
        .where(when >= begin, when < next_month(begin))
        .group_by(t.c.network_ref, n.c.name, t.c.client_id, c.c.name, u.c.email, *((when,) if unit != "month" else ()))
    )
    return query.order_by(*((when,) if unit != "month" else ()), n.c.name, t.c.network_ref, c.c.name, t.c.client_id)


def _row(row: Row[Any], begin: dt.datetime) -> UsageRow:
    return UsageRow(
        network_id=row.network_ref,
        network=row.network,
        client_id=row.client_id,
        client=row.client or "",
        user=row.email,
        since=getattr(row, "since", begin),
        **{count: int(getattr(row, count)) for count in COUNTS},
    )


def _plans() -> sa.Select[Any]:
    p, np = schema.plans, schema.network_plans
    count = sa.select(sa.func.count()).where(np.c.plan == p.c.name).scalar_subquery()
    return sa.select(p, count.label("networks")).order_by(p.c.name)


def _plan(row: Row[Any]) -> Plan:
    return Plan.model_validate(dict(row._mapping))


def _no_such_plan(conn: Connection, name: str) -> Exception:
    known = conn.execute(sa.select(schema.plans.c.name)).scalars().all()
    return unknown("plan_unknown", f"there is no plan {name[:60]!r}", name, known, "shadowmesh plan list")
