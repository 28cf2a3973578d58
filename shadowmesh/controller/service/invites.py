"""Invites: made once and shown once; what is stored is their keyed hash."""

from __future__ import annotations

import builtins
import datetime as dt
import hmac
import ipaddress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    Permission,
    Principal,
    find_network,
    networks_where,
    permissions_in,
    require_signed_in,
)
from shadowmesh.controller.refusals import conflict, not_allowed, not_found, usage
from shadowmesh.controller.service.addresspool import address_taken, first, last
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model import api
from shadowmesh.model.ids import InviteID, new_id
from shadowmesh.model.invite import Invite, new_invite_secret, new_short_code
from shadowmesh.model.keys import Secret

_NEEDED = (Permission.NETWORK_INVITE, Permission.CLIENT_REGISTER)  # with the latter alone: for oneself
_OWN_LIFE = 24 * 3600
_STANDING_USES = 1_000_000
SECRET, CODE = "invite secret", "invite code"  # labels of their keyed hashes


def normal_code(code: str) -> str:
    return code.strip().lower()


class Invites:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def create(
        self, who: Principal, name: str, wish: api.InviteCreate, once: IdempotentRequest | None = None
    ) -> api.InviteCreated:
        context = self._context
        if wish.uses > 1 and (wish.ip is not None or wish.client_name is not None):
            raise usage("one_use_only", "an invite with an address or a client's name is for one use", "leave --uses 1")

        def tx(conn: Connection) -> api.InviteCreated:
            require_signed_in(conn, who, context.now())
            network = find_network(conn, who, name, *_NEEDED, lock=True)
            if once and (earlier := once.found(context, conn, who, api.InviteCreated)):
                return earlier
            if Permission.NETWORK_INVITE not in permissions_in(conn, who, network.ref):
                _check_own(wish)
            _check_wishes(conn, network, wish)
            now, secret, code = context.now(), new_invite_secret(), new_short_code(network.name)
            invite_id = InviteID(new_id("inv"))
            conn.execute(
                schema.invites.insert().values(
                    id=invite_id,
                    network_ref=network.ref,
                    secret_mac=context.keys.vault.mac(SECRET, secret),
                    code_mac=context.keys.vault.mac(CODE, code),
                    uses=wish.uses,
                    uses_left=wish.uses,
                    expires_at=now + dt.timedelta(seconds=wish.expires_in),
                    created_at=now,
                    created_by=who.name,
                    owner_id=who.user_id,
                    made_by=who.key,
                    client_name=wish.client_name,
                    ip=None if wish.ip is None else int(wish.ip),
                    tags=wish.tags,
                    ephemeral=wish.ephemeral,
                    idle=wish.idle,
                )
            )
            made = wish.model_dump(mode="json", exclude_none=True)
            record(context, conn, who, "invite.create", network.name, id=invite_id, after=made)
            text = _encoded(context, invite_id, secret)
            row = conn.execute(sa.select(schema.invites).where(schema.invites.c.id == invite_id)).one()
            shown = _view(row, network.name, now)
            answer = api.InviteCreated(**shown.model_dump(), invite=text, code=code)
            if once:
                once.keep(context, conn, who, answer)
            return answer

        return await context.write(tx)

    async def list(self, who: Principal, name: str, after: str | None, limit: int) -> api.Page[api.Invite]:
        """By id; without the invites themselves."""
        t = schema.invites

        def tx(conn: Connection) -> api.Page[api.Invite]:
            network = find_network(conn, who, name, *_NEEDED)
            query = (
                sa.select(t)
                .where(t.c.network_ref == network.ref, _theirs(conn, who, network))
                .order_by(t.c.id)
                .limit(limit + 1)
            )
            if after is not None:
                query = query.where(t.c.id > after)
            rows, now = conn.execute(query).all(), self._context.now()
            more = rows[limit - 1].id if len(rows) > limit else None
            return api.Page(items=[_view(row, network.name, now) for row in rows[:limit]], next=more)

        return await self._context.read(tx)

    async def revoke(self, who: Principal, name: str, invite_id: str) -> None:
        t = schema.invites

        def tx(conn: Connection) -> None:
            network = find_network(conn, who, name, *_NEEDED)
            this = sa.and_(t.c.id == invite_id, t.c.network_ref == network.ref, _theirs(conn, who, network))
            row = conn.execute(sa.select(t).where(this).with_for_update()).first()
            if row is None:
                raise not_found(
                    "invite_unknown",
                    f"{network.name} has no invite {invite_id[:60]!r}",
                    f"`shadowmesh network invites {network.name}` names them",
                )
            values = {"revoked_at": self._context.now()}
            conn.execute(t.update().where(t.c.id == row.id).values(**values))
            record(self._context, conn, who, "invite.revoke", network.name, id=row.id, **difference(row, values))

        await self._context.write(tx)

    async def code(self, who: Principal, name: str) -> api.InvitationCode:
        """The network's own, once more; the audit log says who saw it. Raises ShadowMeshError: network_unknown, not_allowed, code_unknown."""

        def tx(conn: Connection) -> api.InvitationCode:
            network = find_network(conn, who, name, Permission.NETWORK_INVITE)
            found = standing_invites(conn, network.ref)
            if not found:
                raise not_found(
                    "code_unknown",
                    f"{network.name} has no invitation code: it was revoked, or who made it may invite no more",
                    f"`shadowmesh network code {network.name} --regenerate` makes one",
                )
            code = self._context.keys.vault.decrypt(found[0].sealed_code, _label(found[0].id)).reveal().decode()
            record(self._context, conn, who, "network.show-code", network.name, id=network.ref, invite=found[0].id)
            return _code_view(found[0], network, code, self._context.now())

        return await self._context.write(tx)

    async def regenerate_code(self, who: Principal, name: str) -> api.InvitationCode:
        """Another one in its place: the one of before is revoked."""
        t, context = schema.invites, self._context

        def tx(conn: Connection) -> api.InvitationCode:
            require_signed_in(conn, who, context.now())
            network = find_network(conn, who, name, Permission.NETWORK_INVITE, lock=True)
            old = [row.id for row in standing_invites(conn, network.ref)]
            conn.execute(t.update().where(t.c.id.in_(old)).values(revoked_at=context.now()))
            invite_id, code = add_standing(context, conn, who, network.ref, network.name)
            more = {"before": {"invites": old}, "after": {"invites": [invite_id]}}
            record(context, conn, who, "network.regenerate-code", network.name, id=network.ref, **more)
            row = conn.execute(sa.select(t).where(t.c.id == invite_id)).one()
            return _code_view(row, network, code, context.now())

        return await context.write(tx)


def add_standing(
    context: ServiceContext, conn: Connection, who: Principal, ref: str, network_name: str
) -> tuple[InviteID, str]:
    """The invite that a network has from its birth, and its code: for a million machines and ten years, or until revoked.

    It is redeemed by its code alone; nobody gets to know its secret.
    """
    now, code, invite_id = context.now(), new_short_code(network_name), InviteID(new_id("inv"))
    conn.execute(
        schema.invites.insert().values(
            id=invite_id,
            network_ref=ref,
            secret_mac=context.keys.vault.mac(SECRET, new_invite_secret()),
            code_mac=context.keys.vault.mac(CODE, code),
            sealed_code=context.keys.vault.encrypt(Secret(code.encode()), _label(invite_id)),
            uses=_STANDING_USES,
            uses_left=_STANDING_USES,
            expires_at=now + dt.timedelta(seconds=api.MAX_SECONDS),
            created_at=now,
            created_by=who.name,
            owner_id=who.user_id,
            made_by=who.key,
            tags=[],
            ephemeral=False,
            idle=0,
        )
    )
    return invite_id, code


def standing_invites(conn: Connection, ref: str) -> list[Row[Any]]:
    """The network's own that can still be redeemed or ran out, the newest first: not those that were revoked."""
    t = schema.invites
    theirs = sa.and_(t.c.network_ref == ref, t.c.sealed_code.is_not(None), t.c.revoked_at.is_(None))
    return list(conn.execute(sa.select(t).where(theirs).order_by(t.c.created_at.desc(), t.c.id)))


def add_for_one(
    context: ServiceContext, conn: Connection, who: Principal, network: Row[Any], expires_at: dt.datetime
) -> tuple[Row[Any], str]:
    """An invite whose one use a client that is registered at the same time has already; and its text."""
    t, secret, invite_id = schema.invites, new_invite_secret(), InviteID(new_id("inv"))
    made = t.insert().values(
        id=invite_id,
        network_ref=network.ref,
        secret_mac=context.keys.vault.mac(SECRET, secret),
        code_mac=context.keys.vault.mac(CODE, new_short_code(network.name)),
        uses=1,
        uses_left=0,
        expires_at=expires_at,
        created_at=context.now(),
        created_by=who.name,
        owner_id=who.user_id,
        made_by=who.key,
        tags=[],
        ephemeral=False,
        idle=0,
    )
    return conn.execute(made.returning(t)).one(), _encoded(context, invite_id, secret)


def _encoded(context: ServiceContext, invite_id: InviteID, secret: str) -> str:
    return Invite(
        urls=context.settings.public_urls,
        fingerprint=context.keys.identity.public.fingerprint,
        invite_id=invite_id,
        secret=secret,
    ).encode()


def _label(invite_id: str) -> str:
    """Under what a standing invite's code is encrypted in the database."""
    return f"invitation code {invite_id}"


def _check_own(wish: api.InviteCreate) -> None:
    """Raises ShadowMeshError(not_allowed) unless it only brings in one machine of one's own."""
    plain = wish.uses == 1 and wish.ip is None and not wish.tags and wish.expires_in <= _OWN_LIFE
    if not plain:
        raise not_allowed(
            "not_allowed",
            f"without {Permission.NETWORK_INVITE} an invite is for one machine of your own, with no address or tags, for a day",
            "leave these out, or ask an owner",
        )


def _theirs(conn: Connection, who: Principal, network: Row[Any]) -> sa.ColumnElement[bool]:
    """A condition on `invites`: those that `who` may see and revoke, all or their own."""
    if Permission.NETWORK_INVITE in permissions_in(conn, who, network.ref):
        return sa.true()
    return schema.invites.c.owner_id == who.user_id


def revoke_invites(
    context: ServiceContext, conn: Connection, user_id: str, ref: str | None = None, *, keep: str | None = None
) -> builtins.list[str]:
    """Who may no longer invite leaves no open invite behind: in this network, or in all. The ids of those that ended.

    `keep`: an address; where its roles still allow inviting they stay.
    """
    t = schema.invites
    theirs = sa.and_(t.c.owner_id == user_id, t.c.revoked_at.is_(None), t.c.uses_left > 0)
    if ref is not None:
        theirs = sa.and_(theirs, t.c.network_ref == ref)
    if keep is not None:
        theirs = sa.and_(theirs, t.c.network_ref.not_in(networks_where(conn, keep, Permission.NETWORK_INVITE)))
    return sorted(conn.execute(t.update().where(theirs).values(revoked_at=context.now()).returning(t.c.id)).scalars())


def _check_wishes(conn: Connection, network: Row[Any], wish: api.InviteCreate) -> None:
    """What couldn't be fulfilled later is refused now."""
    c, a = schema.clients, schema.addresses
    if wish.ip is not None:
        subnet = ipaddress.IPv4Network(network.subnet)
        if not first(subnet) <= int(wish.ip) <= last(subnet):
            raise conflict(
                "address_outside", f"{wish.ip} is not an address for clients of {subnet}", "choose one inside"
            )
        query = sa.select(a.c.client_id).where(
            a.c.network_ref == network.ref, a.c.ip == int(wish.ip), a.c.client_id.is_not(None)
        )
        if conn.execute(query).first() is not None:
            raise address_taken(wish.ip)
    if wish.client_name is not None:
        taken = sa.select(c.c.id).where(c.c.network_ref == network.ref, c.c.name == wish.client_name, schema.LIVING)
        if conn.execute(taken).first() is not None:
            raise name_taken(wish.client_name, network.name)


def name_taken(name: str, network: str) -> Exception:
    return conflict("name_taken", f"{network} has a client {name} already", "choose another name")


def _state(row: Row[Any], now: dt.datetime) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.uses_left == 0:
        return "used"
    return "expired" if row.expires_at <= now else "open"


def _view(row: Row[Any], network: str, now: dt.datetime) -> api.Invite:
    return api.Invite(
        id=row.id,
        network=network,
        uses=row.uses,
        uses_left=row.uses_left,
        state=_state(row, now),  # type: ignore[arg-type]
        expires_at=row.expires_at,
        created_at=row.created_at,
        created_by=row.created_by,
        client_name=row.client_name,
        ip=None if row.ip is None else str(ipaddress.IPv4Address(row.ip)),
        tags=row.tags,
        ephemeral=row.ephemeral,
        standing=row.sealed_code is not None,
    )


def _code_view(row: Row[Any], network: Row[Any], code: str, now: dt.datetime) -> api.InvitationCode:
    return api.InvitationCode(
        invite_id=row.id,
        network=network.name,
        invitation_code=code,
        state=_state(row, now),  # type: ignore[arg-type]
        expires_at=row.expires_at,
        created_at=row.created_at,
        created_by=row.created_by,
        approval=network.approval or network.code_approval,
    )


INVALID = "invite_invalid"


def invalid() -> Exception:
    """One error for an unknown invite and for a wrong secret: who guesses learns nothing."""
    return not_allowed(INVALID, "this invite is not valid", "ask for a new one")


@prepared
def _use(invite_id: str, now: dt.datetime) -> sa.Update:
    t = schema.invites
    good = sa.and_(t.c.id == invite_id, t.c.uses_left > 0, t.c.expires_at > now, t.c.revoked_at.is_(None))
    return t.update().where(good).values(uses_left=t.c.uses_left - 1)


@prepared
def _by_id(invite_id: str) -> sa.Select[Any]:
    return sa.select(schema.invites).where(schema.invites.c.id == invite_id)


@prepared
def _by_code(mac: str) -> sa.Select[Any]:
    return sa.select(schema.invites).where(schema.invites.c.code_mac == mac)


def by_secret(context: ServiceContext, conn: Connection, invite_id: str, secret: str) -> Row[Any]:
    """Raises ShadowMeshError(invite_invalid)."""
    mac = context.keys.vault.mac(SECRET, secret)
    row = conn.execute(*_by_id(invite_id)).first()
    if row is None or not hmac.compare_digest(mac, row.secret_mac):
        raise invalid()
    return row


def use(conn: Connection, row: Row[Any], now: dt.datetime) -> None:
    """Takes one use, if there is one: guarded by the database. Raises ShadowMeshError that says why not."""
    if conn.execute(*_use(row.id, now)).rowcount == 0:
        check_open(row, now)
        raise _used_up()


def by_code(context: ServiceContext, conn: Connection, code: str) -> Row[Any]:
    """Raises ShadowMeshError(invite_invalid)."""
    mac = context.keys.vault.mac(CODE, normal_code(code))
    row = conn.execute(*_by_code(mac)).first()
    if row is None:
        raise invalid()
    return row


def check_open(row: Row[Any], now: dt.datetime) -> None:
    """Raises ShadowMeshError that says why this invite can't be redeemed any more, if so."""
    if row.revoked_at is not None:
        raise not_allowed("invite_revoked", "this invite was revoked", "ask for a new one")
    if row.expires_at <= now:
        raise not_allowed(
            "invite_expired", f"this invite expired at {row.expires_at:%Y-%m-%d %H:%M} UTC", "ask for a new one"
        )
    if row.uses_left <= 0:
        raise _used_up()


def _used_up() -> Exception:
    return conflict("invite_used_up", "this invite has been used up", "ask for a new one")
