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
from shadowmesh.controller.keyring import Vault
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model.codec import to_json

_LONG = 100  # characters: longer keys are told by their hash
START = "0" * 64  # what the first entry follows


@prepared
def _head() -> sa.Select[Any]:
    return sa.select(schema.audit_head).with_for_update()


@prepared
def _set_head(seq: int, digest: str) -> sa.Update:
    return schema.audit_head.update().values(seq=seq, hash=digest)


@prepared
def _add(
    seq: int, at: dt.datetime, actor: str, action: str, target: str, detail: str, digest: str
) -> sa.Insert:  # one argument for each column
    values = {"seq": seq, "at": at, "actor": actor, "action": action, "target": target, "detail": detail}
    return schema.audit.insert().values(**values, hash=digest)


def record(
    context: ServiceContext, conn: Connection, who: Principal, action: str, target: str, **detail: object
) -> None:
    """Adds an entry to the chain, in the transaction that it is about.

    A change of something tells what it was and what it is: `before` and `after`, see `difference` and `shown`.
    """
    before = one_at_a_time(conn)
    at, seq, text = context.now(), before.seq + 1, to_json(detail).decode()
    digest = audit_hash(context.keys.vault, before.hash, seq, at, who.name, action, target, text)
    conn.execute(*_add(seq, at, who.name, action, target, text, digest))
    conn.execute(*_set_head(seq, digest))


def one_at_a_time(conn: Connection) -> Row[Any]:
    """Until this transaction ends, on no node does another that records an entry get past here. Returns the chain's head."""
    return conn.execute(*_head()).one()  # SQLite has one writer, and no FOR UPDATE


def audit_hash(
    vault: Vault, before: str, seq: int, at: dt.datetime, actor: str, action: str, target: str, detail: str
) -> str:  # one argument for each thing that is covered
    fields = (before, seq, at.isoformat(timespec="microseconds"), actor, action, target, detail)
    return vault.mac("audit entry", to_json(fields).decode())


class AuditWalk:
    """Goes along the chain, entry by entry, from the first one or from where another walk ended."""

    def __init__(self, vault: Vault, entries: int = 0, head: str = START) -> None:
        self._vault = vault
        self.entries = entries
        self.head = head

    def takes(self, entry: Mapping[Any, Any]) -> bool:
        """Whether this is the next entry as it was written. One that isn't is not counted."""
        seq, at, actor, action = entry["seq"], entry["at"], entry["actor"], entry["action"]
        digest = audit_hash(self._vault, self.head, seq, at, actor, action, entry["target"], entry["detail"])
        if seq != self.entries + 1 or entry["hash"] != digest:
            return False
        self.entries, self.head = self.entries + 1, digest
        return True


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
