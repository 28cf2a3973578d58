"""Members of a network: who has which role in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import ROLES, Permission, Principal, find_network
from shadowmesh.controller.errors import conflict, not_found
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.invites import revoke_invites
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.text import canonical_email

MOST_MEMBERS = 1000


class Members:
    """Members are addresses: whether there is a user of that address shows to administrators only."""

    def __init__(self, core: Core, watchers: Watchers) -> None:
        self._core = core
        self._watchers = watchers

    async def list(self, who: Principal, network_name: str) -> Sequence[api.NetworkMember]:
        m, u = schema.members, schema.users

        def tx(conn: Connection) -> list[api.NetworkMember]:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            query = (
                sa.select(u.c.id, m.c.email, m.c.role)
                .outerjoin(u, u.c.email == m.c.email)
                .where(m.c.network_ref == network.ref)
                .order_by(m.c.email)
            )
            return [_view(who, row.id, row.email, row.role) for row in conn.execute(query)]

        return await self._core.read(tx)

    async def put(self, who: Principal, network_name: str, wish: api.MemberPut) -> api.NetworkMember:
        """Adds a member or changes the role. The role of an address that is nobody's yet waits for them."""
        m = schema.members

        def tx(conn: Connection) -> tuple[api.NetworkMember, str | None]:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            user_id = find_user(conn, wish.email).id if who.admin else _user_id(conn, wish.email)
            if wish.role != "owner":
                _keep_an_owner(conn, who, network, wish.email)
            this = sa.and_(m.c.network_ref == network.ref, m.c.email == wish.email)
            old = conn.execute(sa.select(m.c.role).where(this)).scalar()
            if conn.execute(m.update().where(this).values(role=wish.role)).rowcount == 0:
                _check_room(conn, network)
                conn.execute(m.insert().values(network_ref=network.ref, email=wish.email, role=wish.role))
            keeps = Permission.NETWORK_INVITE in ROLES[wish.role]
            ended = self._ended(conn, user_id, None if keeps else network.ref)
            more = {"before": {"role": old}, "after": {"role": wish.role}, "invites_ended": ended}
            record(self._core, conn, who, "member.set", wish.email, id=user_id, network=network.name, **more)
            return _view(who, user_id, wish.email, wish.role), user_id

        answer, user_id = await self._core.write(tx)
        if user_id is not None:
            self._watchers.changed(user_id)
        return answer

    async def remove(self, who: Principal, network_name: str, name: str) -> None:
        """By address or user id. With the role go the open invites that they made."""
        m, u = schema.members, schema.users

        def tx(conn: Connection) -> str | None:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            query = (
                sa.select(m.c.email, m.c.role, u.c.id)
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
            _keep_an_owner(conn, who, network, member.email)
            conn.execute(m.delete().where(m.c.network_ref == network.ref, m.c.email == member.email))
            ended = self._ended(conn, member.id, network.ref)
            more = {"before": {"role": member.role}, "after": {"role": None}, "invites_ended": ended}
            record(self._core, conn, who, "member.remove", member.email, id=member.id, network=network.name, **more)
            return None if member.id is None else str(member.id)

        user_id = await self._core.write(tx)
        if user_id is not None:
            self._watchers.changed(user_id)

    def _ended(self, conn: Connection, user_id: str | None, ref: str | None) -> Sequence[str]:
        """The invites that end with a role in this network (None: that go on); the user's connections are looked at."""
        if user_id is None:
            return []
        ended = [] if ref is None else revoke_invites(self._core, conn, user_id, ref)
        rights_changed(self._core, conn, user_id)
        return ended


def _view(who: Principal, user_id: str | None, email: str, role: api.Role) -> api.NetworkMember:
    return api.NetworkMember(user=user_id if who.admin else None, email=email, role=role)


def _user_id(conn: Connection, email: str) -> str | None:
    u = schema.users
    return conn.execute(sa.select(u.c.id).where(u.c.email == email)).scalar_one_or_none()


def _check_room(conn: Connection, network: Row[Any]) -> None:
    """Addresses of nobody count as well. Raises ShadowMeshError(members_full). The caller holds the network's row."""
    m = schema.members
    if conn.execute(sa.select(sa.func.count()).where(m.c.network_ref == network.ref)).scalar_one() >= MOST_MEMBERS:
        raise conflict("members_full", f"{network.name} has {MOST_MEMBERS} members, as many as it may", "remove one")


def _keep_an_owner(conn: Connection, who: Principal, network: Row[Any], email: str) -> None:
    """Before this address loses its role: another owner stays. Raises ShadowMeshError(last_owner).

    To an administrator only someone who can sign in counts. Others may not learn who can: to them an address is an owner,
    and its role waits for the user. The caller holds the network's row.
    """
    m, u = schema.members, schema.users
    query = (
        sa.select(m.c.email, u.c.disabled)
        .outerjoin(u, u.c.email == m.c.email)
        .where(m.c.network_ref == network.ref, m.c.role == "owner")
    )
    owners = {row.email: row.disabled is False for row in conn.execute(query)}
    usable = {owner for owner, enabled in owners.items() if enabled}
    if owners.keys() == {email} or (who.admin and usable == {email}):
        raise conflict("last_owner", f"{email} is the last owner of {network.name}", "make someone else an owner first")
