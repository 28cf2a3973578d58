"""Sessions of people who signed in with a password: access tokens (EdDSA JWT of minutes) and refresh tokens (once each)."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
import secrets
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM, Principal, session_lives
from shadowmesh.controller.errors import not_allowed, usage
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.limits import Guesses, Limiter, Recent
from shadowmesh.controller.service.passwords import PasswordWorker, hash_password, nobodys_hash, verify_password
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.codec import from_json

_DEVICE, _HOME = "device that signed in", "source that signed in"  # labels of keyed hashes
_REFRESH, _SUCCESSOR = "refresh token", "refresh token's successor"


class _Claims(msgspec.Struct):
    sub: str
    sid: str  # the session: the family of its refresh tokens
    exp: float
    iss: str


class Sessions:
    def __init__(self, core: Core, watchers: Watchers) -> None:
        self._core = core
        self._watchers = watchers
        self._guesses = Guesses(source=Limiter(10, 6.0), target=Limiter(20, 15.0), reserved=Limiter(3, 200.0))
        self._by_device = Limiter(10, 6.0)
        self._at_home = Recent(10_000)
        self._passwords = PasswordWorker()

    def close(self) -> None:
        self._passwords.close()

    async def login(self, wish: api.Login, source: str) -> api.Session:
        """Raises ShadowMeshError: bad_credentials, password_change_required, rate_limited."""
        t, u = schema.refresh_tokens, schema.users
        row = await self._core.read(lambda conn: conn.execute(sa.select(u).where(u.c.email == wish.email)).first())
        known = self._allow(wish, source, row)
        lane = f"known {wish.email}" if known else source
        stored = nobodys_hash() if row is None else row.password_hash
        good = await self._passwords.run(lane, partial(verify_password, stored, wish.password), known=known)
        if row is None or not good or row.disabled:
            raise not_allowed("bad_credentials", "the address or the password is wrong", "check both")
        self._guesses.right(source)
        if row.must_change and wish.new_password is None:
            raise not_allowed(
                "password_change_required", "this password was for one use", "give a new one with it (new_password)"
            )
        changed = None
        if wish.new_password is not None:
            if wish.new_password == wish.password:
                raise usage("same_password", "the new password is the old one", "choose another")
            changed = await self._passwords.run(lane, partial(hash_password, wish.new_password), known=known)
        refresh, session = secrets.token_urlsafe(32), secrets.token_hex(8)

        def tx(conn: Connection) -> None:
            who = Principal(row.email, row.id, row.email, row.admin)
            now = conn.execute(sa.select(u).where(u.c.id == row.id).with_for_update()).one()
            if now.password_hash != row.password_hash or now.disabled:  # a reset was faster
                raise not_allowed("bad_credentials", "the address or the password is wrong", "check both")
            if changed is not None:
                conn.execute(u.update().where(u.c.id == row.id).values(password_hash=changed, must_change=False))
                conn.execute(t.delete().where(t.c.user_id == row.id))  # who knew the old one is out
                rights_changed(self._core, conn, row.id)
                more = difference(now, {"must_change": False})
                record(self._core, conn, who, "user.password", row.email, id=row.id, **more)
            self._keep_refresh(conn, refresh, session, row.id)
            record(self._core, conn, who, "auth.login", row.email, source=source, session=session)

        await self._core.write(tx)
        if changed is not None:
            self._watchers.changed(row.id)
        stands = stored if changed is None else changed
        self._at_home.add(self._home(source, wish.email, stands))
        token = self._device_token(secrets.token_urlsafe(16), wish.email, stands)
        return self._session(row.id, session, refresh).model_copy(update={"device_token": token})

    def _allow(self, wish: api.Login, source: str, user: Row[Any] | None) -> bool:
        """Counts an attempt; whether it is of one who signed in before. Raises TooMany.

        Who did with the password of now, from this device or this source, has attempts of its own that no stranger uses up.
        """
        now = self._core.now().timestamp()
        if user is not None:
            shown = wish.device_token or ""
            device = shown.partition(".")[0]
            token = self._device_token(device, wish.email, user.password_hash)
            if hmac.compare_digest(shown.encode(), token.encode()) and self._by_device.allows(device, now):
                return True
            home = self._home(source, wish.email, user.password_hash)
            if home in self._at_home and self._by_device.allows(home, now):
                return True
        self._guesses.take(source, wish.email, now)
        return False

    def _device_token(self, device: str, email: str, password_hash: str) -> str:
        """Proves that a device signed in as this user with the password that stands; good for nothing else."""
        return f"{device}.{self._core.keys.vault.mac(_DEVICE, f'{device} {email} {password_hash}')}"

    def _home(self, source: str, email: str, password_hash: str) -> str:
        """What is remembered of a source from which this user signed in with the password that stands."""
        return self._core.keys.vault.mac(_HOME, f"{source} {email} {password_hash}")

    async def refresh(self, token: str) -> api.Session:
        """A new session; the refresh token is used up.

        A short while longer it gives the same successor again: its answer may have been lost, or two commands of one person had
        it at the same moment. One used later was stolen: then all of its family end.
        """
        t, u, vault = schema.refresh_tokens, schema.users, self._core.keys.vault
        # Derived, so that it can be given again although only its hash is kept.
        mac, successor = vault.mac(_REFRESH, token), vault.mac(_SUCCESSOR, token)
        grace = dt.timedelta(seconds=self._core.timing.refresh_grace)

        def tx(conn: Connection) -> tuple[Row[Any] | None, bool]:
            now = self._core.now()
            row = conn.execute(sa.select(t).where(t.c.mac == mac).with_for_update()).first()
            if row is None or row.expires_at <= now:
                return None, False
            # Held until the end: a password reset that comes meanwhile finds the new token, or this finds none.
            user = conn.execute(sa.select(u).where(u.c.id == row.user_id).with_for_update()).one()
            if row.used_at is not None and now - row.used_at > grace:
                conn.execute(t.delete().where(t.c.family == row.family))
                rights_changed(self._core, conn, row.user_id)
                record(self._core, conn, SYSTEM, "auth.refresh-reused", user.email, id=row.user_id, session=row.family)
                return row, False
            if user.disabled:
                return row, False
            if row.used_at is None:
                conn.execute(t.update().where(t.c.mac == mac).values(used_at=now))
                self._keep_refresh(conn, successor, row.family, row.user_id)
            return row, True

        row, good = await self._core.write(tx)
        if row is not None and not good:
            self._watchers.changed(row.user_id)
        if row is None or not good:
            raise not_allowed("session_expired", "the session has ended", "sign in again")
        return self._session(row.user_id, row.family, successor)

    async def logout(self, token: str) -> None:
        """Ends the session: its refresh tokens and, with them, its access tokens."""
        t, u, mac = schema.refresh_tokens, schema.users, self._core.keys.vault.mac(_REFRESH, token)

        def tx(conn: Connection) -> str | None:
            row = conn.execute(sa.select(t).where(t.c.mac == mac)).first()
            if row is None:
                return None
            conn.execute(t.delete().where(t.c.family == row.family))
            rights_changed(self._core, conn, row.user_id)
            email = conn.execute(sa.select(u.c.email).where(u.c.id == row.user_id)).scalar_one()
            record(self._core, conn, Principal(email, row.user_id), "auth.logout", email, session=row.family)
            return str(row.user_id)

        user_id = await self._core.write(tx)
        if user_id is not None:
            self._watchers.changed(user_id)

    def _keep_refresh(self, conn: Connection, token: str, family: str, user_id: str) -> None:
        conn.execute(
            schema.refresh_tokens.insert().values(
                mac=self._core.keys.vault.mac(_REFRESH, token),
                family=family,
                user_id=user_id,
                expires_at=self._core.now() + dt.timedelta(seconds=self._core.timing.refresh_token),
            )
        )

    def _session(self, user_id: str, session: str, refresh: str) -> api.Session:
        lasts = self._core.timing.access_token
        claims = _Claims(sub=user_id, sid=session, exp=self._core.now().timestamp() + lasts, iss="shadowmesh")
        return api.Session(access_token=self._sign(claims), expires_in=int(lasts), refresh_token=refresh, user=user_id)

    def _sign(self, claims: _Claims) -> str:
        parts = _b64(b'{"alg":"EdDSA","typ":"JWT"}') + b"." + _b64(msgspec.json.encode(claims))
        return (parts + b"." + _b64(self._core.keys.sessions.sign_raw(parts))).decode()

    async def principal(self, text: str) -> Principal | None:
        """Who presents this access token, None if it isn't valid, or no longer."""
        try:
            parts, _, signature = text.encode("ascii").rpartition(b".")
            claims = from_json(_unb64(parts.split(b".")[1]), _Claims)
            good = self._core.keys.sessions.verify_raw(parts, _unb64(signature))
        except (ValueError, IndexError, binascii.Error):
            return None
        now = self._core.now()
        if not good or claims.exp <= now.timestamp() or claims.iss != "shadowmesh":
            return None
        u = schema.users
        lives = session_lives(claims.sub, claims.sid, now)
        query = sa.select(u).where(u.c.id == claims.sub, u.c.disabled.is_(False), lives)
        row = await self._core.read(lambda conn: conn.execute(query).first())
        if row is None:
            return None
        expires = dt.datetime.fromtimestamp(claims.exp, dt.UTC)
        return Principal(row.email, row.id, row.email, row.admin, credential=claims.sid, expires=expires)


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
