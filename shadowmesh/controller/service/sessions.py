"""Sessions of people who signed in with a password: access tokens (EdDSA JWT of minutes) and refresh tokens (once each)."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM, Principal, lacks_second_factor, require_admin, session_lives
from shadowmesh.controller.refusals import not_allowed, not_found
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.lastuse import LastUses
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.signinpolicy import required_roles
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.codec import from_json
from shadowmesh.model.ids import new_id

_REFRESH, _SUCCESSOR = "refresh token", "refresh token's successor"  # labels of keyed hashes


class _Claims(msgspec.Struct):
    sub: str
    sid: str  # the session: the family of its refresh tokens
    exp: float
    iss: str


class Sessions:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers
        self._used = LastUses(context, schema.sessions)

    def open(self, conn: Connection, user_id: str, source: str, client: str) -> accounts.Session:
        """A new session, in the transaction of who signed in."""
        refresh, session, now = secrets.token_urlsafe(32), new_id("ses"), self._context.now()
        values = {"user_id": user_id, "created_at": now, "expires_at": self._expiry(), "source": source}
        conn.execute(schema.sessions.insert().values(id=session, client=client, **values))
        self._keep_refresh(conn, refresh, session, user_id)
        return self._session(user_id, session, refresh)

    async def list(self, who: Principal, user: str | None) -> Sequence[accounts.SessionInfo]:
        """One's own, or this user's; at the controller's own socket all, if nobody is named."""
        s, u = schema.sessions, schema.users
        query = sa.select(s, u.c.email).join(u, u.c.id == s.c.user_id).where(s.c.expires_at > self._context.now())
        if user is not None:
            require_admin(who)
        elif who.user_id is not None:
            query = query.where(s.c.user_id == who.user_id, ~sa.literal(_kept_out(who)))

        def tx(conn: Connection) -> Sequence[Row[Any]]:
            named = query if user is None else query.where(s.c.user_id == find_user(conn, user).id)
            return conn.execute(named.order_by(u.c.email, s.c.created_at)).all()

        return [self._info(who, row) for row in await self._context.read(tx)]

    def _info(self, who: Principal, row: Row[Any]) -> accounts.SessionInfo:
        return accounts.SessionInfo(
            id=row.id,
            user=row.email,
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used=self._used.of(row.id) or row.last_used,
            source=row.source,
            client=row.client,
            current=row.id == who.credential,
        )

    async def end(self, who: Principal, session: str) -> None:
        """One's own, or as an administrator another's: its tokens and its open connections."""
        s, u = schema.sessions, schema.users

        def tx(conn: Connection) -> str:
            query = sa.select(s, u.c.email).join(u, u.c.id == s.c.user_id).where(s.c.id == session)
            if not who.everywhere:
                query = query.where(s.c.user_id == who.user_id)
            row = None if _kept_out(who) else conn.execute(query).first()
            if row is None:
                raise not_found(
                    "session_unknown", f"there is no session {session[:60]!r}", "`shadowmesh user sessions` names them"
                )
            conn.execute(s.delete().where(s.c.id == session))
            rights_changed(self._context, conn, row.user_id)
            before = shown(row._mapping, "source", "client", "created_at")
            record(
                self._context, conn, who, "auth.end-session", row.email, id=row.user_id, session=session, before=before
            )
            return str(row.user_id)

        self._watchers.changed(await self._context.write(tx))

    async def note_used(self) -> None:
        """Writes when sessions were used since the last time."""
        await self._used.note()

    async def refresh(self, token: str) -> accounts.Session:
        """A new session; the refresh token is used up.

        A short while longer it gives the same successor again: its answer may have been lost, or two commands of one person had
        it at the same moment. One used later was stolen: then all of its family end.
        """
        t, s, u, vault = schema.refresh_tokens, schema.sessions, schema.users, self._context.keys.vault
        # Derived, so that it can be given again although only its hash is kept.
        mac, successor = vault.mac(_REFRESH, token), vault.mac(_SUCCESSOR, token)
        grace = dt.timedelta(seconds=self._context.timing.refresh_grace)

        def tx(conn: Connection) -> tuple[Row[Any] | None, bool]:
            now = self._context.now()
            row = conn.execute(sa.select(t).where(t.c.mac == mac).with_for_update()).first()
            if row is None or row.expires_at <= now:
                return None, False
            # Held until the end: a password reset that comes meanwhile finds the new token, or this finds none.
            user = conn.execute(sa.select(u).where(u.c.id == row.user_id).with_for_update()).one()
            if row.used_at is not None and now - row.used_at > grace:
                conn.execute(s.delete().where(s.c.id == row.family))
                rights_changed(self._context, conn, row.user_id)
                record(
                    self._context, conn, SYSTEM, "auth.refresh-reused", user.email, id=row.user_id, session=row.family
                )
                return row, False
            if user.disabled:
                return row, False
            if row.used_at is None:
                conn.execute(t.update().where(t.c.mac == mac).values(used_at=now))
                self._keep_refresh(conn, successor, row.family, row.user_id)
                conn.execute(s.update().where(s.c.id == row.family).values(expires_at=self._expiry()))
            return row, True

        row, good = await self._context.write(tx)
        if row is not None and not good:
            self._watchers.changed(row.user_id)
        if row is None or not good:
            raise not_allowed("session_expired", "the session has ended", "sign in again")
        return self._session(row.user_id, row.family, successor)

    def shorten(self, conn: Connection) -> None:
        """At the start: a session of before ends no later than one that was used now."""
        latest = self._expiry()
        for table in (schema.sessions, schema.refresh_tokens):
            conn.execute(table.update().where(table.c.expires_at > latest).values(expires_at=latest))

    async def logout(self, token: str) -> None:
        """Ends the session: its refresh tokens and, with them, its access tokens."""
        t, s, u = schema.refresh_tokens, schema.sessions, schema.users
        mac = self._context.keys.vault.mac(_REFRESH, token)

        def tx(conn: Connection) -> str | None:
            row = conn.execute(sa.select(t).where(t.c.mac == mac)).first()
            if row is None:
                return None
            conn.execute(s.delete().where(s.c.id == row.family))
            rights_changed(self._context, conn, row.user_id)
            email = conn.execute(sa.select(u.c.email).where(u.c.id == row.user_id)).scalar_one()
            record(self._context, conn, Principal(email, row.user_id), "auth.logout", email, session=row.family)
            return str(row.user_id)

        user_id = await self._context.write(tx)
        if user_id is not None:
            self._watchers.changed(user_id)

    def _keep_refresh(self, conn: Connection, token: str, family: str, user_id: str) -> None:
        conn.execute(
            schema.refresh_tokens.insert().values(
                mac=self._context.keys.vault.mac(_REFRESH, token),
                family=family,
                user_id=user_id,
                expires_at=self._expiry(),
            )
        )

    def _expiry(self) -> dt.datetime:
        return self._context.now() + dt.timedelta(seconds=self._context.timing.refresh_token)

    def _session(self, user_id: str, session: str, refresh: str) -> accounts.Session:
        lasts = self._context.timing.access_token
        claims = _Claims(sub=user_id, sid=session, exp=self._context.now().timestamp() + lasts, iss="shadowmesh")
        return accounts.Session(
            access_token=self._sign(claims), expires_in=int(lasts), refresh_token=refresh, user=user_id, session=session
        )

    def _sign(self, claims: _Claims) -> str:
        parts = _b64(b'{"alg":"EdDSA","typ":"JWT"}') + b"." + _b64(msgspec.json.encode(claims))
        return (parts + b"." + _b64(self._context.keys.sessions.sign_raw(parts))).decode()

    async def principal(self, text: str) -> Principal | None:
        """Who presents this access token, None if it isn't valid, or no longer."""
        try:
            parts, _, signature = text.encode("ascii").rpartition(b".")
            claims = from_json(_unb64(parts.split(b".")[1]), _Claims)
            good = self._context.keys.sessions.verify_raw(parts, _unb64(signature))
        except (ValueError, IndexError, binascii.Error):
            return None
        now = self._context.now()
        if not good or claims.exp <= now.timestamp() or claims.iss != "shadowmesh":
            return None
        u = schema.users
        lives = session_lives(claims.sub, claims.sid, now)

        def tx(conn: Connection) -> Row[Any] | None:
            required = required_roles(self._context, conn)
            missing = lacks_second_factor(required) if required else sa.false()
            query = sa.select(u, missing.label("enrolling")).where(u.c.id == claims.sub, u.c.disabled.is_(False), lives)
            return conn.execute(query).first()

        row = await self._context.read(tx)
        if row is None:
            return None
        self._used.add(claims.sid, now)
        expires = dt.datetime.fromtimestamp(claims.exp, dt.UTC)
        return Principal(
            row.email,
            row.id,
            row.email,
            row.admin,
            enrolling=row.enrolling,
            credential=claims.sid,
            expires=expires,
            creates=self._context.settings.everybody_creates,
        )


def _kept_out(who: Principal) -> bool:
    """Whether what they showed is an API key that isn't for such things."""
    return who.limited and not who.read_only


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
