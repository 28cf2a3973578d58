"""The roles that people have in networks, as the database has them: what `decide` decides by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz.decision import RoleGrant, Standing, decide
from shadowmesh.controller.store import schema
from shadowmesh.model.api import Permission

Place = tuple[str, str]  # an address, and a network's `ref`


def grants_of(
    conn: Connection, emails: Collection[str], refs: Collection[str] | None = None
) -> Mapping[Place, Sequence[RoleGrant]]:
    """The roles of these people in these networks (None: in all), their own and their groups'."""
    m, g, gu, gr, u = schema.members, schema.groups, schema.group_users, schema.group_roles, schema.users
    own = sa.select(m.c.email, m.c.network_ref, m.c.role, m.c.permissions, sa.null().label("group_name"))
    own = own.where(m.c.email.in_(emails))
    by_group = (
        sa.select(u.c.email, gr.c.network_ref, gr.c.role, gr.c.permissions, g.c.name)
        .join(gu, gu.c.user_id == u.c.id)
        .join(g, g.c.id == gu.c.group_id)
        .join(gr, gr.c.group_id == g.c.id)
        .where(u.c.email.in_(emails))
    )
    if refs is not None:
        own, by_group = own.where(m.c.network_ref.in_(refs)), by_group.where(gr.c.network_ref.in_(refs))
    found: dict[Place, list[RoleGrant]] = defaultdict(list)
    for row in [*conn.execute(own), *conn.execute(by_group.order_by(g.c.name))]:
        email, ref, role, listed, group = row
        found[email, ref].append(RoleGrant(role, permissions_from(listed), group))
    return found


def permissions_from(listed: Any) -> frozenset[Permission] | None:
    """A column's value. What a newer version wrote, and this one doesn't know, gives nothing."""
    return None if listed is None else frozenset(p for p in Permission if p in listed)


def standings(
    conn: Connection, emails: Collection[str], refs: Collection[str] | None = None
) -> Mapping[Place, Standing]:
    """What these people may do in these networks by their roles. Where they have none, there is no entry."""
    return {place: decide(grants) for place, grants in grants_of(conn, emails, refs).items()}


def networks_where(conn: Connection, email: str | None, needed: Permission | None = None) -> frozenset[str]:
    """The networks in which they have a role; by which they hold this permission."""
    if email is None:
        return frozenset()
    found = standings(conn, [email])
    return frozenset(ref for (_, ref), s in found.items() if needed is None or needed in s.permissions)


def people_with_roles(conn: Connection, ref: str) -> frozenset[str]:
    """The addresses that have a role in this network, be it by a group."""
    m, gu, gr, u = schema.members, schema.group_users, schema.group_roles, schema.users
    by_group = sa.select(u.c.email).join(gu, gu.c.user_id == u.c.id).join(gr, gr.c.group_id == gu.c.group_id)
    own = conn.execute(sa.select(m.c.email).where(m.c.network_ref == ref)).scalars()
    return frozenset([*own, *conn.execute(by_group.where(gr.c.network_ref == ref)).scalars()])
