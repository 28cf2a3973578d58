"""People: users, passwords, sessions (EdDSA JWT of minutes, with refresh), API keys, members of networks."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import secrets
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.core import (
    Core,
    Once,
    Principal,
    conflict,
    find_network,
    not_allowed,
    not_found,
    record,
    require,
    require_admin,
    usage,
)
from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.codec import from_json
from shadowmesh.model.ids import new_id

KEY_PREFIX = "sk_"
_KEY, _REFRESH = "api key", "refresh token"  # labels of keyed hashes
_USED_RESOLUTION = dt.timedelta(minutes=1)


class _Claims(msgspec.Struct):
    sub: str
    exp: float
    iss: str


@cache
def _hasher() -> Any:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's recommendation


def hash_password(password: str) -> str:
    return str(_hasher().hash(password))


def _verify_password(stored: str, password: str) -> bool:
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return bool(_hasher().verify(stored, password))
    except (Argon2Error, InvalidHashError):
        return False


@cache
def _nobodys_hash() -> str:
    """Checked where there is no such user: an unknown address takes as long as a wrong password."""
    return hash_password(secrets.token_urlsafe())


def new_password() -> str:
    """To be used once: 16 characters, 95 bits."""
    alphabet = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for _ in range(16))


def add_user(core: Core, conn: Connection, who: Principal, email: str, *, admin: bool) -> tuple[str, str]:
    """The new user's id and one-time password."""
    u = schema.users
    if conn.execute(sa.select(u.c.id).where(u.c.email == email)).first() is not None:
        raise conflict("user_exists", f"there is a user {email} already", "choose another address")
    user_id, password = new_id("usr"), new_password()
    conn.execute(
        u.insert().values(
            id=user_id,
            email=email,
            password_hash=hash_password(password),
            must_change=True,
            admin=admin,
            disabled=False,
            created_at=core.now(),
        )
    )
    record(core, conn, who, "user.add", email, id=user_id, admin=admin)
    return user_id, password


def add_key(
    core: Core, conn: Connection, who: Principal, user_id: str, name: str, expires_in: int | None
) -> tuple[str, str]:
    """A new API key's id and text."""
    key, key_id, now = KEY_PREFIX + secrets.token_urlsafe(32), new_id("key"), core.now()
    conn.execute(
        schema.api_keys.insert().values(
            id=key_id,
            mac=core.keys.vault.mac(_KEY, key),
            name=name,
            user_id=user_id,
            created_at=now,
            expires_at=None if expires_in is None else now + dt.timedelta(seconds=expires_in),
        )
    )
    record(core, conn, who, "api-key.create", name or key_id, id=key_id, user=user_id)
    return key_id, key


class Accounts:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._by_source = Limiter(10, 6.0)
        self._by_email = Limiter(10, 30.0)

    # signing in

    async def login(self, wish: api.Login, source: str) -> api.Session:
        """Raises ShadowMeshError: bad_credentials, password_change_required, rate_limited."""
        now = self._core.now().timestamp()
        self._by_source.take(source, now)
        self._by_email.take(wish.email, now)
        u = schema.users
        row = await self._core.read(lambda conn: conn.execute(sa.select(u).where(u.c.email == wish.email)).first())
        stored = _nobodys_hash() if row is None else row.password_hash
        good = await asyncio.to_thread(_verify_password, stored, wish.password)
        if row is None or not good or row.disabled:
            raise not_allowed("bad_credentials", "the address or the password is wrong", "check both")
        if row.must_change and wish.new_password is None:
            raise not_allowed(
                "password_change_required", "this password was for one use", "give a new one with it (new_password)"
            )
        changed = None
        if wish.new_password is not None:
            if wish.new_password == wish.password:
                raise usage("same_password", "the new password is the old one", "choose another")
            changed = await asyncio.to_thread(hash_password, wish.new_password)
        refresh = secrets.token_urlsafe(32)

        def tx(conn: Connection) -> None:
            who = Principal(row.email, row.id, row.admin)
            if changed is not None:
                same = sa.and_(u.c.id == row.id, u.c.password_hash == row.password_hash)
                if conn.execute(u.update().where(same).values(password_hash=changed, must_change=False)).rowcount == 0:
                    raise not_allowed("bad_credentials", "the address or the password is wrong", "check both")
                record(self._core, conn, who, "user.password", row.email, id=row.id)
            self._keep_refresh(conn, refresh, secrets.token_hex(8), row.id)
            record(self._core, conn, who, "auth.login", row.email, source=source)

        await self._core.write(tx)
        return self._session(row.id, refresh)

    async def refresh(self, token: str) -> api.Session:
        """A new session; the refresh token is used up. One used twice was stolen: then all of its family end."""
        t, u = schema.refresh_tokens, schema.users
        fresh, mac = secrets.token_urlsafe(32), self._core.keys.vault.mac(_REFRESH, token)

        def tx(conn: Connection) -> str | None:
            now = self._core.now()
            row = conn.execute(sa.select(t).where(t.c.mac == mac)).first()
            if row is None or row.expires_at <= now:
                return None
            free = sa.and_(t.c.mac == mac, t.c.used_at.is_(None))
            if conn.execute(t.update().where(free).values(used_at=now)).rowcount == 0:
                conn.execute(t.delete().where(t.c.family == row.family))
                record(self._core, conn, Principal("controller"), "auth.refresh-reused", row.user_id)
                return None
            if conn.execute(sa.select(u.c.disabled).where(u.c.id == row.user_id)).scalar_one():
                return None
            self._keep_refresh(conn, fresh, row.family, row.user_id)
            return str(row.user_id)

        user_id = await self._core.write(tx)
        if user_id is None:
            raise not_allowed("session_expired", "the session has ended", "sign in again")
        return self._session(user_id, fresh)

    async def logout(self, token: str) -> None:
        t, mac = schema.refresh_tokens, self._core.keys.vault.mac(_REFRESH, token)
        family = sa.select(t.c.family).where(t.c.mac == mac).scalar_subquery()
        await self._core.write(lambda conn: conn.execute(t.delete().where(t.c.family == family)))

    def _keep_refresh(self, conn: Connection, token: str, family: str, user_id: str) -> None:
        conn.execute(
            schema.refresh_tokens.insert().values(
                mac=self._core.keys.vault.mac(_REFRESH, token),
                family=family,
                user_id=user_id,
                expires_at=self._core.now() + dt.timedelta(seconds=self._core.timing.refresh_token),
            )
        )

    def _session(self, user_id: str, refresh: str) -> api.Session:
        lasts = self._core.timing.access_token
        claims = _Claims(sub=user_id, exp=self._core.now().timestamp() + lasts, iss="shadowmesh")
        return api.Session(access_token=self._sign(claims), expires_in=int(lasts), refresh_token=refresh, user=user_id)

    def _sign(self, claims: _Claims) -> str:
        parts = _b64(b'{"alg":"EdDSA","typ":"JWT"}') + b"." + _b64(msgspec.json.encode(claims))
        return (parts + b"." + _b64(self._core.keys.sessions.sign_raw(parts))).decode()

    # who asks

    async def principal(self, bearer: str) -> Principal:
        """Who presents this API key or access token. Raises ShadowMeshError(not_signed_in)."""
        if bearer.startswith(KEY_PREFIX):
            found = await self._by_key(bearer)
        else:
            found = await self._by_token(bearer)
        if found is None:
            raise not_allowed(
                "not_signed_in", "the token is not valid, or no longer", "sign in with `shadowmesh login`"
            )
        return found

    async def _by_key(self, text: str) -> Principal | None:
        k, u = schema.api_keys, schema.users
        now = self._core.now()
        query = (
            sa.select(k.c.id, k.c.name, k.c.last_used, u.c.email, u.c.admin, u.c.id.label("user_id"))
            .join(u, u.c.id == k.c.user_id)
            .where(
                k.c.mac == self._core.keys.vault.mac(_KEY, text),
                k.c.revoked_at.is_(None),
                sa.or_(k.c.expires_at.is_(None), k.c.expires_at > now),
                u.c.disabled.is_(False),
            )
        )
        row = await self._core.read(lambda conn: conn.execute(query).first())
        if row is None:
            return None
        if row.last_used is None or now - row.last_used > _USED_RESOLUTION:
            await self._core.write(lambda conn: conn.execute(k.update().where(k.c.id == row.id).values(last_used=now)))
        return Principal(f"{row.email} by {row.name or row.id}", row.user_id, row.admin)

    async def _by_token(self, text: str) -> Principal | None:
        try:
            parts, _, signature = text.encode("ascii").rpartition(b".")
            claims = from_json(_unb64(parts.split(b".")[1]), _Claims)
            good = self._core.keys.sessions.verify_raw(parts, _unb64(signature))
        except (ValueError, IndexError, binascii.Error):
            return None
        if not good or claims.exp <= self._core.now().timestamp() or claims.iss != "shadowmesh":
            return None
        u = schema.users
        query = sa.select(u).where(u.c.id == claims.sub, u.c.disabled.is_(False))
        row = await self._core.read(lambda conn: conn.execute(query).first())
        return None if row is None else Principal(row.email, row.id, row.admin)

    # API keys

    async def create_key(self, who: Principal, wish: api.ApiKeyCreate, once: Once | None = None) -> api.ApiKeyCreated:
        """For oneself; on the controller's own host, for its first administrator."""

        def tx(conn: Connection) -> api.ApiKeyCreated:
            if once and (earlier := once.found(self._core, conn, who, api.ApiKeyCreated)):
                return earlier
            user_id = who.user_id or _first_admin(conn)
            key_id, key = add_key(self._core, conn, who, user_id, wish.name, wish.expires_in)
            k = schema.api_keys
            shown = _key_view(conn.execute(_keys().where(k.c.id == key_id)).one())
            answer = api.ApiKeyCreated(**shown.model_dump(), key=key)
            if once:
                once.keep(self._core, conn, who, answer)
            return answer

        return await self._core.write(tx)

    async def list_keys(self, who: Principal) -> list[api.ApiKey]:
        """One's own; an administrator sees all."""
        query = _keys().where(schema.api_keys.c.revoked_at.is_(None))
        if not who.admin:
            query = query.where(schema.api_keys.c.user_id == who.user_id)
        return await self._core.read(lambda conn: [_key_view(row) for row in conn.execute(query)])

    async def revoke_key(self, who: Principal, key_id: str) -> None:
        k = schema.api_keys

        def tx(conn: Connection) -> None:
            this = sa.and_(k.c.id == key_id, k.c.revoked_at.is_(None))
            if not who.admin:
                this = sa.and_(this, k.c.user_id == who.user_id)
            if conn.execute(k.update().where(this).values(revoked_at=self._core.now())).rowcount == 0:
                raise not_found("api_key_unknown", f"there is no API key {key_id[:60]!r}", "`shadowmesh api-key list`")
            record(self._core, conn, who, "api-key.revoke", key_id)

        await self._core.write(tx)

    # users and members

    async def create_user(self, who: Principal, wish: api.UserCreate) -> api.UserCreated:
        require_admin(who)

        def tx(conn: Connection) -> api.UserCreated:
            user_id, password = add_user(self._core, conn, who, wish.email, admin=wish.admin)
            return api.UserCreated(**_user_view(_find_user(conn, user_id)).model_dump(), password=password)

        return await self._core.write(tx)

    async def list_users(self, who: Principal) -> list[api.User]:
        require_admin(who)
        query = sa.select(schema.users).order_by(schema.users.c.email)
        return await self._core.read(lambda conn: [_user_view(row) for row in conn.execute(query)])

    async def set_user(self, who: Principal, name: str, wish: api.UserPatch) -> api.User:
        require_admin(who)
        u, t = schema.users, schema.refresh_tokens
        changes = wish.model_dump(exclude_none=True)

        def tx(conn: Connection) -> api.User:
            row = _find_user(conn, name)
            if changes:
                conn.execute(u.update().where(u.c.id == row.id).values(**changes))
                if conn.execute(sa.select(u.c.id).where(u.c.admin, u.c.disabled.is_(False)).limit(1)).first() is None:
                    raise conflict("last_admin", f"{row.email} is the last administrator", "make another one first")
                if wish.disabled:
                    conn.execute(t.delete().where(t.c.user_id == row.id))
                record(self._core, conn, who, "user.set", row.email, id=row.id, **changes)
            return _user_view(_find_user(conn, row.id))

        return await self._core.write(tx)

    async def reset_password(self, who: Principal, name: str) -> api.UserCreated:
        """A new one-time password; the user's sessions end."""
        require_admin(who)
        u, t = schema.users, schema.refresh_tokens
        password = new_password()
        stored = await asyncio.to_thread(hash_password, password)

        def tx(conn: Connection) -> api.UserCreated:
            row = _find_user(conn, name)
            conn.execute(u.update().where(u.c.id == row.id).values(password_hash=stored, must_change=True))
            conn.execute(t.delete().where(t.c.user_id == row.id))
            record(self._core, conn, who, "user.reset-password", row.email, id=row.id)
            return api.UserCreated(**_user_view(row).model_dump(), password=password)

        return await self._core.write(tx)

    async def list_members(self, who: Principal, network_name: str) -> list[api.NetworkMember]:
        m, u = schema.members, schema.users

        def tx(conn: Connection) -> list[api.NetworkMember]:
            network = find_network(conn, network_name)
            require(conn, who, "network.view", network)
            query = (
                sa.select(u.c.id, u.c.email, m.c.role)
                .join(u, u.c.id == m.c.user_id)
                .where(m.c.network_ref == network.ref)
                .order_by(u.c.email)
            )
            return [api.NetworkMember(user=r.id, email=r.email, role=r.role) for r in conn.execute(query)]

        return await self._core.read(tx)

    async def put_member(self, who: Principal, network_name: str, wish: api.MemberPut) -> api.NetworkMember:
        """Adds a member or changes the role."""
        m = schema.members

        def tx(conn: Connection) -> api.NetworkMember:
            network = find_network(conn, network_name, lock=True)
            require(conn, who, "network.configure", network)
            user = _find_user(conn, wish.email)
            this = sa.and_(m.c.network_ref == network.ref, m.c.user_id == user.id)
            if conn.execute(m.update().where(this).values(role=wish.role)).rowcount == 0:
                conn.execute(m.insert().values(network_ref=network.ref, user_id=user.id, role=wish.role))
            record(self._core, conn, who, "member.set", wish.email, network=network.name, role=wish.role)
            return api.NetworkMember(user=user.id, email=user.email, role=wish.role)

        return await self._core.write(tx)

    async def remove_member(self, who: Principal, network_name: str, name: str) -> None:
        m = schema.members

        def tx(conn: Connection) -> None:
            network = find_network(conn, network_name, lock=True)
            require(conn, who, "network.configure", network)
            user = _find_user(conn, name)
            this = sa.and_(m.c.network_ref == network.ref, m.c.user_id == user.id)
            if conn.execute(m.delete().where(this)).rowcount == 0:
                raise not_found("member_unknown", f"{user.email} is no member of {network.name}")
            record(self._core, conn, who, "member.remove", user.email, network=network.name)

        await self._core.write(tx)


def _find_user(conn: Connection, name: str) -> Row[Any]:
    u = schema.users
    row = conn.execute(sa.select(u).where(sa.or_(u.c.id == name, u.c.email == name.lower()))).first()
    if row is None:
        raise not_found("user_unknown", f"there is no user {name[:80]!r}", "`shadowmesh user list` names them")
    return row


def _first_admin(conn: Connection) -> str:
    u = schema.users
    query = sa.select(u.c.id).where(u.c.admin, u.c.disabled.is_(False)).order_by(u.c.created_at).limit(1)
    return str(conn.execute(query).scalar_one())


def _user_view(row: Row[Any]) -> api.User:
    return api.User(id=row.id, email=row.email, admin=row.admin, disabled=row.disabled, created_at=row.created_at)


def _keys() -> sa.Select[Any]:
    k, u = schema.api_keys, schema.users
    return sa.select(k, u.c.email).join(u, u.c.id == k.c.user_id).order_by(k.c.created_at)


def _key_view(row: Row[Any]) -> api.ApiKey:
    return api.ApiKey(
        id=row.id,
        name=row.name,
        user=row.email,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used=row.last_used,
    )


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
