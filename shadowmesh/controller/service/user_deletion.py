"""A user who is deleted: what was theirs is another's from then on, or ends with them. What the audit log has of them stays.

Networks and machines don't end by this, as others work with them: they are given to somebody, or the user stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal, require_admin, require_signed_in
from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.invites import revoke_invites
from shadowmesh.controller.service.madewithkeys import end_made_with
from shadowmesh.controller.service.members import keep_an_owner, remove_role, set_role
from shadowmesh.controller.service.relays import revoke_tokens
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.service.users import administrators, find_user, last_admin, user_unknown
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError

MOST_TOLD = 20  # of networks, in one refusal


class UserDeletion:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers

    async def delete(self, who: Principal, name: str, give_to: str | None = None) -> accounts.UserDeleted:
        """`give_to`: who gets their networks and machines. The last administrator stays."""
        require_admin(who)
        u = schema.users

        def tx(conn: Connection) -> tuple[accounts.UserDeleted, str | None]:
            require_signed_in(conn, who, self._context.now())
            row = find_user(conn, name)
            heir = None if give_to is None else find_user(conn, give_to)
            if heir is not None and (heir.id == row.id or heir.disabled):
                why = "is who is to be deleted" if heir.id == row.id else "is disabled"
                raise conflict("bad_heir", f"{heir.email} {why}", "name somebody else")
            both = [row.id] if heir is None else [row.id, heir.id]
            held = sa.select(u.c.id).where(sa.or_(u.c.admin, u.c.id.in_(both))).order_by(u.c.id).with_for_update()
            if not set(both) <= {found.id for found in conn.execute(held)}:
                raise user_unknown(conn, name)  # somebody else was quicker
            answer = _delete(self._context, conn, who, row, heir)
            if row.admin and conn.execute(administrators()).first() is None:
                raise last_admin(row.email)
            return answer, None if heir is None else heir.id

        answer, heir_id = await self._context.write(tx)
        self._watchers.changed(answer.id)
        if heir_id is not None:
            self._watchers.changed(heir_id)
        return answer


def _delete(
    context: ServiceContext, conn: Connection, who: Principal, row: Row[Any], heir: Row[Any] | None
) -> accounts.UserDeleted:
    """`heir`: who gets the networks and the machines. The caller holds the rows of both, and of all administrators.

    Raises ShadowMeshError: user_has_networks, user_has_clients where nobody is named, network_exists, members_full.
    """
    networks, machines = _owned(conn, who, row), _machines(conn, row)
    if heir is None:
        _refuse_what_is_left(row, networks, machines)
    else:
        _give(conn, row, heir, networks)
        rights_changed(context, conn, heir.id)
    rights_changed(context, conn, row.id)
    ended = _end(context, conn, row, heir)
    roles = _roles(conn, row.email)
    for ref in roles:
        remove_role(conn, ref, row.email)
    conn.execute(
        schema.users.delete().where(schema.users.c.id == row.id)
    )  # and what is of them alone: sessions, keys, …
    given = [network.name for network in networks]
    before = shown(row._mapping, "email", "name", "kind", "admin", "disabled")
    more: dict[str, Any] = {"memberships_ended": len(roles)} | ended
    if heir is not None:
        more |= {"given_to": heir.email, "networks_given": given, "clients_given": sum(machines.values())}
    record(context, conn, who, "user.delete", row.email, id=row.id, before=before, **more)
    return accounts.UserDeleted(
        id=row.id,
        email=row.email,
        given_to=None if heir is None else heir.email,
        networks=given,
        clients=sum(machines.values()),
        memberships_ended=len(roles),
        sessions_ended=ended["sessions_ended"],
        api_keys_ended=ended["api_keys_ended"],
        invites_ended=ended["invites_ended"],
        invitations_ended=ended["invitations_ended"],
        relay_tokens_ended=ended["relay_tokens_ended"],
        sinks_ended=ended["sinks_ended"],
    )


def _owned(conn: Connection, who: Principal, row: Row[Any]) -> Sequence[Row[Any]]:
    """The networks that bear a name of theirs, and those that would have no owner without them."""
    n, m = schema.networks, schema.members
    inside = sa.select(m.c.network_ref).where(m.c.email == row.email, m.c.role == "owner")
    query = sa.select(n).where(n.c.deleted_at.is_(None), sa.or_(n.c.owner_id == row.id, n.c.ref.in_(inside)))
    found = conn.execute(query.order_by(n.c.ref).with_for_update()).all()
    return [network for network in found if network.owner_id == row.id or _is_last_owner(conn, who, network, row.email)]


def _is_last_owner(conn: Connection, who: Principal, network: Row[Any], email: str) -> bool:
    try:
        keep_an_owner(conn, who, network, email)
    except ShadowMeshError as e:
        if e.code != "last_owner":
            raise
        return True
    return False


def _machines(conn: Connection, row: Row[Any]) -> dict[str, int]:
    """How many of theirs are in which network, by its name."""
    c, n = schema.clients, schema.networks
    query = (
        sa.select(n.c.name, sa.func.count().label("machines"))
        .join(c, c.c.network_ref == n.c.ref)
        .where(c.c.owner_id == row.id, schema.LIVING, n.c.deleted_at.is_(None))
        .group_by(n.c.ref, n.c.name)
        .order_by(n.c.name)
    )
    return {found.name: found.machines for found in conn.execute(query)}


def _refuse_what_is_left(row: Row[Any], networks: Sequence[Row[Any]], machines: dict[str, int]) -> None:
    remedy = "give them to somebody (`user delete --give-to USER`), or delete them first"
    if networks:
        raise conflict("user_has_networks", f"{row.email} owns {_told([n.name for n in networks])}", remedy)
    if machines:
        told = _told([f"{name} ({count})" for name, count in machines.items()])
        raise conflict("user_has_clients", f"{row.email} has machines in {told}", remedy.replace("delete", "remove"))


def _told(names: Sequence[str]) -> str:
    more = len(names) - MOST_TOLD
    return ", ".join(names[:MOST_TOLD]) + (f" and {more} more" if more > 0 else "")


def _give(conn: Connection, row: Row[Any], heir: Row[Any], networks: Sequence[Row[Any]]) -> None:
    n, c = schema.networks, schema.clients
    named = [network for network in networks if network.owner_id == row.id]
    theirs = sa.select(n.c.name_key).where(n.c.owner_id == heir.id, n.c.deleted_at.is_(None))
    taken = set(conn.execute(theirs).scalars())
    if alike := [network.name for network in named if network.name_key in taken]:
        raise conflict(
            "network_exists",
            f"{heir.email} has networks of the same names already: {_told(alike)}",
            "give these another name first (`network set ID --rename …`)",
        )
    for network in networks:
        set_role(conn, network, heir.email, "owner")
    conn.execute(n.update().where(n.c.owner_id == row.id).values(owner_id=heir.id))
    conn.execute(c.update().where(c.c.owner_id == row.id).values(owner_id=heir.id))


def _end(context: ServiceContext, conn: Connection, row: Row[Any], heir: Row[Any] | None) -> dict[str, list[str]]:
    """The ids of what was open and has ended, as the audit log has them."""
    k, s, sinks, i = schema.api_keys, schema.sessions, schema.sinks, schema.user_invitations
    keys = sorted(conn.execute(sa.select(k.c.id).where(k.c.user_id == row.id, k.c.revoked_at.is_(None))).scalars())
    ended = end_made_with(context, conn, keys)
    ended["invites_ended"] = sorted({*ended["invites_ended"], *revoke_invites(context, conn, row.id)})
    ended["relay_tokens_ended"] = sorted({*ended["relay_tokens_ended"], *revoke_tokens(context, conn, row.email)})
    now = context.now()
    theirs = sa.or_(i.c.owner_id == row.id, i.c.email == row.email)  # by them, and to their address
    open_ones = sa.and_(theirs, i.c.ended_at.is_(None), i.c.expires_at > now)
    gone = conn.execute(i.update().where(open_ones).values(ended_at=now).returning(i.c.id)).scalars()
    ended["invitations_ended"] = sorted({*ended["invitations_ended"], *gone})
    of_networks = sinks.c.network_ref.is_not(None)
    if heir is not None:  # a network's goes on by the rights of who has the network
        to_heir = {"owner_id": heir.id, "created_by": heir.email, "made_by": None}
        conn.execute(sinks.update().where(sinks.c.owner_id == row.id, of_networks).values(**to_heir))
    left = conn.execute(sinks.delete().where(sinks.c.owner_id == row.id).returning(sinks.c.id)).scalars()
    ended["sinks_ended"] = sorted({*ended["sinks_ended"], *left})
    ended["api_keys_ended"] = keys
    ended["sessions_ended"] = sorted(conn.execute(s.delete().where(s.c.user_id == row.id).returning(s.c.id)).scalars())
    return ended


def _roles(conn: Connection, email: str) -> list[str]:
    """The networks in which this address has a role of its own."""
    m = schema.members
    return sorted(conn.execute(sa.select(m.c.network_ref).where(m.c.email == email)).scalars())
