"""Signing in with a password: limits on guesses, the password itself, a new one in its place."""

from __future__ import annotations

import hmac
import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.refusals import not_allowed, usage
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.authenticators import Attempt, Authenticator, LocalPasswords
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.limits import Guesses, Limiter, Recent
from shadowmesh.controller.service.onetimecodes import OneTimeCodes
from shadowmesh.controller.service.passwordrules import check_password
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.sessions import Sessions
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.userpasswords import scheme_of

_DEVICE, _HOME = "device that signed in", "source that signed in"  # labels of keyed hashes


class SigningIn:
    """`authenticator` says whether a password is right; new ones are kept by `passwords`."""

    def __init__(
        self,
        context: ServiceContext,
        watchers: Watchers,
        sessions: Sessions,
        passwords: LocalPasswords,
        authenticator: Authenticator,
        codes: OneTimeCodes,
    ) -> None:
        self._context = context
        self._watchers = watchers
        self._sessions = sessions
        self._passwords = passwords
        self._authenticator = authenticator
        self._codes = codes
        shared = context.limits.limiter
        self._guesses = Guesses(
            source=shared("sign-in source", 10, 6.0),
            target=shared("sign-in target", 20, 15.0),
            reserved=shared("sign-in reserved", 3, 200.0),
        )
        self._by_device = Limiter(10, 6.0)
        self._at_home = Recent(10_000)

    async def login(self, wish: accounts.Login, source: str, client: str = "") -> accounts.Session:
        """`client`: what they sign in with, where they don't say. Raises ShadowMeshError: bad_credentials, password_change_required, weak_password, code_required, bad_code, rate_limited."""
        try:
            return await self._login(wish, source, client)
        except ShadowMeshError as e:
            self._context.counts.failed_sign_ins.labels(e.code).inc()
            raise

    async def _login(self, wish: accounts.Login, source: str, client: str) -> accounts.Session:
        u = schema.users
        row = await self._context.read(lambda conn: conn.execute(sa.select(u).where(u.c.email == wish.email)).first())
        known = await self._allow(wish, source, row)
        attempt = Attempt(wish.email, row, source, known, wish.password)
        verified = await self._authenticator.verify(attempt)
        if row is None or verified is None or row.disabled:
            raise _bad_credentials()
        await self._guesses.right(source)
        if row.must_change and wish.new_password is None:
            raise not_allowed(
                "password_change_required", "this password was for one use", "give a new one with it (new_password)"
            )
        changed = None if wish.new_password is None else await self._changed(attempt, wish.new_password)
        if wish.code is not None:
            await self._codes.allow(row.id, known=known)

        def tx(conn: Connection) -> accounts.Session:
            who = Principal(row.email, row.id, row.email, row.admin)
            now = conn.execute(sa.select(u).where(u.c.id == row.id).with_for_update()).one()
            if now.password_hash != row.password_hash or now.disabled:  # a reset was faster
                raise _bad_credentials()
            self._codes.require(conn, who, row.id, wish.code)
            if changed is not None:
                self._change(conn, who, now, changed)
            elif verified.rehashed is not None:
                self._upgrade(conn, who, now, verified.rehashed)
            session = self._sessions.open(conn, row.id, source, wish.client_name or client)
            record(self._context, conn, who, "auth.login", row.email, source=source, session=session.session)
            return session

        session = await self._context.write(tx)
        if wish.code is not None:
            await self._codes.right(row.id, known=known)
        if changed is not None:
            self._watchers.changed(row.id)
        stands = changed or verified.rehashed or row.password_hash
        self._at_home.add(self._home(source, wish.email, stands))
        token = self._device_token(secrets.token_urlsafe(16), wish.email, stands)
        return session.model_copy(update={"device_token": token})

    async def prove(self, who: Principal, password: str, source: str) -> None:
        """Somebody who is signed in shows the password once more. Raises ShadowMeshError: wrong_password, rate_limited."""
        u, email = schema.users, who.email or ""
        row = await self._context.read(lambda conn: conn.execute(sa.select(u).where(u.c.id == who.user_id)).first())
        await self._guesses.take(source, email, self._context.now().timestamp())
        if await self._authenticator.verify(Attempt(email, row, source, known=True, password=password)) is None:
            raise not_allowed("wrong_password", "the password is wrong", "give the one you sign in with")
        await self._guesses.right(source)

    async def _changed(self, attempt: Attempt, new: str) -> str:
        """The hash of the password that takes the place of the one shown."""
        if new == attempt.password:
            raise usage("same_password", "the new password is the old one", "choose another")
        check_password(new, attempt.email)
        return await self._passwords.hashed(attempt, new)

    def _change(self, conn: Connection, who: Principal, user: Row[Any], changed: str) -> None:
        u, s = schema.users, schema.sessions
        conn.execute(u.update().where(u.c.id == user.id).values(password_hash=changed, must_change=False))
        conn.execute(s.delete().where(s.c.user_id == user.id))  # who knew the old one is out
        rights_changed(self._context, conn, user.id)
        more = difference(user, {"must_change": False})
        record(self._context, conn, who, "user.password", user.email, id=user.id, **more)

    def _upgrade(self, conn: Connection, who: Principal, user: Row[Any], rehashed: str) -> None:
        """The same password, kept as we keep it."""
        u = schema.users
        conn.execute(u.update().where(u.c.id == user.id).values(password_hash=rehashed))
        more = {"before": {"hash": scheme_of(user.password_hash)}, "after": {"hash": scheme_of(rehashed)}}
        record(self._context, conn, who, "user.password-rehashed", user.email, id=user.id, **more)

    async def _allow(self, wish: accounts.Login, source: str, user: Row[Any] | None) -> bool:
        """Counts an attempt; whether it is of one who signed in before. Raises TooMany.

        Who did with the password of now, from this device or this source, has attempts of its own that no stranger uses up.
        """
        now = self._context.now().timestamp()
        if user is not None:
            shown = wish.device_token or ""
            device = shown.partition(".")[0]
            token = self._device_token(device, wish.email, user.password_hash)
            if hmac.compare_digest(shown.encode(), token.encode()) and self._by_device.allows(device, now):
                return True
            home = self._home(source, wish.email, user.password_hash)
            if home in self._at_home and self._by_device.allows(home, now):
                return True
        await self._guesses.take(source, wish.email, now)
        return False

    def _device_token(self, device: str, email: str, password_hash: str) -> str:
        """Proves that a device signed in as this user with the password that stands; good for nothing else."""
        return f"{device}.{self._context.keys.vault.mac(_DEVICE, f'{device} {email} {password_hash}')}"

    def _home(self, source: str, email: str, password_hash: str) -> str:
        """What is remembered of a source from which this user signed in with the password that stands."""
        return self._context.keys.vault.mac(_HOME, f"{source} {email} {password_hash}")


def _bad_credentials() -> ShadowMeshError:
    return not_allowed("bad_credentials", "the address or the password is wrong", "check both")
