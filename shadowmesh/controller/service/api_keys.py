"""API keys: made once and shown once; what is stored is their keyed hash."""

from __future__ import annotations

import builtins
import datetime as dt
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    ALL,
    Permission,
    Principal,
    find_network,
    key_lives,
    key_scopes,
    out_of_scope,
    require_admin,
    require_signed_in,
)
from shadowmesh.controller.refusals import conflict, not_found
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.lastuse import LastUses
from shadowmesh.controller.service.madewithkeys import end_made_with
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.users import find_user, first_admin
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import new_id

KEY_PREFIX = "sk_"
_KEY = "api key"  # the label of its keyed hash
MOST_KEYS = 100


def add_key(
    context: ServiceContext, conn: Connection, who: Principal, user_id: str, wish: accounts.ApiKeyCreate
) -> tuple[str, str]:
    """A new API key's id and text. One that is made with another key ends with that at the latest, and is for no more.

    Raises ShadowMeshError: not_allowed, network_unknown.
    """
    key, key_id, now = KEY_PREFIX + secrets.token_urlsafe(32), new_id("key"), context.now()
    name = wish.name or ""
    expires_at = None if wish.expires_in is None else now + dt.timedelta(seconds=wish.expires_in)
    made_by = who.key
    if made_by is not None and who.expires is not None:
        expires_at = who.expires if expires_at is None else min(expires_at, who.expires)
    values = {"name": name, "user_id": user_id, "expires_at": expires_at, **_limits(conn, who, wish)}
    conn.execute(
        schema.api_keys.insert().values(
            id=key_id, mac=context.keys.vault.mac(_KEY, key), made_by=made_by, created_at=now, **values
        )
    )
    after = shown(values, *values)
    record(context, conn, who, "api-key.create", name or key_id, id=key_id, after=after)
    return key_id, key


def _limits(conn: Connection, who: Principal, wish: accounts.ApiKeyCreate) -> dict[str, Any]:
    """What the key is for, at most what that is for by which `who` asks."""
    scopes = who.scopes if wish.scopes is None else frozenset(wish.scopes)
    if not scopes <= who.scopes:
        raise out_of_scope(scopes - who.scopes)
    networks = who.networks
    if wish.networks is not None:
        networks = frozenset(find_network(conn, who, name, Permission.NETWORK_VIEW).ref for name in wish.networks)
    return {
        "scopes": None if scopes == ALL else sorted(scopes),
        "networks": None if networks is None else sorted(networks),
        "read_only": wish.read_only,
    }


class ApiKeys:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers
        self._used = LastUses(context, schema.api_keys)

    async def principal(self, text: str) -> Principal | None:
        """Who presents this key, None if it isn't valid, or no longer."""
        return await self._principal(schema.api_keys.c.mac == self._context.keys.vault.mac(_KEY, text))

    async def principal_of(self, key_id: str) -> Principal | None:
        """Who shows the key's certificate: as `principal`."""
        return await self._principal(schema.api_keys.c.id == key_id)

    async def _principal(self, this: sa.ColumnElement[bool]) -> Principal | None:
        k, u = schema.api_keys, schema.users
        now = self._context.now()
        query = (
            sa.select(k, u.c.email, u.c.admin)
            .join(u, u.c.id == k.c.user_id)
            .where(
                this,
                key_lives(now),
                u.c.disabled.is_(False),
            )
        )
        row = await self._context.read(lambda conn: conn.execute(query).first())
        if row is None:
            return None
        self._used.add(row.id, now)
        return Principal(
            f"{row.email} by {row.name or row.id}",
            row.user_id,
            row.email,
            row.admin,
            scopes=key_scopes(row.scopes, read_only=row.read_only),
            networks=None if row.networks is None else frozenset(row.networks),
            read_only=row.read_only,
            credential=row.id,
            expires=row.expires_at,
            creates=self._context.settings.everybody_creates,
        )

    async def certificate(self, who: Principal, key_id: str, wish: accounts.CertificateRequest) -> accounts.Certificate:
        """A certificate that stands for the key (`_certified_by`). It ends with the key."""
        k, context = schema.api_keys, self._context

        def tx(conn: Connection) -> accounts.Certificate:
            now = context.now()
            require_signed_in(conn, who, now)
            this = sa.and_(k.c.id == key_id, key_lives(now), _certified_by(conn, who))
            row = conn.execute(sa.select(k).where(this)).first()
            if row is None:
                raise _unknown(key_id)
            assert context.authority is not None
            text, ends = context.authority.issue(wish.csr, f"api-key:{row.id}", now, row.expires_at)
            record(
                context,
                conn,
                who,
                "api-key.certificate",
                row.name or key_id,
                id=key_id,
                after={"until": ends.isoformat()},
            )
            return accounts.Certificate(certificate=text, expires_at=ends)

        return await context.write(tx)

    async def note_used(self) -> None:
        """Writes when keys were used since the last time."""
        await self._used.note()

    async def create(
        self, who: Principal, wish: accounts.ApiKeyCreate, once: IdempotentRequest | None = None
    ) -> accounts.ApiKeyCreated:
        """For oneself; on the controller's own host, for its first administrator. By administrators for service accounts."""

        def tx(conn: Connection) -> accounts.ApiKeyCreated:
            require_signed_in(conn, who, self._context.now())
            if once and (earlier := once.found(self._context, conn, who, accounts.ApiKeyCreated)):
                return earlier
            user_id = (who.user_id or first_admin(conn)) if wish.user is None else _service(conn, who, wish.user)
            self._check_room(conn, user_id)
            key_id, key = add_key(self._context, conn, who, user_id, wish)
            k = schema.api_keys
            shown = _key_view(conn.execute(_keys().where(k.c.id == key_id)).one())
            answer = accounts.ApiKeyCreated(**shown.model_dump(), key=key)
            if once:
                once.keep(self._context, conn, who, answer)
            return answer

        return await self._context.write(tx)

    def _check_room(self, conn: Connection, user_id: str) -> None:
        """Raises ShadowMeshError(api_keys_full). The user's row is held until the transaction ends."""
        k = schema.api_keys
        _hold_user(conn, user_id)
        alive = sa.select(sa.func.count()).where(k.c.user_id == user_id, key_lives(self._context.now()))
        if conn.execute(alive).scalar_one() >= MOST_KEYS:
            raise conflict(
                "api_keys_full", f"this user has {MOST_KEYS} API keys, as many as one may have", "revoke one"
            )

    async def list(self, who: Principal) -> Sequence[accounts.ApiKey]:
        """One's own; an administrator sees all."""
        query = _keys().where(schema.api_keys.c.revoked_at.is_(None), _theirs(who))
        rows = await self._context.read(lambda conn: conn.execute(query).all())
        return [_key_view(row, self._used.of(row.id)) for row in rows]

    async def revoke(self, who: Principal, key_id: str) -> None:
        """With all that was made with it: keys, invites, relay tokens, webhooks."""
        k = schema.api_keys

        def tx(conn: Connection) -> set[str]:
            this = sa.and_(k.c.id == key_id, k.c.revoked_at.is_(None), _theirs(who))
            owner = sa.select(k.c.user_id).where(this).scalar_subquery()
            _hold_user(conn, owner)  # one that makes a key with this one waits, and then finds it revoked
            revoked = k.update().where(this).values(revoked_at=self._context.now())
            row = conn.execute(revoked.returning(k.c.user_id, k.c.name, k.c.expires_at)).first()
            if row is None:
                raise _unknown(key_id)
            rights_changed(self._context, conn, row.user_id)
            before = shown(row._mapping, "name", "user_id", "expires_at")
            ended, others = self._revoke_made_with(conn, key_id)
            for user_id in others - {row.user_id}:
                rights_changed(self._context, conn, user_id)
            gone = {"ended": ended} | end_made_with(self._context, conn, [key_id, *ended])
            record(self._context, conn, who, "api-key.revoke", row.name or key_id, id=key_id, before=before, **gone)
            return others | {row.user_id}

        for user_id in await self._context.write(tx):
            self._watchers.changed(user_id)

    def _revoke_made_with(self, conn: Connection, key_id: str) -> tuple[builtins.list[str], set[str]]:
        """The keys that were made with this one, or with those, and had not ended: their ids, and the users' whose they were."""
        k, ended, users, makers = schema.api_keys, list[str](), set[str](), [key_id]
        while makers:
            theirs = sa.and_(k.c.made_by.in_(makers), k.c.revoked_at.is_(None))
            revoked = k.update().where(theirs).values(revoked_at=self._context.now()).returning(k.c.id, k.c.user_id)
            rows = conn.execute(revoked).all()
            makers = sorted(row.id for row in rows)
            ended += makers
            users |= {row.user_id for row in rows}
        return ended, users


def _unknown(key_id: str) -> ShadowMeshError:
    return not_found("api_key_unknown", f"there is no API key {key_id[:60]!r}", "`shadowmesh api-key list` names them")


def _theirs(who: Principal) -> sa.ColumnElement[bool]:
    """A condition on `api_keys`: all for an administrator, one's own; for a key with limits itself and those made with it."""
    k = schema.api_keys
    if who.limited and not who.read_only:
        return sa.or_(k.c.id == who.credential, k.c.made_by == who.credential)
    return sa.true() if who.everywhere else k.c.user_id == who.user_id


def _certified_by(conn: Connection, who: Principal) -> sa.ColumnElement[bool]:
    """A condition on `api_keys`: those for which `who` may have a certificate, which is as good as the key itself.

    One's own; by a key that one and those made with it, so that nothing outlives it that it didn't make. An
    administrator's own, and those of service accounts: what people do is done by themselves.
    """
    k, u = schema.api_keys, schema.users
    if who.key is not None:
        return sa.or_(k.c.id == who.key, k.c.made_by == who.key)
    own = k.c.user_id == (who.user_id or first_admin(conn))
    services = sa.exists().where(u.c.id == k.c.user_id, u.c.kind == "service")
    return sa.or_(own, services) if who.administers else own


def _service(conn: Connection, who: Principal, name: str) -> str:
    """The id of the service account of this name. Raises ShadowMeshError: not_allowed, user_unknown, not_a_service."""
    require_admin(who)
    row = find_user(conn, name)
    if row.kind != "service":
        raise conflict(
            "not_a_service", f"{row.email} is a person, who makes API keys for themselves", "name a service account"
        )
    return str(row.id)


def _hold_user(conn: Connection, user_id: str | sa.ScalarSelect[Any]) -> None:
    """Others who give or take away what is this user's wait until the transaction ends."""
    u = schema.users
    conn.execute(sa.select(u.c.id).where(u.c.id == user_id).with_for_update()).all()


def _keys() -> sa.Select[Any]:
    k, u = schema.api_keys, schema.users
    return sa.select(k, u.c.email).join(u, u.c.id == k.c.user_id).order_by(k.c.created_at)


def _key_view(row: Row[Any], used: dt.datetime | None = None) -> accounts.ApiKey:
    """`used`: when it was used since `last_used` was written."""
    return accounts.ApiKey(
        id=row.id,
        name=row.name,
        user=row.email,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used=used or row.last_used,
        scopes=row.scopes,
        networks=row.networks,
        read_only=row.read_only,
    )
