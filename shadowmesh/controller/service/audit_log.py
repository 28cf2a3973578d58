"""Writing the audit log: a chain of keyed hashes, each entry in the transaction that it is about.

The key lies outside the database: who can write there alone can change, replace or restamp no entry unseen. To cut the
newest ones off is what they still can; that is what the witnesses are for (`service.witnesses`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.keys import Vault
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.store import schema
from shadowmesh.model.codec import to_json

START = "0" * 64  # what the first entry follows


def record(core: Core, conn: Connection, who: Principal, action: str, target: str, **detail: object) -> None:
    """Adds an entry to the chain, in the transaction that it is about.

    A change of something tells what it was and what it is (`before`, `after`: see `difference`).
    """
    head, log = schema.audit_head, schema.audit
    before = conn.execute(sa.select(head).with_for_update()).one()
    at, seq, text = core.now(), before.seq + 1, to_json(detail).decode()
    digest = audit_hash(core.keys.vault, before.hash, seq, at, who.name, action, target, text)
    conn.execute(
        log.insert().values(seq=seq, at=at, actor=who.name, action=action, target=target, detail=text, hash=digest)
    )
    conn.execute(head.update().values(seq=seq, hash=digest))


def audit_hash(
    vault: Vault, before: str, seq: int, at: dt.datetime, actor: str, action: str, target: str, detail: str
) -> str:  # one argument for each thing that is covered
    fields = (before, seq, at.isoformat(timespec="microseconds"), actor, action, target, detail)
    return vault.mac("audit entry", to_json(fields).decode())


def difference(row: Row[Any], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For `record`: what of `values` is new to the row, as `before` and `after`; both empty if nothing is."""
    old = row._mapping
    changed = [name for name, value in values.items() if old[name] != value]
    return {
        "before": {name: plain(old[name]) for name in changed},
        "after": {name: plain(values[name]) for name in changed},
    }


def plain(value: Any) -> Any:
    """A column's value as JSON has it."""
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, bytes):
        return value.hex()
    return value
