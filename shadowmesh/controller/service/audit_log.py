"""Writing the audit log: a chain of keyed hashes, each entry in the transaction that it is about.

The key lies outside the database: who can write there alone can change, replace or restamp no entry unseen. To cut the
newest ones off is what they still can; that is what the witnesses are for (`service.witnesses`).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.keys import Vault
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.store import schema
from shadowmesh.model.codec import to_json

_LONG = 100  # characters: longer keys are told by their hash
START = "0" * 64  # what the first entry follows


def record(core: Core, conn: Connection, who: Principal, action: str, target: str, **detail: object) -> None:
    """Adds an entry to the chain, in the transaction that it is about.

    A change of something tells what it was and what it is: `before` and `after`, see `difference` and `shown`.
    """
    head, log = schema.audit_head, schema.audit
    before = one_at_a_time(conn)
    at, seq, text = core.now(), before.seq + 1, to_json(detail).decode()
    digest = audit_hash(core.keys.vault, before.hash, seq, at, who.name, action, target, text)
    conn.execute(
        log.insert().values(seq=seq, at=at, actor=who.name, action=action, target=target, detail=text, hash=digest)
    )
    conn.execute(head.update().values(seq=seq, hash=digest))


def one_at_a_time(conn: Connection) -> Row[Any]:
    """Until this transaction ends, on no node does another that records an entry get past here. Returns the chain's head."""
    return conn.execute(
        sa.select(schema.audit_head).with_for_update()
    ).one()  # SQLite has one writer, and no FOR UPDATE


def audit_hash(
    vault: Vault, before: str, seq: int, at: dt.datetime, actor: str, action: str, target: str, detail: str
) -> str:  # one argument for each thing that is covered
    fields = (before, seq, at.isoformat(timespec="microseconds"), actor, action, target, detail)
    return vault.mac("audit entry", to_json(fields).decode())


def difference(row: Row[Any], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For `record`: what of `values` is new to the row, as `before` and `after`; both empty if nothing is."""
    old = row._mapping
    changed = [name for name, value in values.items() if old[name] != value]
    return {"before": shown(old, *changed), "after": shown(values, *changed)}


def shown(values: Mapping[Any, Any], *names: str) -> dict[str, Any]:
    """These of a row's values as an entry has them."""
    return {name: _plain(name, values[name]) for name in names}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, bytes):  # a public key
        text = base64.b64encode(value).decode()
        return text if len(text) <= _LONG else f"sha256:{hashlib.sha256(value).hexdigest()}"
    if name == "ip" and isinstance(value, int):
        return str(ipaddress.IPv4Address(value))
    return value
