"""Members of a network: who has which role in it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Permission, Principal, find_network
from shadowmesh.controller.errors import not_found
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.store import schema
from shadowmesh.model import api


class Members:
    def __init__(self, core: Core) -> None:
        self._core = core

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
            this = sa.and_(m.c.network_ref == network.ref, m.c.user_id == user.id)
            if conn.execute(m.update().where(this).values(role=wish.role)).rowcount == 0:
                conn.execute(m.insert().values(network_ref=network.ref, user_id=user.id, role=wish.role))
            record(self._core, conn, who, "member.set", wish.email, network=network.name, role=wish.role)
            return api.NetworkMember(user=user.id, email=user.email, role=wish.role)

        return await self._core.write(tx)

    async def remove(self, who: Principal, network_name: str, name: str) -> None:
        m = schema.members

        def tx(conn: Connection) -> None:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            user = find_user(conn, name)
            this = sa.and_(m.c.network_ref == network.ref, m.c.user_id == user.id)
            if conn.execute(m.delete().where(this)).rowcount == 0:
                raise not_found("member_unknown", f"{user.email} is no member of {network.name}")
            record(self._core, conn, who, "member.remove", user.email, network=network.name)

        await self._core.write(tx)
