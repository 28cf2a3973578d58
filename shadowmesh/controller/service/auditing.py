"""Reading and checking the audit log."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, require_admin
from shadowmesh.controller.service.audit_log import audit_hash
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.store import schema
from shadowmesh.model import api


class Audit:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(self, who: Principal, after: int, limit: int) -> api.Page[api.AuditEntry]:
        """Oldest first, those after number `after`."""
        require_admin(who)
        t = schema.audit
        query = sa.select(t).where(t.c.seq > after).order_by(t.c.seq).limit(limit + 1)

        def tx(conn: Connection) -> api.Page[api.AuditEntry]:
            rows = conn.execute(query).all()
            more = str(rows[limit - 1].seq) if len(rows) > limit else None
            return api.Page(items=[_view(row) for row in rows[:limit]], next=more)

        return await self._core.read(tx)

    async def verify(self, who: Principal) -> api.AuditVerdict:
        """Walks the whole chain."""
        require_admin(who)
        t, head = schema.audit, schema.audit_head

        def tx(conn: Connection) -> api.AuditVerdict:
            before, expected = "0" * 64, 0
            for row in conn.execute(sa.select(t).order_by(t.c.seq)):
                expected += 1
                digest = audit_hash(before, row.seq, row.at, row.actor, row.action, row.target, row.detail)
                if row.seq != expected or row.hash != digest:
                    return api.AuditVerdict(entries=expected, ok=False, broken_at=expected, head=before)
                before = digest
            end = conn.execute(sa.select(head)).one()
            ok = end.seq == expected and end.hash == before  # else the newest entries were cut off
            return api.AuditVerdict(entries=expected, ok=ok, broken_at=None if ok else expected + 1, head=end.hash)

        return await self._core.read(tx)


def _view(row: Row[Any]) -> api.AuditEntry:
    return api.AuditEntry(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        detail=json.loads(row.detail),
        hash=row.hash,
    )
