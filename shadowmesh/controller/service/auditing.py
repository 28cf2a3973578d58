"""Reading and checking the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, require_admin
from shadowmesh.controller.keys import Vault
from shadowmesh.controller.service.audit_log import START, audit_hash
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.witnesses import Testimony, Witnesses, commitment_of
from shadowmesh.controller.store import schema
from shadowmesh.model import api


class Audit:
    def __init__(self, core: Core, witnesses: Witnesses) -> None:
        self._core = core
        self._witnesses = witnesses

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
        """Walks the whole chain, and holds it against what the clients connected here keep of it."""
        require_admin(who)
        testimony = await self._witnesses.ask()
        return await self._core.read(lambda conn: self._judge(conn, testimony))

    def _judge(self, conn: Connection, testimony: Testimony) -> api.AuditVerdict:
        t, vault = schema.audit, self._core.keys.vault
        missing = dict(testimony.checkpoints)  # what witnesses keep and the log hasn't shown yet
        before, entries, vouched = START, 0, 0
        broken: tuple[int, api.AuditFault] | None = None
        for row in _readable(conn.execute(sa.select(t).order_by(t.c.seq))):
            if row is None or row.seq != entries + 1 or row.hash != (digest := _hash(vault, before, row)):
                broken = entries + 1, "changed"
                break
            before, entries = digest, entries + 1
            if missing and missing.pop(commitment_of(vault, entries, digest), None) is not None:
                vouched = entries
        end = conn.execute(sa.select(schema.audit_head)).one()
        if broken is None and (end.seq, end.hash) != (entries, before):
            broken = entries + 1, "missing"
        if broken is None and missing:
            broken = _first_missing(conn, missing, vouched, entries), "missing"
        return api.AuditVerdict(
            entries=entries,
            ok=broken is None,
            broken_at=None if broken is None else broken[0],
            fault=None if broken is None else broken[1],
            head=before,
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


def _hash(vault: Vault, before: str, row: Row[Any]) -> str:
    return audit_hash(vault, before, row.seq, row.at, row.actor, row.action, row.target, row.detail)


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


def _view(row: Row[Any]) -> api.AuditEntry:
    return api.AuditEntry(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        detail=_detail(row.detail),
        hash=row.hash,
    )
