"""Why somebody may do what in a network: which role, group, list of permissions and API key gives or takes each permission."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    ALL,
    ROLES,
    Permission,
    Principal,
    RoleGrant,
    decide,
    find_network,
    grants_of,
    key_lives,
    key_scopes,
    require_admin,
    require_in,
)
from shadowmesh.controller.refusals import not_found, unknown, usage
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.users import user_unknown
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.accounts import AccessSource
from shadowmesh.model.text import canonical_email


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What an API key leaves of its owner's rights in the network."""

    name: str
    scopes: frozenset[Permission]
    here: bool = True  # it is for this network


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody in a network."""

    grants: Sequence[RoleGrant] = ()
    admin: bool = False
    disabled: bool = False
    creates: bool = False  # everybody makes networks here
    key: KeyLimits | None = None


def explained(asked: Asked) -> list[accounts.PermissionExplained]:
    """Each of the eight permissions; whether it is held is what `decide` says, less what a key or being disabled takes."""
    held = decide(asked.grants, admin=asked.admin).permissions
    if asked.creates:
        held |= {Permission.NETWORK_CREATE}
    return [_explained(asked, permission, permission in held) for permission in Permission]


def _explained(asked: Asked, permission: Permission, held: bool) -> accounts.PermissionExplained:
    given, taken = _roles(asked, permission, held)
    key = asked.key
    if held and key is not None and (permission not in key.scopes or not key.here):
        taken.append(AccessSource(kind="api_key", name=key.name))
    if held and asked.disabled:
        taken.append(AccessSource(kind="disabled"))
    allowed = held and not taken
    return accounts.PermissionExplained(
        permission=permission, allowed=allowed, given_by=given, taken_by=taken, why=_sentence(permission, given, taken)
    )


def _roles(asked: Asked, permission: Permission, held: bool) -> tuple[list[AccessSource], list[AccessSource]]:
    """What gives it, and a list that keeps what others give from counting."""
    if asked.admin:
        return [AccessSource(kind="administrator")], []
    if asked.creates and permission is Permission.NETWORK_CREATE:
        return [AccessSource(kind="everybody")], []
    own = next((g for g in asked.grants if g.group is None), None)
    by_group = [
        AccessSource(kind="group", name=g.group, role=g.role)
        for g in asked.grants
        if g.group is not None and permission in g.given
    ]
    if own is None:
        return by_group, []
    by_role = [AccessSource(kind="role", role=own.role)] if permission in ROLES[own.role] else []
    if own.permissions is None:
        return by_role + by_group, []
    policy = AccessSource(kind="policy", role=own.role)
    if held:
        return [policy], []
    return by_role + by_group, [policy] if by_role or by_group else []


def _sentence(permission: Permission, given: Sequence[AccessSource], taken: Sequence[AccessSource]) -> str:
    if not given:
        if permission is Permission.NETWORK_CREATE:
            return "only administrators create networks"
        return "neither a role nor a group nor a list gives it"
    text = " and ".join(_GIVES[source.kind].format(source.name, source.role) for source in given)
    for source in taken:
        text += f"; {_TAKES[source.kind].format(source.name)}"
    return text


_GIVES = {
    "administrator": "administrators have it in every network",
    "everybody": "every user makes networks of their own here",
    "role": "the role {1} has it",
    "group": "the group {0} has it, as {1}",
    "policy": "it is in their own list of permissions",
}
_TAKES = {
    "policy": "but their own list, which is the last word, hasn't",
    "api_key": "but the API key {0} isn't for it",
    "disabled": "but the user is disabled",
}


class AccessExplanations:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def explain(
        self, who: Principal, network_name: str, user: str | None, key: str | None
    ) -> accounts.AccessExplained:
        """`user`: an address or id; None: who asks, by what they showed. `key`: by this API key of theirs.

        Raises ShadowMeshError: network_unknown, not_allowed, user_unknown, api_key_unknown, user_missing.
        """

        def tx(conn: Connection) -> accounts.AccessExplained:
            network = find_network(conn, who, network_name)
            myself = who.user_id is not None and (user is None or canonical_email(user) in (who.email, who.user_id))
            if user is None and not myself:
                raise usage("user_missing", "this is the controller's own socket, which may do all", "name a user")
            if not myself:
                require_in(conn, who, network, Permission.NETWORK_CONFIGURE)
            row = _user(conn, who, canonical_email(user) if user is not None and not myself else str(who.user_id))
            email = user_email(row, user)
            limits = _key(conn, who, row, key, network, self._context.now()) if key else None
            if myself and key is None:
                limits = _shown(conn, who)
            knows = who.knows_people or myself  # others don't learn who administers, and who is disabled
            grants = tuple(grants_of(conn, [email], [network.ref]).get((email, network.ref), ()))
            asked = Asked(
                grants,
                admin=knows and row is not None and row.admin,
                disabled=knows and row is not None and row.disabled,
                creates=self._context.settings.everybody_creates and row is not None,
                key=limits,
            )
            standing = decide(grants, admin=asked.admin)
            return accounts.AccessExplained(
                user=email,
                user_id=row.id if row is not None and knows else None,
                network_id=network.ref,
                network_name=network.name,
                admin=asked.admin,
                role=standing.role,
                listed=standing.listed,
                groups=[g.group for g in grants if g.group is not None],
                api_key=None if limits is None else limits.name,
                permissions=explained(asked),
            )

        return await self._context.read(tx)


def user_email(row: Row[Any] | None, user: str | None) -> str:
    return canonical_email(user or "") if row is None else str(row.email)


def _user(conn: Connection, who: Principal, name: str) -> Row[Any] | None:
    """By id or address; None: an address of nobody. Raises ShadowMeshError(user_unknown)."""
    u = schema.users
    by = sa.or_(u.c.id == name, u.c.email == name) if who.knows_people or name == who.user_id else u.c.email == name
    row = conn.execute(sa.select(u).where(by)).first()
    if row is None and (who.knows_people or "@" not in name):
        raise (
            user_unknown(conn, name)
            if who.knows_people
            else unknown("user_unknown", f"there is no user {name[:80]!r}", name, (), "shadowmesh user list")
        )
    return row


def _key(
    conn: Connection, who: Principal, user: Row[Any] | None, key_id: str, network: Row[Any], now: Any
) -> KeyLimits:
    """One of this user's keys. Raises ShadowMeshError: not_allowed, api_key_unknown."""
    k = schema.api_keys
    if user is None or user.id != who.user_id or (who.limited and who.credential != key_id):
        require_admin(who)
    this = sa.and_(k.c.id == key_id, k.c.user_id == (None if user is None else user.id), key_lives(now))
    row = conn.execute(sa.select(k).where(this)).first()
    if row is None:
        raise not_found(
            "api_key_unknown", f"they have no API key {key_id[:60]!r}", "`shadowmesh api-key list` names them"
        )
    return KeyLimits(
        row.name or row.id,
        key_scopes(row.scopes, read_only=row.read_only),
        row.networks is None or network.ref in row.networks,
    )


def _shown(conn: Connection, who: Principal) -> KeyLimits | None:
    """The key by which they ask, if it is one. (That it is for this network is why they get an answer.)"""
    k = schema.api_keys
    row = conn.execute(sa.select(k.c.id, k.c.name).where(k.c.id == who.credential)).first()
    if row is None:
        return None
    return KeyLimits(row.name or row.id, who.scopes if who.limited else ALL)
