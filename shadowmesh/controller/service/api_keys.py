"""API keys: made once and shown once; what is stored is their keyed hash."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, key_lives, require_signed_in
from shadowmesh.controller.errors import not_found
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.users import first_admin
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.ids import new_id

KEY_PREFIX = "sk_"
_KEY = "api key"  # the label of its keyed hash
_USED_RESOLUTION = dt.timedelta(minutes=1)


def add_key(
    core: Core, conn: Connection, who: Principal, user_id: str, name: str, expires_in: int | None
) -> tuple[str, str]:
    """A new API key's id and text."""
    key, key_id, now = KEY_PREFIX + secrets.token_urlsafe(32), new_id("key"), core.now()
    expires_at = None if expires_in is None else now + dt.timedelta(seconds=expires_in)
    conn.execute(
        schema.api_keys.insert().values(
            id=key_id,
            mac=core.keys.vault.mac(_KEY, key),
            name=name,
            user_id=user_id,
            created_at=now,
            expires_at=expires_at,
        )
    )
    after = shown({"name": name, "user_id": user_id, "expires_at": expires_at}, "name", "user_id", "expires_at")
    record(core, conn, who, "api-key.create", name or key_id, id=key_id, after=after)
    return key_id, key


class ApiKeys:
    def __init__(self, core: Core, watchers: Watchers) -> None:
        self._core = core
        self._watchers = watchers

    async def principal(self, text: str) -> Principal | None:
        """Who presents this key, None if it isn't valid, or no longer."""
        k, u = schema.api_keys, schema.users
        now = self._core.now()
        query = (
            sa.select(k.c.id, k.c.name, k.c.last_used, k.c.expires_at, u.c.email, u.c.admin, u.c.id.label("user_id"))
            .join(u, u.c.id == k.c.user_id)
            .where(
                k.c.mac == self._core.keys.vault.mac(_KEY, text),
                key_lives(now),
                u.c.disabled.is_(False),
            )
        )
        row = await self._core.read(lambda conn: conn.execute(query).first())
        if row is None:
            return None
        if row.last_used is None or now - row.last_used > _USED_RESOLUTION:
            await self._core.write(lambda conn: conn.execute(k.update().where(k.c.id == row.id).values(last_used=now)))
        return Principal(
            f"{row.email} by {row.name or row.id}",
            row.user_id,
            row.email,
            row.admin,
            credential=row.id,
            expires=row.expires_at,
        )

    async def create(
        self, who: Principal, wish: api.ApiKeyCreate, once: IdempotentRequest | None = None
    ) -> api.ApiKeyCreated:
        """For oneself; on the controller's own host, for its first administrator."""

        def tx(conn: Connection) -> api.ApiKeyCreated:
            require_signed_in(conn, who, self._core.now())
            if once and (earlier := once.found(self._core, conn, who, api.ApiKeyCreated)):
                return earlier
            user_id = who.user_id or first_admin(conn)
            key_id, key = add_key(self._core, conn, who, user_id, wish.name, wish.expires_in)
            k = schema.api_keys
            shown = _key_view(conn.execute(_keys().where(k.c.id == key_id)).one())
            answer = api.ApiKeyCreated(**shown.model_dump(), key=key)
            if once:
                once.keep(self._core, conn, who, answer)
            return answer

        return await self._core.write(tx)

    async def list(self, who: Principal) -> Sequence[api.ApiKey]:
        """One's own; an administrator sees all."""
        query = _keys().where(schema.api_keys.c.revoked_at.is_(None))
        if not who.admin:
            query = query.where(schema.api_keys.c.user_id == who.user_id)
        return await self._core.read(lambda conn: [_key_view(row) for row in conn.execute(query)])

    async def revoke(self, who: Principal, key_id: str) -> None:
        k = schema.api_keys

        def tx(conn: Connection) -> str:
            this = sa.and_(k.c.id == key_id, k.c.revoked_at.is_(None))
            if not who.admin:
                this = sa.and_(this, k.c.user_id == who.user_id)
            revoked = k.update().where(this).values(revoked_at=self._core.now())
            row = conn.execute(revoked.returning(k.c.user_id, k.c.name, k.c.expires_at)).first()
            if row is None:
                raise not_found(
                    "api_key_unknown", f"there is no API key {key_id[:60]!r}", "`shadowmesh api-key list` names them"
                )
            rights_changed(self._core, conn, row.user_id)
            before = shown(row._mapping, "name", "user_id", "expires_at")
            record(self._core, conn, who, "api-key.revoke", row.name or key_id, id=key_id, before=before)
            return str(row.user_id)

        self._watchers.changed(await self._core.write(tx))


def _keys() -> sa.Select[Any]:
    k, u = schema.api_keys, schema.users
    return sa.select(k, u.c.email).join(u, u.c.id == k.c.user_id).order_by(k.c.created_at)


def _key_view(row: Row[Any]) -> api.ApiKey:
    return api.ApiKey(
        id=row.id,
        name=row.name,
        user=row.email,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used=row.last_used,
    )
