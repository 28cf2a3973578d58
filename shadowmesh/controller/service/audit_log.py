"""Writing the audit log: a chain of hashes, each entry in the transaction that it is about."""

from __future__ import annotations

import datetime as dt
import hashlib

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.store import schema
from shadowmesh.model.codec import to_json


def record(core: Core, conn: Connection, who: Principal, action: str, target: str, **detail: object) -> None:
    """Adds an entry to the chain, in the transaction that it is about."""
    head, log = schema.audit_head, schema.audit
    before = conn.execute(sa.select(head).with_for_update()).one()
    at, seq, text = core.now(), before.seq + 1, to_json(detail).decode()
    digest = audit_hash(before.hash, seq, at, who.name, action, target, text)
    conn.execute(
        log.insert().values(seq=seq, at=at, actor=who.name, action=action, target=target, detail=text, hash=digest)
    )
    conn.execute(head.update().values(seq=seq, hash=digest))


def audit_hash(
    before: str, seq: int, at: dt.datetime, actor: str, action: str, target: str, detail: str
) -> str:  # one argument for each thing that is covered
    fields = (before, str(seq), at.isoformat(timespec="microseconds"), actor, action, target, detail)
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()
