"""One-time codes of people: those of an authenticator app (RFC 6238, six digits, 30 s), and recovery codes in their place.

A code is used once: an app's code and all before it are refused afterwards, a recovery code is deleted. Guesses are limited by
whom they are at: who gets that far knows the password. So from wherever they come all together have ten, then one a minute,
and those who signed in before, from the same device or source, have as many of their own.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.refusals import conflict, not_allowed
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.twofactor.totp import TOTP

ISSUER = "ShadowMesh"
STEP = 30  # seconds
RECOVERY_CODES = 10
_DRIFT = 1  # steps by which a clock may be off, either way
_RECOVERY = "recovery code"  # the label of its keyed hash


class OneTimeCodes:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._guesses = context.limits.limiter("one-time codes", 10, 60.0)

    async def allow(self, user_id: str, *, known: bool) -> None:
        """Counts a guess; `right` takes it back. Raises TooMany."""
        await self._guesses.take(f"{known} {user_id}", self._context.now().timestamp())

    async def right(self, user_id: str, *, known: bool) -> None:
        await self._guesses.give_back(f"{known} {user_id}")

    def require(self, conn: Connection, who: Principal, user_id: str, code: str | None) -> None:
        """Uses the code up, if this user has a second factor. The caller holds the user's row.

        Raises ShadowMeshError: code_required, bad_code.
        """
        factor = _factor(conn, user_id)
        if factor is None or factor.confirmed_at is None:
            return
        if code is None:
            raise not_allowed("code_required", "this account asks for a code, too", "give it with --code (code)")
        self._use(conn, who, factor, code)

    def use(self, conn: Connection, who: Principal, user_id: str, code: str) -> None:
        """As `require`. Raises ShadowMeshError: no_second_factor, bad_code."""
        factor = _factor(conn, user_id)
        if factor is None or factor.confirmed_at is None:
            raise no_second_factor()
        self._use(conn, who, factor, code)

    def confirm(self, conn: Connection, user_id: str, code: str) -> Sequence[str]:
        """The first code: from now on they are asked for. Returns the recovery codes.

        Raises ShadowMeshError: no_second_factor, second_factor_exists, bad_code.
        """
        t, factor = schema.second_factors, _factor(conn, user_id)
        if factor is None:
            raise no_second_factor()
        if factor.confirmed_at is not None:
            raise second_factor_exists()
        step = self._step_of(factor, code)
        if step is None:
            raise _bad_code()
        values = {"confirmed_at": self._context.now(), "last_step": step}
        conn.execute(t.update().where(t.c.user_id == user_id).values(**values))
        return self.new_recovery_codes(conn, user_id)

    def begin(self, conn: Connection, user_id: str, email: str) -> tuple[str, str]:
        """A new secret, not yet confirmed, in place of an earlier one that isn't either: in base32, and as a URI for apps.

        Raises ShadowMeshError(second_factor_exists).
        """
        t, factor, secret = schema.second_factors, _factor(conn, user_id), Secret(os.urandom(20))
        if factor is not None and factor.confirmed_at is not None:
            raise second_factor_exists()
        conn.execute(t.delete().where(t.c.user_id == user_id))
        sealed = self._context.keys.vault.encrypt(secret, _label(user_id))
        conn.execute(t.insert().values(user_id=user_id, sealed_secret=sealed, created_at=self._context.now()))
        return base64.b32encode(secret.reveal()).decode(), _totp(secret).get_provisioning_uri(email, ISSUER)

    def new_recovery_codes(self, conn: Connection, user_id: str) -> Sequence[str]:
        """In place of those of before."""
        t = schema.recovery_codes
        codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
        conn.execute(t.delete().where(t.c.user_id == user_id))
        conn.execute(t.insert(), [{"mac": self._mac(user_id, code), "user_id": user_id} for code in codes])
        return codes

    def _use(self, conn: Connection, who: Principal, factor: Row[Any], code: str) -> None:
        t, r = schema.second_factors, schema.recovery_codes
        step = self._step_of(factor, code)
        if step is not None:
            conn.execute(t.update().where(t.c.user_id == factor.user_id).values(last_step=step))
            return
        mac = self._mac(factor.user_id, code)
        if conn.execute(r.delete().where(r.c.mac == mac, r.c.user_id == factor.user_id)).rowcount == 0:
            raise _bad_code()
        left = recovery_codes_left(conn, factor.user_id)
        record(self._context, conn, who, "mfa.recovery-code-used", who.name, id=factor.user_id, left=left)

    def _step_of(self, factor: Row[Any], code: str) -> int | None:
        """Which step of time this is the code of, if it is one and wasn't used, nor a later one."""
        plain = _plain(code)
        if re.fullmatch("[0-9]{6}", plain) is None:
            return None
        totp = _totp(self._context.keys.vault.decrypt(factor.sealed_secret, _label(factor.user_id)))
        now = int(self._context.now().timestamp()) // STEP
        for step in range(now - _DRIFT, now + _DRIFT + 1):
            fresh = factor.last_step is None or step > factor.last_step
            if fresh and hmac.compare_digest(totp.generate(step * STEP), plain.encode()):
                return step
        return None

    def _mac(self, user_id: str, code: str) -> str:
        return self._context.keys.vault.mac(_RECOVERY, f"{user_id} {_plain(code)}")


def recovery_codes_left(conn: Connection, user_id: str) -> int:
    r = schema.recovery_codes
    return int(conn.execute(sa.select(sa.func.count()).where(r.c.user_id == user_id)).scalar_one())


def _factor(conn: Connection, user_id: str) -> Row[Any] | None:
    t = schema.second_factors
    return conn.execute(sa.select(t).where(t.c.user_id == user_id)).first()


def _totp(secret: Secret) -> TOTP:
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.twofactor.totp import TOTP

    return TOTP(secret.reveal(), 6, SHA1(), STEP)  # noqa: S303 - what apps take


def _recovery_code() -> str:
    """As `abcd-efgh-ijkl`: 60 bits."""
    text = base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
    return "-".join(text[n : n + 4] for n in range(0, 12, 4))


def _plain(code: str) -> str:
    """As people type it: with spaces, dashes, capitals."""
    return re.sub(r"[\s-]", "", code).lower()


def _label(user_id: str) -> str:
    return f"second factor {user_id}"


def _bad_code() -> ShadowMeshError:
    return not_allowed("bad_code", "the code is wrong, or was used before", "give the one that the app shows now")


def no_second_factor() -> ShadowMeshError:
    return conflict("no_second_factor", "there is no second factor", "set one up with `shadowmesh user mfa enrol`")


def second_factor_exists() -> ShadowMeshError:
    return conflict(
        "second_factor_exists", "there is a second factor already", "end it first with `shadowmesh user mfa disable`"
    )
