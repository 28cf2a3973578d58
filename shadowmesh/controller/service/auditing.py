"""Reading and checking the audit log."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, require_admin
from shadowmesh.controller.service.audit_log import START, AuditWalk
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.witnesses import Testimony, Witnesses, commitment_of
from shadowmesh.controller.store import schema
from shadowmesh.model import api

_WHOLE = 144  # looks at the chain, of which one is at all of it: one each ten minutes, that is one a day


@dataclass(slots=True)
class AuditHealth:
    """Whether the chain holds, as this node saw it last; without what witnesses know (`verify`)."""

    ok: bool = True
    checked: int = 0  # entries
    head: str = START
    at: dt.datetime | None = None
    walks: int = 0


class Audit:
    def __init__(self, context: ServiceContext, witnesses: Witnesses) -> None:
        self._context = context
        self._witnesses = witnesses
        self.health = AuditHealth()

    async def list(
        self, who: Principal, after: int, limit: int, since: dt.datetime | None = None, until: dt.datetime | None = None
    ) -> api.Page[api.AuditEntry]:
        """Oldest first, those after number `after`, of this time."""
        require_admin(who)
        t = schema.audit
        query = sa.select(t).where(t.c.seq > after).order_by(t.c.seq).limit(limit + 1)
        if since is not None:
            query = query.where(t.c.at >= since)
        if until is not None:
            query = query.where(t.c.at < until)

        def tx(conn: Connection) -> api.Page[api.AuditEntry]:
            rows = conn.execute(query).all()
            more = str(rows[limit - 1].seq) if len(rows) > limit else None
            return api.Page(items=[audit_entry(row) for row in rows[:limit]], next=more)

        return await self._context.read(tx)

    async def watch(self) -> None:
        """Goes on where it stopped the last time, from time to time from the first entry: what was found is in `health`."""
        await self._context.read(self._go_on)

    def _go_on(self, conn: Connection) -> None:
        t, vault, health = schema.audit, self._context.keys.vault, self.health
        if not health.ok or health.walks % _WHOLE == 0:
            health.checked, health.head = 0, START
        broken, walk = False, AuditWalk(vault, health.checked, health.head)
        for row in _readable(conn.execute(sa.select(t).where(t.c.seq > health.checked).order_by(t.c.seq))):
            if row is None or not walk.takes(row._mapping):
                broken = True
                break
        health.checked, health.head = walk.entries, walk.head
        end = conn.execute(sa.select(schema.audit_head)).one()
        health.walks += 1
        health.ok = not broken and (end.seq, end.hash) == (health.checked, health.head)
        health.at = self._context.now()

    async def verify(self, who: Principal) -> api.AuditVerdict:
        """Walks the whole chain, and holds it against what the clients connected here keep of it."""
        require_admin(who)
        testimony = await self._witnesses.ask()
        return await self._context.read(lambda conn: self._judge(conn, testimony))

    def _judge(self, conn: Connection, testimony: Testimony) -> api.AuditVerdict:
        t, vault = schema.audit, self._context.keys.vault
        missing = dict(testimony.checkpoints)  # what witnesses keep and the log hasn't shown yet
        walk, vouched = AuditWalk(vault), 0
        broken: tuple[int, api.AuditFault] | None = None
        for row in _readable(conn.execute(sa.select(t).order_by(t.c.seq))):
            if row is None or not walk.takes(row._mapping):
                broken = walk.entries + 1, "changed"
                break
            if missing and missing.pop(commitment_of(vault, walk.entries, walk.head), None) is not None:
                vouched = walk.entries
        end = conn.execute(sa.select(schema.audit_head)).one()
        if broken is None and (end.seq, end.hash) != (walk.entries, walk.head):
            broken = walk.entries + 1, "missing"
        if broken is None and missing:
            broken = _first_missing(conn, missing, vouched, walk.entries), "missing"
        return api.AuditVerdict(
            entries=walk.entries,
            ok=broken is None,
            broken_at=None if broken is None else broken[0],
            fault=None if broken is None else broken[1],
            head=walk.head,
            asked=testimony.asked,
            witnesses=testimony.answered,
            vouched_for=vouched or None,
        )


def _readable(rows: Iterable[Row[Any]]) -> Iterator[Row[Any] | None]:
    """The rows, up to one that can't be read, which is None: who writes to the database may write nonsense."""
    try:
        yield from rows
    except ValueError:  # a time that is none
        yield None
    except sa.exc.OperationalError as e:
        if "decode" not in str(e.orig):  # SQLite: text that isn't UTF-8
            raise
        yield None


def _first_missing(conn: Connection, missing: Mapping[str, float], vouched: int, entries: int) -> int:
    """The first entry that isn't the one that witnesses know, in a chain that holds in itself.

    When a checkpoint was signed its newest entry was the last one of that time: had none been lost, it would still be.
    So what is lost was followed by the first entry that is later, or by none.
    """
    t = schema.audit
    times = sa.select(t.c.seq, t.c.at).where(t.c.seq > vouched).order_by(t.c.seq)
    first = min(missing.values())
    return next((row.seq for row in conn.execute(times) if row.at.timestamp() > first), entries + 1)


def _detail(text: str) -> dict[str, Any]:
    """As it stands in the database, also if somebody wrote nonsense there: `verify` says so."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unreadable": text}


def audit_entry(row: Row[Any]) -> api.AuditEntry:
    return api.AuditEntry(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        detail=_detail(row.detail),
        hash=row.hash,
    )
