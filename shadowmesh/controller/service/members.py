"""Members of a network: who has which role in it, and which list of permissions in the role's place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import (
    Permission,
    Principal,
    decide,
    find_network,
    grants_of,
    people_with_roles,
    permissions_from,
)
from shadowmesh.controller.refusals import conflict, not_found
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.rightchanges import Rights, settle
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.text import canonical_email

MOST_MEMBERS = 1000


class Members:
    """Members are addresses: whether there is a user of that address shows to administrators only."""

    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers

    async def list(self, who: Principal, network_name: str) -> Sequence[api.NetworkMember]:
        """All who have a role, be it by a group."""

        def tx(conn: Connection) -> list[api.NetworkMember]:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            return members_of(conn, who, network.ref, people_with_roles(conn, network.ref))

        return await self._context.read(tx)

    async def put(self, who: Principal, network_name: str, wish: api.MemberPut) -> api.NetworkMember:
        """Adds a member or changes the role. The role of an address that is nobody's yet waits for them."""

        def tx(conn: Connection) -> tuple[api.NetworkMember, frozenset[str]]:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            user_id = find_user(conn, wish.email).id if who.knows_people else _user_id(conn, wish.email)
            if not counts_as_owner(wish.role, wish.permissions):
                keep_an_owner(conn, who, network, wish.email)
            rights = Rights.of(conn, who, [wish.email], [network.ref])
            before, after = set_role(conn, network, wish.email, wish.role, wish.permissions)
            settled = settle(self._context, conn, rights)
            more = {"before": before, "after": after, "invites_ended": settled.invites_ended}
            record(self._context, conn, who, "member.set", wish.email, id=user_id, network=network.name, **more)
            return members_of(conn, who, network.ref, [wish.email])[0], settled.users

        answer, users = await self._context.write(tx)
        for user_id in users:
            self._watchers.changed(user_id)
        return answer

    async def remove(self, who: Principal, network_name: str, name: str) -> None:
        """By address or user id. With the role go the open invites that they made."""
        m, u = schema.members, schema.users

        def tx(conn: Connection) -> frozenset[str]:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            query = (
                sa.select(m, u.c.id)
                .outerjoin(u, u.c.email == m.c.email)
                .where(m.c.network_ref == network.ref, sa.or_(m.c.email == canonical_email(name), u.c.id == name))
            )
            member = conn.execute(query).first()
            if member is None:
                raise not_found(
                    "member_unknown",
                    f"{name[:80]!r} is no member of {network.name}",
                    f"`shadowmesh member list {network.name}` names them",
                )
            keep_an_owner(conn, who, network, member.email)
            rights = Rights.of(conn, who, [member.email], [network.ref])
            remove_role(conn, network.ref, member.email)
            settled = settle(self._context, conn, rights)
            before = role_shown(member.role, member.permissions)
            more = {"before": before, "after": {"role": None}, "invites_ended": settled.invites_ended}
            record(self._context, conn, who, "member.remove", member.email, id=member.id, network=network.name, **more)
            return settled.users

        for user_id in await self._context.write(tx):
            self._watchers.changed(user_id)


def set_role(
    conn: Connection,
    network: Row[Any],
    email: str,
    role: api.Role,
    permissions: Collection[Permission] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what was and what is, for the audit log. Raises ShadowMeshError(members_full). The caller holds the network's row."""
    m = schema.members
    this = sa.and_(m.c.network_ref == network.ref, m.c.email == email)
    old = conn.execute(sa.select(m.c.role, m.c.permissions).where(this)).first()
    values = {"role": role, "permissions": None if permissions is None else sorted(permissions)}
    if old is None:
        _check_room(conn, network)
        conn.execute(m.insert().values(network_ref=network.ref, email=email, **values))
    else:
        conn.execute(m.update().where(this).values(**values))
    before = {"role": None} if old is None else role_shown(old.role, old.permissions)
    return before, role_shown(role, values["permissions"])


def remove_role(conn: Connection, ref: str, email: str) -> None:
    m = schema.members
    conn.execute(m.delete().where(m.c.network_ref == ref, m.c.email == email))


def role_shown(role: str, permissions: Any) -> dict[str, Any]:
    """For the audit log: the list of permissions where there is one."""
    return {"role": role} | ({} if permissions is None else {"permissions": sorted(permissions)})


def members_of(conn: Connection, who: Principal, ref: str, emails: Collection[str]) -> list[api.NetworkMember]:
    """These people, those without a role of their own after the others."""
    u = schema.users
    ids: dict[str, str] = {}
    if who.knows_people and emails:
        ids = {row.email: row.id for row in conn.execute(sa.select(u.c.email, u.c.id).where(u.c.email.in_(emails)))}
    found = []
    for (email, _), grants in sorted(grants_of(conn, list(emails), [ref]).items()):
        standing, own = decide(grants), next((g for g in grants if g.group is None), None)
        assert standing.role is not None, "there is a grant"
        found.append(
            api.NetworkMember(
                user=ids.get(email),
                email=email,
                role=standing.role if own is None else own.role,
                permissions=None if own is None or own.permissions is None else sorted(own.permissions),
                effective=sorted(standing.permissions),
                groups=[g.group for g in grants if g.group is not None],
                own=own is not None,
            )
        )
    return found


def _user_id(conn: Connection, email: str) -> str | None:
    u = schema.users
    return conn.execute(sa.select(u.c.id).where(u.c.email == email)).scalar_one_or_none()


def _check_room(conn: Connection, network: Row[Any]) -> None:
    """Addresses of nobody count as well. Raises ShadowMeshError(members_full). The caller holds the network's row."""
    m = schema.members
    if conn.execute(sa.select(sa.func.count()).where(m.c.network_ref == network.ref)).scalar_one() >= MOST_MEMBERS:
        raise conflict("members_full", f"{network.name} has {MOST_MEMBERS} members, as many as it may", "remove one")


def counts_as_owner(role: str, permissions: Collection[Permission] | None) -> bool:
    """Whether a network has an owner in them: somebody who may give the others their roles."""
    return role == "owner" and (permissions is None or Permission.NETWORK_CONFIGURE in permissions)


def keep_an_owner(conn: Connection, who: Principal, network: Row[Any], email: str) -> None:
    """Before this address loses its role: another owner stays, of their own and not by a group. Raises ShadowMeshError(last_owner).

    To an administrator only someone who can sign in counts. Others may not learn who can: to them an address is an owner,
    and its role waits for the user. The caller holds the network's row.
    """
    m, u = schema.members, schema.users
    query = (
        sa.select(m.c.email, m.c.role, m.c.permissions, u.c.disabled, u.c.kind)
        .outerjoin(u, u.c.email == m.c.email)
        .where(m.c.network_ref == network.ref, m.c.role == "owner")
    )
    owners = {
        row.email: row.disabled is False and row.kind == "person"
        for row in conn.execute(query)
        if counts_as_owner(row.role, permissions_from(row.permissions))
    }
    usable = {owner for owner, enabled in owners.items() if enabled}
    if owners.keys() == {email} or (who.knows_people and usable == {email}):
        raise conflict("last_owner", f"{email} is the last owner of {network.name}", "make someone else an owner first")
