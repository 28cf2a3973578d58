"""A second factor for people: set up, confirmed, ended by themselves; taken away by an administrator where it is lost."""

from __future__ import annotations

from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Principal, require_admin, require_signed_in
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.onetimecodes import OneTimeCodes, no_second_factor, recovery_codes_left
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.signing_in import SigningIn
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import Transaction
from shadowmesh.model import accounts
from shadowmesh.model.ids import is_id

T = TypeVar("T")


class SecondFactors:
    """Only who signed in with a password has one, or needs one: API keys are asked for no code, and set none up."""

    def __init__(self, context: ServiceContext, watchers: Watchers, codes: OneTimeCodes, signing_in: SigningIn) -> None:
        self._context = context
        self._watchers = watchers
        self._codes = codes
        self._signing_in = signing_in

    async def show(self, who: Principal) -> accounts.SecondFactor:
        user_id, t = _signed_in(who), schema.second_factors

        def tx(conn: Connection) -> accounts.SecondFactor:
            since = conn.execute(sa.select(t.c.confirmed_at).where(t.c.user_id == user_id)).scalar()
            left = recovery_codes_left(conn, user_id)
            return accounts.SecondFactor(enabled=since is not None, since=since, recovery_codes_left=left)

        return await self._context.read(tx)

    async def enrol(self, who: Principal, wish: accounts.PasswordProof, source: str) -> accounts.SecondFactorSecret:
        """A secret for an app; no code is asked for until one of it was shown. Raises ShadowMeshError: wrong_password,
        second_factor_exists."""
        user_id = _signed_in(who)
        await self._signing_in.prove(who, wish.password, source)

        def tx(conn: Connection) -> accounts.SecondFactorSecret:
            require_signed_in(conn, who, self._context.now())
            secret, uri = self._codes.begin(conn, user_id, who.email or "")
            record(self._context, conn, who, "mfa.enrol", who.email or "", id=user_id)
            return accounts.SecondFactorSecret(secret=secret, uri=uri)

        return await self._context.write(tx)

    async def confirm(self, who: Principal, wish: accounts.CodeProof) -> accounts.RecoveryCodes:
        """Ends all other sessions: they were opened by the password alone. Raises ShadowMeshError: no_second_factor,
        second_factor_exists, bad_code, rate_limited."""
        user_id, s = _signed_in(who), schema.sessions

        def tx(conn: Connection) -> accounts.RecoveryCodes:
            require_signed_in(conn, who, self._context.now())
            codes = self._codes.confirm(conn, user_id, wish.code)
            conn.execute(s.delete().where(s.c.user_id == user_id, s.c.id != who.credential))
            rights_changed(self._context, conn, user_id)
            more = {"before": {"enabled": False}, "after": {"enabled": True}}
            record(self._context, conn, who, "mfa.enable", who.email or "", id=user_id, **more)
            return accounts.RecoveryCodes(recovery_codes=list(codes))

        answer = await self._guarded(user_id, tx)
        self._watchers.changed(user_id)
        return answer

    async def renew_recovery_codes(self, who: Principal, wish: accounts.CodeProof) -> accounts.RecoveryCodes:
        """Those of before end. Raises ShadowMeshError: no_second_factor, bad_code, rate_limited."""
        user_id = _signed_in(who)

        def tx(conn: Connection) -> accounts.RecoveryCodes:
            require_signed_in(conn, who, self._context.now())
            self._codes.use(conn, who, user_id, wish.code)
            codes = self._codes.new_recovery_codes(conn, user_id)
            record(self._context, conn, who, "mfa.recovery-codes", who.email or "", id=user_id)
            return accounts.RecoveryCodes(recovery_codes=list(codes))

        return await self._guarded(user_id, tx)

    async def disable(self, who: Principal, wish: accounts.FullProof, source: str) -> None:
        """Raises ShadowMeshError: wrong_password, no_second_factor, bad_code, rate_limited."""
        user_id = _signed_in(who)
        await self._signing_in.prove(who, wish.password, source)

        def tx(conn: Connection) -> None:
            require_signed_in(conn, who, self._context.now())
            self._codes.use(conn, who, user_id, wish.code)
            self._end(conn, who, "mfa.disable", user_id, who.email or "")

        await self._guarded(user_id, tx)
        self._watchers.changed(user_id)

    async def reset(self, who: Principal, name: str) -> None:
        """For somebody who lost theirs. Raises ShadowMeshError: user_unknown, no_second_factor."""
        require_admin(who)

        def tx(conn: Connection) -> str:
            user = find_user(conn, name)
            self._end(conn, who, "mfa.reset", user.id, user.email)
            return str(user.id)

        self._watchers.changed(await self._context.write(tx))

    def _end(self, conn: Connection, who: Principal, action: str, user_id: str, email: str) -> None:
        t, r = schema.second_factors, schema.recovery_codes
        conn.execute(r.delete().where(r.c.user_id == user_id))
        if conn.execute(t.delete().where(t.c.user_id == user_id)).rowcount == 0:
            raise no_second_factor()
        rights_changed(self._context, conn, user_id)
        record(self._context, conn, who, action, email, id=user_id, before={"enabled": True}, after={"enabled": False})

    async def _guarded(self, user_id: str, tx: Transaction[T]) -> T:
        """Runs what takes a code, as far as guesses are left."""
        await self._codes.allow(user_id, known=True)
        answer = await self._context.write(tx)
        await self._codes.right(user_id, known=True)
        return answer


def _signed_in(who: Principal) -> str:
    """The id of who signed in with a password. Raises ShadowMeshError(not_allowed)."""
    if who.user_id is None or is_id(who.credential or "", "key"):
        raise not_allowed(
            "not_allowed",
            "a second factor is of who signed in with a password",
            "sign in with `shadowmesh login --email`",
        )
    return who.user_id
