"""Users of the controller: add, list, disable, make administrator, reset the password."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, require_admin
from shadowmesh.controller.errors import conflict, not_found
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.invites import revoke_invites
from shadowmesh.controller.service.passwords import hash_password, new_password
from shadowmesh.controller.service.relays import revoke_tokens
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.ids import new_id
from shadowmesh.model.text import canonical_email


def add_user(core: Core, conn: Connection, who: Principal, email: str, *, admin: bool) -> tuple[str, str]:
    """The new user's id and one-time password."""
    u = schema.users
    if conn.execute(sa.select(u.c.id).where(u.c.email == email)).first() is not None:
        raise conflict("user_exists", f"there is a user {email} already", "choose another address")
    user_id, password = new_id("usr"), new_password()
    conn.execute(
        u.insert().values(
            id=user_id,
            email=email,
            password_hash=hash_password(password),
            must_change=True,
            admin=admin,
            disabled=False,
            created_at=core.now(),
        )
    )
    record(core, conn, who, "user.add", email, id=user_id, after={"email": email, "admin": admin})
    return user_id, password


class Users:
    def __init__(self, core: Core, watchers: Watchers) -> None:
        self._core = core
        self._watchers = watchers

    async def create(self, who: Principal, wish: api.UserCreate) -> api.UserCreated:
        require_admin(who)

        def tx(conn: Connection) -> api.UserCreated:
            user_id, password = add_user(self._core, conn, who, wish.email, admin=wish.admin)
            return api.UserCreated(**_user_view(find_user(conn, user_id)).model_dump(), password=password)

        return await self._core.write(tx)

    async def list(self, who: Principal) -> Sequence[api.User]:
        require_admin(who)
        query = sa.select(schema.users).order_by(schema.users.c.email)
        return await self._core.read(lambda conn: [_user_view(row) for row in conn.execute(query)])

    async def set(self, who: Principal, name: str, wish: api.UserPatch) -> api.User:
        require_admin(who)
        u, t = schema.users, schema.refresh_tokens
        changes = wish.model_dump(exclude_none=True)

        def tx(conn: Connection) -> api.User:
            # Two administrators who demote each other at once take turns here.
            conn.execute(sa.select(u.c.id).where(u.c.admin).order_by(u.c.id).with_for_update()).all()
            row, ended, tokens = find_user(conn, name), list[str](), list[str]()
            if changes:
                conn.execute(u.update().where(u.c.id == row.id).values(**changes))
                others = sa.select(u.c.id).where(u.c.admin, u.c.disabled.is_(False)).limit(1)
                if row.admin and conn.execute(others).first() is None:
                    raise conflict("last_admin", f"{row.email} is the last administrator", "make another one first")
                if wish.disabled:
                    conn.execute(t.delete().where(t.c.user_id == row.id))
                    ended = revoke_invites(self._core, conn, row.id)
                elif row.admin and wish.admin is False:
                    ended = revoke_invites(self._core, conn, row.id, keep=row.email)
                if row.admin and (wish.disabled or wish.admin is False):
                    tokens = revoke_tokens(self._core, conn, row.email)
                rights_changed(self._core, conn, row.id)
                more = difference(row, changes)
                gone = {"invites_ended": ended, "relay_tokens_ended": tokens}
                record(self._core, conn, who, "user.set", row.email, id=row.id, **more, **gone)
            return _user_view(find_user(conn, row.id))

        answer = await self._core.write(tx)
        self._watchers.changed(answer.id)
        return answer

    async def reset_password(self, who: Principal, name: str) -> api.UserCreated:
        """A new one-time password. All that was given out for the old one ends: sessions, access tokens, API keys."""
        require_admin(who)
        u, t, k = schema.users, schema.refresh_tokens, schema.api_keys
        password = new_password()
        stored = await asyncio.to_thread(hash_password, password)

        def tx(conn: Connection) -> api.UserCreated:
            row = find_user(conn, name)
            conn.execute(u.update().where(u.c.id == row.id).values(password_hash=stored, must_change=True))
            conn.execute(t.delete().where(t.c.user_id == row.id))
            theirs = sa.and_(k.c.user_id == row.id, k.c.revoked_at.is_(None))
            revoked = k.update().where(theirs).values(revoked_at=self._core.now()).returning(k.c.id)
            ended = sorted(conn.execute(revoked).scalars())
            rights_changed(self._core, conn, row.id)
            more = difference(row, {"must_change": True})
            record(self._core, conn, who, "user.reset-password", row.email, id=row.id, api_keys_ended=ended, **more)
            return api.UserCreated(**_user_view(row).model_dump(), password=password)

        answer = await self._core.write(tx)
        self._watchers.changed(answer.id)
        return answer


def find_user(conn: Connection, name: str) -> Row[Any]:
    u = schema.users
    row = conn.execute(sa.select(u).where(sa.or_(u.c.id == name, u.c.email == canonical_email(name)))).first()
    if row is None:
        raise not_found("user_unknown", f"there is no user {name[:80]!r}", "`shadowmesh user list` names them")
    return row


def first_admin(conn: Connection) -> str:
    u = schema.users
    query = sa.select(u.c.id).where(u.c.admin, u.c.disabled.is_(False)).order_by(u.c.created_at).limit(1)
    return str(conn.execute(query).scalar_one())


def _user_view(row: Row[Any]) -> api.User:
    return api.User(id=row.id, email=row.email, admin=row.admin, disabled=row.disabled, created_at=row.created_at)
