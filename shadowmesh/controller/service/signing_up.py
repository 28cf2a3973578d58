"""Sign-up, where the operator takes everybody (`controller.mode: cloud`): who asks gets a mail with an invitation.

By the mail a person shows that the address is theirs; the answer is the same whoever asks for which address.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.limits import TooMany
from shadowmesh.controller.service.user_invitations import TOKEN, TOKEN_PREFIX
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import new_id
from shadowmesh.model.text import without_tag

LIFE = dt.timedelta(hours=24)
_BY = Principal("sign-up")
_TRIES = (0.0, 10.0, 60.0)  # seconds before each
_MOST_MAILS = 1000  # at once, under way

log = structlog.get_logger("shadowmesh.controller")


class SigningUp:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        shared = context.limits.limiter
        self._of_source = shared("sign-ups", 5, 60.0)
        self._of_address = shared("sign-ups of an address", 3, 1200.0)
        self._of_all = shared("all sign-ups", 100, 1.0)
        self._mails: set[asyncio.Task[None]] = set()

    async def ask(self, wish: accounts.SignUp, source: str) -> accounts.SignUpTaken:
        """Raises ShadowMeshError: no_sign_up, address_not_taken, rate_limited."""
        settings, now = self._context.settings, self._context.now()
        if settings.mode != "cloud" or self._context.mailer is None:
            raise not_allowed(
                "no_sign_up", "this controller takes no sign-ups", "ask one of its administrators for an invitation"
            )
        domain = wish.email.rpartition("@")[2]
        if settings.sign_up_domains and domain not in settings.sign_up_domains:
            of = ", ".join(settings.sign_up_domains)
            raise not_allowed("address_not_taken", f"addresses of {domain} may not sign up here", f"use one of {of}")
        at = now.timestamp()
        await self._of_source.take(source, at)
        await self._of_address.take(without_tag(wish.email), at)
        await self._of_all.take("", at)
        if len(self._mails) >= _MOST_MAILS:
            raise TooMany(_TRIES[-1])
        task = asyncio.create_task(self._answer(wish.email, source))
        self._mails.add(task)
        task.add_done_callback(self._mails.discard)
        return accounts.SignUpTaken(email=wish.email, expires_at=now + LIFE)

    async def _invite(self, email: str, source: str) -> str | None:
        """The token of a new invitation, None if there is a user of this address."""
        token, now = TOKEN_PREFIX + secrets.token_urlsafe(32), self._context.now()
        t, u = schema.user_invitations, schema.users

        def tx(conn: Connection) -> bool:
            if conn.execute(sa.select(u.c.id).where(u.c.email == email)).first() is not None:
                return False
            earlier = sa.and_(t.c.email == email, t.c.created_by == _BY.name, t.c.ended_at.is_(None))
            conn.execute(t.update().where(earlier).values(ended_at=now))
            made = t.insert().values(
                id=new_id("uin"),
                mac=self._context.keys.vault.mac(TOKEN, token),
                email=email,
                admin=False,
                created_at=now,
                created_by=_BY.name,
                expires_at=now + LIFE,
            )
            conn.execute(made)
            record(self._context, conn, _BY, "user.sign-up", email, source=source)
            return True

        return token if await self._context.write(tx) else None

    async def close(self) -> None:
        for task in self._mails:
            task.cancel()
        await asyncio.gather(*self._mails, return_exceptions=True)

    async def _answer(self, email: str, source: str) -> None:
        """Looks who it is, and mails: who asked has been answered before, so that not even the time tells anything."""
        assert self._context.mailer is not None
        text = None
        for wait in _TRIES:
            await asyncio.sleep(wait)
            try:
                text = text or self._text(await self._invite(email, source))
                await self._context.mailer.send(email, f"Your account at {self._context.settings.public_urls[0]}", text)
            except ShadowMeshError as e:
                self._context.rare("a sign-up's mail isn't sent yet", why=e.what)
            else:
                return
        log.warning("a sign-up's mail wasn't sent; who waits for it has to ask again")

    def _text(self, token: str | None) -> str:
        url = self._context.settings.public_urls[0]
        known_by = self._context.keys.identity.public.fingerprint
        if token is None:
            return _THERE.format(url=url, known_by=known_by)
        return _WELCOME.format(url=url, token=token, known_by=known_by)


_WELCOME = """\
Somebody, you most likely, asked for an account at {url}.

This makes it, with a password of your own; it is good for 24 hours and for one use:

    shadowmesh login {url} \\
        --fingerprint {known_by} \\
        --accept-invitation {token}

If it wasn't you, there is nothing to do: without the line above no account is made.
"""
_THERE = """\
Somebody, you most likely, asked for an account at {url}. There is one with this address already:

    shadowmesh login {url} \\
        --fingerprint {known_by}

If you have lost its password, an administrator sets a new one. If it wasn't you, there is nothing to do.
"""
