"""What every service stands on: the store, the keys, the clock; who asks, and what they may."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.keys import KeyRing
from shadowmesh.controller.settings import Settings, Timing
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.engine import Store, Transaction
from shadowmesh.model.codec import to_json
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.keys import Secret

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

PERMISSIONS = {
    "owner": frozenset(
        {
            "network.delete",
            "network.configure",
            "network.invite",
            "network.view",
            "client.register",
            "client.remove",
            "logs.view",
        }
    ),
    "member": frozenset({"network.view", "client.register", "logs.view"}),
    "guest": frozenset({"network.view"}),
}
_ATTEMPTS = 4  # PostgreSQL: how often a write that lost a race is tried
_ID = re.compile(r"[a-z]{2,5}_[a-z0-9]{1,40}\Z")
ANSWER_LIFE = dt.timedelta(hours=24)


def not_found(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.NOT_FOUND)


def conflict(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.CONFLICT)


def not_allowed(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.NOT_ALLOWED)


def usage(code: str, what: str, remedy: str = "") -> ShadowMeshError:
    return ShadowMeshError(code, what, remedy, kind=Kind.USAGE)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `name` is how the audit log calls them."""

    name: str
    user_id: str | None = None
    admin: bool = False


LOCAL = Principal("local", admin=True)
SYSTEM = Principal("controller", admin=True)


@dataclass(frozen=True, slots=True)
class Core:
    """Handed to every service."""

    store: Store
    keys: KeyRing
    settings: Settings
    timing: Timing
    clock: Callable[[], dt.datetime]

    def now(self) -> dt.datetime:
        return self.clock()

    async def write(self, tx: Transaction[T]) -> T:
        """One transaction. A lost race shows as a broken constraint; run again, `tx` finds what was first and says so."""
        for _ in range(_ATTEMPTS):
            try:
                return await self.store.write(tx)
            except sa.exc.IntegrityError:
                continue
        raise conflict("busy", "others changed the same thing at the same moment", "try again")

    async def read(self, tx: Transaction[T]) -> T:
        return await self.store.read(tx)


@dataclass(frozen=True, slots=True)
class Once:
    """An Idempotency-Key: the first answer is kept, encrypted, in the transaction that made it, and given again."""

    key: str
    digest: str

    @classmethod
    def of(cls, key: str | None, route: str, body: BaseModel) -> Once | None:
        """None without a key. Raises ShadowMeshError(bad_idempotency_key)."""
        if key is None:
            return None
        if not 1 <= len(key) <= 200 or not key.isprintable():
            raise usage("bad_idempotency_key", "an Idempotency-Key has 1 to 200 printable characters")
        return cls(key, hashlib.sha256(route.encode() + b"\0" + body.model_dump_json().encode()).hexdigest())

    def found(self, core: Core, conn: Connection, who: Principal, kind: type[M]) -> M | None:
        """The earlier answer. Raises ShadowMeshError(CONFLICT) if the key was used for another request."""
        t = schema.answers
        row = conn.execute(sa.select(t).where(t.c.actor == who.name, t.c.key == self.key)).first()
        if row is None:
            return None
        if row.digest != self.digest:
            raise conflict(
                "idempotency_key_reused", "this Idempotency-Key was used for another request", "use a new one"
            )
        return kind.model_validate_json(core.keys.vault.decrypt(row.sealed, f"answer {who.name}").reveal())

    def keep(self, core: Core, conn: Connection, who: Principal, answer: BaseModel) -> None:
        sealed = core.keys.vault.encrypt(Secret(answer.model_dump_json().encode()), f"answer {who.name}")
        conn.execute(
            schema.answers.insert().values(
                actor=who.name, key=self.key, digest=self.digest, sealed=sealed, at=core.now()
            )
        )


# what someone may


def require_admin(who: Principal) -> None:
    if not who.admin:
        raise not_allowed("not_allowed", "this needs an administrator", "ask one, or sign in as one")


def require(conn: Connection, who: Principal, permission: str, network: Row[Any]) -> None:
    """Raises ShadowMeshError(NOT_ALLOWED) unless `who` has this permission in the network."""
    if who.admin:
        return
    t = schema.members
    role = conn.execute(
        sa.select(t.c.role).where(t.c.network_ref == network.ref, t.c.user_id == who.user_id)
    ).scalar_one_or_none()
    if role is None:  # as if it weren't there: names of networks are nobody else's business
        raise no_such_network(network.name)
    if permission not in PERMISSIONS[role]:
        raise not_allowed(
            "not_allowed", f"the role {role} in {network.name} doesn't allow {permission}", "ask an owner"
        )


def may_see(who: Principal) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those that `who` may view."""
    if who.admin:
        return sa.true()
    m = schema.members
    return schema.networks.c.ref.in_(sa.select(m.c.network_ref).where(m.c.user_id == who.user_id))


def no_such_network(name: str) -> ShadowMeshError:
    return not_found("network_unknown", f"there is no network {name[:80]!r}", "`shadowmesh network list` names them")


def find_network(conn: Connection, name: str, *, lock: bool = False) -> Row[Any]:
    """The living network of this id or name. `lock`: others' changes to it wait (PostgreSQL; SQLite has one writer)."""
    t = schema.networks
    by = t.c.ref == name if is_id(name, "net") else t.c.name == name
    query = sa.select(t).where(by, t.c.deleted_at.is_(None))
    row = conn.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise no_such_network(name)
    return row


def is_id(text: str, prefix: str) -> bool:
    return text.startswith(prefix + "_") and bool(_ID.match(text))


def bump(conn: Connection, ref: NetworkRef | str) -> int:
    """The network's next serial; the row stays locked until the transaction ends, so serials follow commits."""
    t = schema.networks
    query = t.update().where(t.c.ref == ref).values(serial=t.c.serial + 1).returning(t.c.serial)
    return int(conn.execute(query).scalar_one())


# the audit log


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
