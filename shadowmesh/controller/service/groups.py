"""Groups of users, which administrators make: a group may hold a role in networks, and its users have it with their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, permissions_from, require_admin
from shadowmesh.controller.refusals import conflict, not_found, unknown, usage
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.members import role_shown
from shadowmesh.controller.service.rightchanges import Rights, settle
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model import accounts, api
from shadowmesh.model.ids import NetworkRef, is_id, like_id, new_id

MOST_GROUPS = 1000
MOST_USERS = 1000  # of one group


_Change = Callable[[Connection, Row[Any]], dict[str, Any]]  # of a group: what the audit log tells of it


class Groups:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers

    async def list(self, who: Principal) -> Sequence[accounts.Group]:
        require_admin(who)
        g = schema.groups
        query = sa.select(g).order_by(g.c.name_key)
        return await self._context.read(lambda conn: _views(conn, conn.execute(query).all()))

    async def show(self, who: Principal, name: str) -> accounts.Group:
        require_admin(who)
        return await self._context.read(lambda conn: _views(conn, [_find(conn, name)])[0])

    async def create(self, who: Principal, wish: accounts.GroupCreate) -> accounts.Group:
        """Raises ShadowMeshError: bad_name, group_exists, groups_full."""
        require_admin(who)
        g = schema.groups
        _check_name(wish.name)

        def tx(conn: Connection) -> accounts.Group:
            _check_free(conn, wish.name)
            if conn.execute(sa.select(sa.func.count()).select_from(g)).scalar_one() >= MOST_GROUPS:
                raise conflict("groups_full", f"there are {MOST_GROUPS} groups, as many as there may be", "delete one")
            values = {"name": wish.name, "description": wish.description}
            made = g.insert().values(
                id=new_id("grp"), name_key=wish.name.lower(), created_at=self._context.now(), **values
            )
            row = conn.execute(made.returning(g)).one()
            record(self._context, conn, who, "group.create", wish.name, id=row.id, after=values)
            return _views(conn, [row])[0]

        return await self._context.write(tx)

    async def set(self, who: Principal, name: str, wish: accounts.GroupPatch) -> accounts.Group:
        """Another name, or description. Raises ShadowMeshError: group_unknown, bad_name, group_exists."""
        if wish.name is not None:
            _check_name(wish.name)
        changes = wish.model_dump(exclude_none=True)

        def tx(conn: Connection, group: Row[Any]) -> dict[str, Any]:
            g, values = schema.groups, dict(changes)
            if wish.name is not None and wish.name != group.name:
                _check_free(conn, wish.name, but=group.id)
                values["name_key"] = wish.name.lower()
            if values:
                conn.execute(g.update().where(g.c.id == group.id).values(**values))
            return difference(group, changes)

        return await self._changed_group(who, name, "group.set", tx)

    async def delete(self, who: Principal, name: str) -> None:
        """Its users lose what they had by it."""

        def tx(conn: Connection, group: Row[Any]) -> dict[str, Any]:
            g = schema.groups
            before = _shown(_views(conn, [group])[0])
            conn.execute(g.delete().where(g.c.id == group.id))
            return {"before": before}

        await self._changed(who, name, "group.delete", tx)

    async def add(self, who: Principal, name: str, user: str) -> accounts.Group:
        gu = schema.group_users

        def tx(conn: Connection, group: Row[Any]) -> dict[str, Any]:
            row = find_user(conn, user)
            theirs = sa.select(gu.c.user_id).where(gu.c.group_id == group.id)
            inside = set(conn.execute(theirs).scalars())
            if row.id not in inside:
                if len(inside) >= MOST_USERS:
                    raise conflict(
                        "group_full", f"{group.name} has {MOST_USERS} users, as many as it may", "make another"
                    )
                conn.execute(gu.insert().values(group_id=group.id, user_id=row.id))
            return {"user_id": row.id, "before": {}, "after": {"user": row.email}}

        return await self._changed_group(who, name, "group.add", tx, also=user)

    async def remove(self, who: Principal, name: str, user: str) -> accounts.Group:
        """Raises ShadowMeshError: group_unknown, user_unknown, not_in_group."""
        gu = schema.group_users

        def tx(conn: Connection, group: Row[Any]) -> dict[str, Any]:
            row = find_user(conn, user)
            gone = conn.execute(gu.delete().where(gu.c.group_id == group.id, gu.c.user_id == row.id)).rowcount
            if gone == 0:
                raise not_found(
                    "not_in_group",
                    f"{row.email} is not in {group.name}",
                    f"`shadowmesh group show {group.name}` says who is",
                )
            return {"user_id": row.id, "before": {"user": row.email}, "after": {}}

        return await self._changed_group(who, name, "group.remove", tx)

    async def give(self, who: Principal, name: str, network_name: str, wish: api.GivenRole) -> accounts.Group:
        """A role in this network, in the place of the one that it had there."""
        t = schema.group_roles

        def tx(conn: Connection, group: Row[Any]) -> dict[str, Any]:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            this = sa.and_(t.c.group_id == group.id, t.c.network_ref == network.ref)
            values = {"role": wish.role, "permissions": None if wish.permissions is None else sorted(wish.permissions)}
            old = conn.execute(sa.select(t).where(this)).first()
            if old is None:
                conn.execute(t.insert().values(group_id=group.id, network_ref=network.ref, **values))
            else:
                conn.execute(t.update().where(this).values(**values))
            before = {"role": None} if old is None else role_shown(old.role, old.permissions)
            return {"network": network.name, "before": before, "after": role_shown(wish.role, values["permissions"])}

        return await self._changed_group(who, name, "group.set-role", tx, network=network_name)

    async def take(self, who: Principal, name: str, network_name: str) -> accounts.Group:
        """Its role in this network. Raises ShadowMeshError: group_unknown, network_unknown, no_role."""
        t = schema.group_roles

        def tx(conn: Connection, group: Row[Any]) -> dict[str, Any]:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            gone = t.delete().where(t.c.group_id == group.id, t.c.network_ref == network.ref)
            row = conn.execute(gone.returning(t.c.role, t.c.permissions)).first()
            if row is None:
                raise not_found(
                    "no_role",
                    f"{group.name} has no role in {network.name}",
                    f"`shadowmesh group show {group.name}` has its roles",
                )
            before = role_shown(row.role, row.permissions)
            return {"network": network.name, "before": before, "after": {"role": None}}

        return await self._changed_group(who, name, "group.remove-role", tx)

    async def _changed_group(
        self,
        who: Principal,
        name: str,
        action: str,
        change: _Change,
        also: str | None = None,
        network: str | None = None,
    ) -> accounts.Group:
        found = await self._changed(who, name, action, change, also, network)
        assert found is not None, "only `delete` leaves none"
        return found

    async def _changed(
        self,
        who: Principal,
        name: str,
        action: str,
        change: _Change,
        also: str | None = None,
        network: str | None = None,
    ) -> accounts.Group | None:
        """Makes a change of a group, which returns what the audit log tells, and what follows of it.

        `also`: a user who comes into it; `network`: one in which it comes to have a role. The group afterwards, if there is one.
        """
        require_admin(who)

        def tx(conn: Connection) -> tuple[accounts.Group | None, frozenset[str]]:
            group = _find(conn, name, lock=True)
            emails, refs = _touched(conn, group.id)
            if also is not None:
                emails |= {find_user(conn, also).email}
            if network is not None:
                refs |= {find_network(conn, who, network, Permission.NETWORK_CONFIGURE).ref}
            for ref in sorted(refs):  # in one order, as whoever else takes several
                living_network(conn, NetworkRef(ref), lock=True)
            rights = Rights.of(conn, who, emails, refs)
            more = change(conn, group)
            settled = settle(self._context, conn, rights)
            record(
                self._context, conn, who, action, group.name, id=group.id, **more, invites_ended=settled.invites_ended
            )
            g = schema.groups
            left = conn.execute(sa.select(g).where(g.c.id == group.id)).first()
            return (None if left is None else _views(conn, [left])[0]), settled.users

        answer, users = await self._context.write(tx)
        for user_id in users:
            self._watchers.changed(user_id)
        return answer


def _check_name(name: str) -> None:
    if like_id(name):
        raise usage("bad_name", f"{name!r} looks like an id, and couldn't be told from one", "choose another name")


def _check_free(conn: Connection, name: str, but: str = "") -> None:
    g = schema.groups
    taken = sa.select(g.c.name).where(g.c.name_key == name.lower(), g.c.id != but)
    if (there := conn.execute(taken).scalar()) is not None:
        raise conflict("group_exists", f"there is a group {there} already", "choose another name")


def _find(conn: Connection, name: str, *, lock: bool = False) -> Row[Any]:
    g = schema.groups
    by = g.c.id == name if is_id(name, "grp") else g.c.name_key == name.lower()
    query = sa.select(g).where(by)
    row = conn.execute(query.with_for_update() if lock else query).first()
    if row is None:
        known = conn.execute(sa.select(g.c.name)).scalars().all()
        raise unknown("group_unknown", f"there is no group {name[:80]!r}", name, known, "shadowmesh group list")
    return row


def _touched(conn: Connection, group: str) -> tuple[set[str], set[str]]:
    """The addresses of its users, and the networks in which it has a role."""
    u, gu, gr = schema.users, schema.group_users, schema.group_roles
    emails = sa.select(u.c.email).join(gu, gu.c.user_id == u.c.id).where(gu.c.group_id == group)
    refs = sa.select(gr.c.network_ref).where(gr.c.group_id == group)
    return set(conn.execute(emails).scalars()), set(conn.execute(refs).scalars())


def _views(conn: Connection, rows: Collection[Row[Any]]) -> list[accounts.Group]:
    u, gu, gr, n = schema.users, schema.group_users, schema.group_roles, schema.networks
    ids = [row.id for row in rows]
    users = sa.select(gu.c.group_id, u.c.email).join(u, u.c.id == gu.c.user_id).where(gu.c.group_id.in_(ids))
    roles = (
        sa.select(gr, n.c.name)
        .join(n, n.c.ref == gr.c.network_ref)
        .where(gr.c.group_id.in_(ids), n.c.deleted_at.is_(None))
        .order_by(n.c.name_key, n.c.ref)
    )
    emails: dict[str, list[str]] = {group: [] for group in ids}
    held: dict[str, list[accounts.GroupRole]] = {group: [] for group in ids}
    for row in conn.execute(users.order_by(u.c.email)):
        emails[row.group_id].append(row.email)
    for row in conn.execute(roles):
        listed = permissions_from(row.permissions)
        held[row.group_id].append(
            accounts.GroupRole(
                network_id=row.network_ref,
                network_name=row.name,
                role=row.role,
                permissions=None if listed is None else sorted(listed),
            )
        )
    return [
        accounts.Group(
            id=row.id,
            name=row.name,
            description=row.description,
            created_at=row.created_at,
            users=emails[row.id],
            networks=held[row.id],
        )
        for row in rows
    ]


def _shown(group: accounts.Group) -> dict[str, Any]:
    roles = {r.network_name: role_shown(r.role, r.permissions) for r in group.networks}
    return {"description": group.description, "users": group.users, "networks": roles}
