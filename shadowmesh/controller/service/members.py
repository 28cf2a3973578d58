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


class Members:
    def __init__(self, core: Core, watchers: Watchers) -> None:
        self._core = core
        self._watchers = watchers

    async def list(self, who: Principal, network_name: str) -> Sequence[api.NetworkMember]:
        m, u = schema.members, schema.users

        def tx(conn: Connection) -> Sequence[api.NetworkMember]:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            query = (
                sa.select(u.c.id, u.c.email, m.c.role)
                .join(u, u.c.id == m.c.user_id)
                .where(m.c.network_ref == network.ref)
                .order_by(u.c.email)
            )
            return [api.NetworkMember(user=r.id, email=r.email, role=r.role) for r in conn.execute(query)]

        return await self._core.read(tx)

    async def put(self, who: Principal, network_name: str, wish: api.MemberPut) -> api.NetworkMember:
        """Adds a member or changes the role."""
        m = schema.members

        def tx(conn: Connection) -> api.NetworkMember:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            user = find_user(conn, wish.email)
            if wish.role != "owner":
                _keep_an_owner(conn, network, user)
            this = sa.and_(m.c.network_ref == network.ref, m.c.user_id == user.id)
            old = conn.execute(sa.select(m.c.role).where(this)).scalar()
            if conn.execute(m.update().where(this).values(role=wish.role)).rowcount == 0:
                conn.execute(m.insert().values(network_ref=network.ref, user_id=user.id, role=wish.role))
            ended = []
            if Permission.NETWORK_INVITE not in ROLES[wish.role]:
                ended = revoke_invites(self._core, conn, user.id, network.ref)
            rights_changed(self._core, conn, user.id)
            more = {"before": {"role": old}, "after": {"role": wish.role}, "invites_ended": ended}
            record(self._core, conn, who, "member.set", user.email, id=user.id, network=network.name, **more)
            return api.NetworkMember(user=user.id, email=user.email, role=wish.role)

        answer = await self._core.write(tx)
        self._watchers.changed(answer.user)
        return answer

    async def remove(self, who: Principal, network_name: str, name: str) -> None:
        """With the role go the open invites that they made."""
        m = schema.members

        def tx(conn: Connection) -> str:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            user = find_user(conn, name)
            _keep_an_owner(conn, network, user)
            this = sa.and_(m.c.network_ref == network.ref, m.c.user_id == user.id)
            old = conn.execute(m.delete().where(this).returning(m.c.role)).scalar()
            if old is None:
                raise not_found("member_unknown", f"{user.email} is no member of {network.name}")
            ended = revoke_invites(self._core, conn, user.id, network.ref)
            rights_changed(self._core, conn, user.id)
            more = {"before": {"role": old}, "after": {"role": None}, "invites_ended": ended}
            record(self._core, conn, who, "member.remove", user.email, id=user.id, network=network.name, **more)
            return str(user.id)

        self._watchers.changed(await self._core.write(tx))


def _keep_an_owner(conn: Connection, network: Row[Any], user: Row[Any]) -> None:
    """Raises ShadowMeshError(last_owner) if this user is the only one. The caller holds the network's row."""
    m = schema.members
    owners = conn.execute(sa.select(m.c.user_id).where(m.c.network_ref == network.ref, m.c.role == "owner")).scalars()
    if set(owners) == {user.id}:
        raise conflict(
            "last_owner", f"{user.email} is the last owner of {network.name}", "make someone else an owner first"
        )
