"""Invitations for people: a token that an administrator hands over, by which somebody becomes a user once, with a password of their own."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, require_admin
from shadowmesh.controller.refusals import conflict, not_allowed, not_found
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.authenticators import Attempt, LocalPasswords
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.members import set_role
from shadowmesh.controller.service.passwordrules import check_password
from shadowmesh.controller.service.sessions import Sessions
from shadowmesh.controller.service.users import add_user
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import NetworkRef, new_id

TOKEN_PREFIX = "smu_"  # noqa: S105 - how they begin
TOKEN = "user invitation"  # noqa: S105 - the label of its keyed hash


class UserInvitations:
    def __init__(self, context: ServiceContext, passwords: LocalPasswords, sessions: Sessions) -> None:
        self._context = context
        self._passwords = passwords
        self._sessions = sessions
        self._attempts = context.limits.limiter("invitations", 10, 6.0)  # of one source

    async def create(self, who: Principal, wish: accounts.UserInvite) -> accounts.UserInvitationCreated:
        """Raises ShadowMeshError: not_allowed, user_exists, network_unknown."""
        require_admin(who)
        t, u = schema.user_invitations, schema.users
        token, now = TOKEN_PREFIX + secrets.token_urlsafe(32), self._context.now()

        def tx(conn: Connection) -> accounts.UserInvitationCreated:
            if conn.execute(sa.select(u.c.id).where(u.c.email == wish.email)).first() is not None:
                raise conflict("user_exists", f"there is a user {wish.email} already", "choose another address")
            ref = None
            if wish.network is not None:
                ref = find_network(conn, who, wish.network, Permission.NETWORK_CONFIGURE).ref
            values = {
                "email": wish.email,
                "admin": wish.role == "admin",
                "network_ref": ref,
                "network_role": wish.network_role,
                "expires_at": now + dt.timedelta(seconds=wish.expires_in),
            }
            made = t.insert().values(
                id=new_id("uin"),
                mac=self._context.keys.vault.mac(TOKEN, token),
                created_at=now,
                created_by=who.name,
                owner_id=who.user_id,
                made_by=who.key,
                **values,
            )
            row = conn.execute(made.returning(t)).one()
            record(self._context, conn, who, "user.invite", wish.email, id=row.id, after=shown(values, *values))
            return accounts.UserInvitationCreated(
                **_view(row).model_dump(),
                token=token,
                url=self._context.settings.public_urls[0],
                fingerprint=self._context.keys.identity.public.fingerprint,
            )

        return await self._context.write(tx)

    async def list(self, who: Principal) -> Sequence[accounts.UserInvitation]:
        """Those that can be accepted."""
        require_admin(who)
        t = schema.user_invitations
        query = sa.select(t).where(_open(self._context.now())).order_by(t.c.email, t.c.created_at)
        return await self._context.read(lambda conn: [_view(row) for row in conn.execute(query)])

    async def revoke(self, who: Principal, invitation: str) -> None:
        require_admin(who)
        t, now = schema.user_invitations, self._context.now()

        def tx(conn: Connection) -> None:
            ended = t.update().where(t.c.id == invitation, _open(now)).values(ended_at=now)
            row = conn.execute(ended.returning(t)).first()
            if row is None:
                raise not_found(
                    "invitation_unknown",
                    f"there is no open invitation {invitation[:60]!r}",
                    "`shadowmesh user invitations` names them",
                )
            before = shown(row._mapping, "email", "admin", "network_ref", "network_role")
            record(self._context, conn, who, "user.revoke-invitation", row.email, id=row.id, before=before)

        await self._context.write(tx)

    async def accept(self, wish: accounts.InvitationAcceptance, source: str, client: str) -> accounts.Session:
        """A new user, signed in. Raises ShadowMeshError: invitation_invalid, weak_password, user_exists, rate_limited."""
        t, mac = schema.user_invitations, self._context.keys.vault.mac(TOKEN, wish.token)
        await self._attempts.take(source, self._context.now().timestamp())
        this = sa.and_(t.c.mac == mac, _open(self._context.now()))
        row = await self._context.read(lambda conn: conn.execute(sa.select(t).where(this)).first())
        if row is None:
            raise _invalid()
        await self._attempts.give_back(source)
        check_password(wish.password, row.email)
        attempt = Attempt(row.email, None, source, known=False, password="")
        stored = await self._passwords.hashed(attempt, wish.password)

        def tx(conn: Connection) -> accounts.Session:
            if conn.execute(t.update().where(this).values(ended_at=self._context.now())).rowcount == 0:
                raise _invalid()  # somebody was faster
            newcomer = Principal(row.email, email=row.email)
            user_id = add_user(
                self._context, conn, newcomer, row.email, name=wish.name, admin=row.admin, password_hash=stored
            )
            self._give_role(conn, newcomer, row, user_id)
            session = self._sessions.open(conn, user_id, source, wish.client_name or client)
            record(self._context, conn, newcomer, "auth.login", row.email, source=source, session=session.session)
            return session

        return await self._context.write(tx)

    def _give_role(self, conn: Connection, newcomer: Principal, invitation: Row[Any], user_id: str) -> None:
        """In the network of the invitation, if that is still there."""
        if invitation.network_ref is None:
            return
        network = living_network(conn, NetworkRef(invitation.network_ref), lock=True)
        if network is None:
            return
        before, after = set_role(conn, network, invitation.email, invitation.network_role)
        more = {"before": before, "after": after}
        record(self._context, conn, newcomer, "member.set", invitation.email, id=user_id, network=network.name, **more)


def _open(now: dt.datetime) -> sa.ColumnElement[bool]:
    t = schema.user_invitations
    return sa.and_(t.c.ended_at.is_(None), t.c.expires_at > now)


def _invalid() -> ShadowMeshError:
    return not_allowed(
        "invitation_invalid", "the invitation is not valid, or no longer", "ask an administrator for a new one"
    )


def _view(row: Row[Any]) -> accounts.UserInvitation:
    return accounts.UserInvitation(
        id=row.id,
        email=row.email,
        role="admin" if row.admin else "user",
        network=row.network_ref,
        network_role=row.network_role,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
    )
