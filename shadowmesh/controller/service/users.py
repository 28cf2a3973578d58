"""Users of the controller, people and service accounts: add, list, disable, make administrator, reset the password."""

from __future__ import annotations

import asyncio
import builtins
import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, require_admin
from shadowmesh.controller.refusals import MOST_NAMES, conflict, unknown
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.invites import revoke_invites
from shadowmesh.controller.service.madewithkeys import end_made_with
from shadowmesh.controller.service.passwords import hash_password
from shadowmesh.controller.service.relays import revoke_tokens
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import new_id
from shadowmesh.model.text import canonical_email
from shadowmesh.model.userpasswords import generated_password


def add_user(
    context: ServiceContext,
    conn: Connection,
    who: Principal,
    email: str,
    *,
    password_hash: str | None,
    admin: bool = False,
    name: str = "",
    kind: accounts.UserKind = "person",
    must_change: bool = False,
) -> str:
    """The new user's id. `must_change`: the password is for one use. Raises ShadowMeshError(user_exists)."""
    u = schema.users
    if conn.execute(sa.select(u.c.id).where(u.c.email == email)).first() is not None:
        raise conflict("user_exists", f"there is a user {email} already", "choose another address")
    user_id = new_id("usr")
    values = {"email": email, "name": name, "kind": kind, "admin": admin}
    conn.execute(
        u.insert().values(
            id=user_id,
            **values,
            password_hash=password_hash,
            must_change=must_change,
            disabled=False,
            created_at=context.now(),
        )
    )
    record(context, conn, who, "user.add", email, id=user_id, after=values)
    return user_id


class Users:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers

    async def create(self, who: Principal, wish: accounts.UserCreate) -> accounts.UserCreated:
        require_admin(who)
        password = generated_password() if wish.kind == "person" else None
        stored = None if password is None else await asyncio.to_thread(hash_password, password)

        def tx(conn: Connection) -> accounts.UserCreated:
            user_id = add_user(
                self._context, conn, who, **wish.model_dump(), password_hash=stored, must_change=stored is not None
            )
            return accounts.UserCreated(**user_view(find_user(conn, user_id)).model_dump(), password=password)

        return await self._context.write(tx)

    async def list(self, who: Principal) -> Sequence[accounts.User]:
        require_admin(who)
        query = _users().order_by(schema.users.c.email)

        def tx(conn: Connection) -> builtins.list[accounts.User]:
            seen = _last_seen(conn)
            return [
                user_view(row).model_copy(update={"last_seen": seen.get(row.id)}) for row in conn.execute(query).all()
            ]

        return await self._context.read(tx)

    async def set(self, who: Principal, name: str, wish: accounts.UserPatch) -> accounts.User:
        require_admin(who)
        u, s = schema.users, schema.sessions
        changes = wish.model_dump(exclude_none=True)

        def tx(conn: Connection) -> accounts.User:
            # Two administrators who demote each other at once take turns here.
            conn.execute(sa.select(u.c.id).where(u.c.admin).order_by(u.c.id).with_for_update()).all()
            row, ended, tokens = find_user(conn, name), list[str](), list[str]()
            invited: Sequence[str] = ()
            if changes:
                conn.execute(u.update().where(u.c.id == row.id).values(**changes))
                if row.admin and conn.execute(administrators()).first() is None:
                    raise last_admin(row.email)
                if wish.disabled:
                    conn.execute(s.delete().where(s.c.user_id == row.id))
                    ended = revoke_invites(self._context, conn, row.id)
                elif row.admin and wish.admin is False:
                    ended = revoke_invites(self._context, conn, row.id, keep=row.email)
                if row.admin and (wish.disabled or wish.admin is False):
                    tokens = revoke_tokens(self._context, conn, row.email)
                    invited = self._revoke_invitations(conn, row.id)
                rights_changed(self._context, conn, row.id)
                more = difference(row, changes)
                gone = {"invites_ended": ended, "relay_tokens_ended": tokens, "invitations_ended": invited}
                record(self._context, conn, who, "user.set", row.email, id=row.id, **more, **gone)
            return user_view(find_user(conn, row.id))

        answer = await self._context.write(tx)
        self._watchers.changed(answer.id)
        return answer

    def _revoke_invitations(self, conn: Connection, user_id: str) -> Sequence[str]:
        """Of people, by who is no administrator any more. The ids of those that were open."""
        t, now = schema.user_invitations, self._context.now()
        theirs = sa.and_(t.c.owner_id == user_id, t.c.ended_at.is_(None), t.c.expires_at > now)
        return sorted(conn.execute(t.update().where(theirs).values(ended_at=now).returning(t.c.id)).scalars())

    async def reset_password(self, who: Principal, name: str) -> accounts.UserCreated:
        """A new one-time password. All that was given out for the old one ends: sessions, access tokens, API keys."""
        require_admin(who)
        u, s, k = schema.users, schema.sessions, schema.api_keys
        password = generated_password()
        stored = await asyncio.to_thread(hash_password, password)

        def tx(conn: Connection) -> accounts.UserCreated:
            row = find_user(conn, name)
            if row.kind == "service":
                raise conflict(
                    "service_account",
                    f"{row.email} is a service account: it has no password",
                    "make an API key for it, with `shadowmesh api-key create --user`",
                )
            conn.execute(u.update().where(u.c.id == row.id).values(password_hash=stored, must_change=True))
            conn.execute(s.delete().where(s.c.user_id == row.id))
            theirs = sa.and_(k.c.user_id == row.id, k.c.revoked_at.is_(None))
            revoked = k.update().where(theirs).values(revoked_at=self._context.now()).returning(k.c.id)
            ended = sorted(conn.execute(revoked).scalars())
            rights_changed(self._context, conn, row.id)
            gone = {"api_keys_ended": ended} | end_made_with(self._context, conn, ended)
            more = difference(row, {"must_change": True})
            record(self._context, conn, who, "user.reset-password", row.email, id=row.id, **more, **gone)
            return accounts.UserCreated(**user_view(row).model_dump(), password=password)

        answer = await self._context.write(tx)
        self._watchers.changed(answer.id)
        return answer


def last_admin(email: str) -> ShadowMeshError:
    return conflict(
        "last_admin",
        f"{email} is the last administrator",
        "make another one first: `shadowmesh user set EMAIL --admin`",
    )


def find_user(conn: Connection, name: str) -> Row[Any]:
    u = schema.users
    row = conn.execute(_users().where(sa.or_(u.c.id == name, u.c.email == canonical_email(name)))).first()
    if row is None:
        raise user_unknown(conn, name)
    return row


def user_unknown(conn: Connection, name: str) -> ShadowMeshError:
    """For administrators: it names whom they may have meant."""
    known = conn.execute(sa.select(schema.users.c.email).limit(MOST_NAMES)).scalars().all()
    return unknown("user_unknown", f"there is no user {name[:80]!r}", name, known, "shadowmesh user list")


def _users() -> sa.Select[Any]:
    u, f = schema.users, schema.second_factors
    factor = sa.exists().where(f.c.user_id == u.c.id, f.c.confirmed_at.is_not(None))
    return sa.select(u, factor.label("second_factor"))


def _last_seen(conn: Connection) -> dict[str, dt.datetime]:
    """By user: when the newest use of a session or API key was. Who never used one isn't in it."""
    found: dict[str, dt.datetime] = {}
    s, k = schema.sessions, schema.api_keys
    for owner, moment in ((s.c.user_id, sa.func.coalesce(s.c.last_used, s.c.created_at)), (k.c.user_id, k.c.last_used)):
        query = sa.select(owner, sa.func.max(moment)).where(moment.is_not(None)).group_by(owner)
        for user_id, at in conn.execute(query):
            found[user_id] = max(at, found.get(user_id, at))
    return found


def first_admin(conn: Connection) -> str:
    return str(conn.execute(administrators()).scalars().first())


def administrators() -> sa.Select[tuple[str]]:
    """The ids of those who can sign in, the oldest first."""
    u = schema.users
    able = sa.and_(u.c.admin, u.c.disabled.is_(False), u.c.kind == "person")
    return sa.select(u.c.id).where(able).order_by(u.c.created_at)


def user_view(row: Row[Any]) -> accounts.User:
    return accounts.User(
        id=row.id,
        email=row.email,
        name=row.name,
        kind=row.kind,
        admin=row.admin,
        disabled=row.disabled,
        second_factor=row.second_factor,
        created_at=row.created_at,
    )
