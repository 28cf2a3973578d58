"""API keys: made once and shown once; what is stored is their keyed hash."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, key_lives, require_signed_in
from shadowmesh.controller.errors import conflict, not_found
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.users import first_admin
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.ids import is_id, new_id

KEY_PREFIX = "sk_"
_KEY = "api key"  # the label of its keyed hash
MOST_KEYS = 100


def add_key(
    core: Core, conn: Connection, who: Principal, user_id: str, name: str, expires_in: int | None
) -> tuple[str, str]:
    """A new API key's id and text. One that is made with another key ends with that at the latest."""
    key, key_id, now = KEY_PREFIX + secrets.token_urlsafe(32), new_id("key"), core.now()
    expires_at = None if expires_in is None else now + dt.timedelta(seconds=expires_in)
    made_by = who.credential if is_id(who.credential or "", "key") else None
    if made_by is not None and who.expires is not None:
        expires_at = who.expires if expires_at is None else min(expires_at, who.expires)
    conn.execute(
        schema.api_keys.insert().values(
            id=key_id,
            mac=core.keys.vault.mac(_KEY, key),
            name=name,
            user_id=user_id,
            made_by=made_by,
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
        self._used: dict[str, dt.datetime] = {}  # when keys were last used, as far as it isn't in the database yet

    async def principal(self, text: str) -> Principal | None:
        """Who presents this key, None if it isn't valid, or no longer."""
        k, u = schema.api_keys, schema.users
        now = self._core.now()
        query = (
            sa.select(k.c.id, k.c.name, k.c.expires_at, u.c.email, u.c.admin, u.c.id.label("user_id"))
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
        self._used[row.id] = now
        return Principal(
            f"{row.email} by {row.name or row.id}",
            row.user_id,
            row.email,
            row.admin,
            credential=row.id,
            expires=row.expires_at,
        )

    async def note_used(self) -> None:
        """Writes when keys were used since the last time. Who signs in doesn't wait for it, and doesn't need it."""
        k, used = schema.api_keys, self._used
        if not used:
            return

        def tx(conn: Connection) -> None:
            for key_id, at in sorted(used.items()):  # in one order on all controllers, as rows stay locked
                later = sa.or_(k.c.last_used.is_(None), k.c.last_used < at)
                conn.execute(k.update().where(k.c.id == key_id, later).values(last_used=at))

        self._used = {}
        try:
            await self._core.write(tx)
        except BaseException:
            self._used = used | self._used
            raise

    async def create(
        self, who: Principal, wish: api.ApiKeyCreate, once: IdempotentRequest | None = None
    ) -> api.ApiKeyCreated:
        """For oneself; on the controller's own host, for its first administrator."""

        def tx(conn: Connection) -> api.ApiKeyCreated:
            require_signed_in(conn, who, self._core.now())
            if once and (earlier := once.found(self._core, conn, who, api.ApiKeyCreated)):
                return earlier
            user_id = who.user_id or first_admin(conn)
            self._check_room(conn, user_id)
            key_id, key = add_key(self._core, conn, who, user_id, wish.name or "", wish.expires_in)
            k = schema.api_keys
            shown = _key_view(conn.execute(_keys().where(k.c.id == key_id)).one())
            answer = api.ApiKeyCreated(**shown.model_dump(), key=key)
            if once:
                once.keep(self._core, conn, who, answer)
            return answer

        return await self._core.write(tx)

    def _check_room(self, conn: Connection, user_id: str) -> None:
        """Raises ShadowMeshError(api_keys_full). The user's row is held until the transaction ends."""
        k = schema.api_keys
        _hold_user(conn, user_id)
        alive = sa.select(sa.func.count()).where(k.c.user_id == user_id, key_lives(self._core.now()))
        if conn.execute(alive).scalar_one() >= MOST_KEYS:
            raise conflict(
                "api_keys_full", f"this user has {MOST_KEYS} API keys, as many as one may have", "revoke one"
            )

    async def list(self, who: Principal) -> Sequence[api.ApiKey]:
        """One's own; an administrator sees all."""
        query = _keys().where(schema.api_keys.c.revoked_at.is_(None))
        if not who.admin:
            query = query.where(schema.api_keys.c.user_id == who.user_id)
        rows = await self._core.read(lambda conn: conn.execute(query).all())
        return [_key_view(row, self._used.get(row.id)) for row in rows]

    async def revoke(self, who: Principal, key_id: str) -> None:
        """With all that were made with it."""
        k = schema.api_keys

        def tx(conn: Connection) -> str:
            this = sa.and_(k.c.id == key_id, k.c.revoked_at.is_(None))
            if not who.admin:
                this = sa.and_(this, k.c.user_id == who.user_id)
            owner = sa.select(k.c.user_id).where(this).scalar_subquery()
            _hold_user(conn, owner)  # one that makes a key with this one waits, and then finds it revoked
            revoked = k.update().where(this).values(revoked_at=self._core.now())
            row = conn.execute(revoked.returning(k.c.user_id, k.c.name, k.c.expires_at)).first()
            if row is None:
                raise not_found(
                    "api_key_unknown", f"there is no API key {key_id[:60]!r}", "`shadowmesh api-key list` names them"
                )
            rights_changed(self._core, conn, row.user_id)
            before = shown(row._mapping, "name", "user_id", "expires_at")
            ended = self._revoke_made_with(conn, key_id)
            record(self._core, conn, who, "api-key.revoke", row.name or key_id, id=key_id, before=before, ended=ended)
            return str(row.user_id)

        self._watchers.changed(await self._core.write(tx))

    def _revoke_made_with(self, conn: Connection, key_id: str) -> Sequence[str]:
        """The ids of the keys that were made with this one, or with those, and had not ended."""
        k, ended, makers = schema.api_keys, list[str](), [key_id]
        while makers:
            theirs = sa.and_(k.c.made_by.in_(makers), k.c.revoked_at.is_(None))
            revoked = k.update().where(theirs).values(revoked_at=self._core.now()).returning(k.c.id)
            makers = sorted(conn.execute(revoked).scalars())
            ended += makers
        return ended


def _hold_user(conn: Connection, user_id: str | sa.ScalarSelect[Any]) -> None:
    """Others who give or take away what is this user's wait until the transaction ends."""
    u = schema.users
    conn.execute(sa.select(u.c.id).where(u.c.id == user_id).with_for_update()).all()


def _keys() -> sa.Select[Any]:
    k, u = schema.api_keys, schema.users
    return sa.select(k, u.c.email).join(u, u.c.id == k.c.user_id).order_by(k.c.created_at)


def _key_view(row: Row[Any], used: dt.datetime | None = None) -> api.ApiKey:
    """`used`: when it was used since `last_used` was written."""
    return api.ApiKey(
        id=row.id,
        name=row.name,
        user=row.email,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used=used or row.last_used,
    )
