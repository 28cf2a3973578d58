"""The policy document of a user: their role in each network, and the list of permissions where there is one.

It is what `service.members` keeps, seen from the user: setting it sets all their own roles at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, permissions_from, require_admin
from shadowmesh.controller.refusals import usage
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.members import (
    counts_as_owner,
    keep_an_owner,
    remove_role,
    role_shown,
    set_role,
)
from shadowmesh.controller.service.rightchanges import Rights, settle
from shadowmesh.controller.service.users import find_user
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model import accounts, api
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.text import canonical_email


class PolicyDocuments:
    def __init__(self, context: ServiceContext, watchers: Watchers) -> None:
        self._context = context
        self._watchers = watchers

    async def show(self, who: Principal, user: str) -> accounts.PolicyDocument:
        """One's own; an administrator reads everybody's."""
        if who.limited or who.user_id is None or canonical_email(user) not in (who.user_id, who.email):
            require_admin(who)
        return await self._context.read(lambda conn: _document(conn, find_user(conn, user)))

    async def set(self, who: Principal, user: str, wish: accounts.PolicyDocumentPut) -> accounts.PolicyDocument:
        """All of it or nothing: where it names no role the user has none of their own any more.

        Raises ShadowMeshError: user_unknown, other_user, network_unknown, network_ambiguous, network_twice, last_owner.
        """
        require_admin(who)

        def tx(conn: Connection) -> tuple[accounts.PolicyDocument, frozenset[str]]:
            row = find_user(conn, user)
            if wish.user_id not in (None, row.id, row.email):
                raise usage("other_user", f"the document is of {wish.user_id}, not of {row.id}", "give it to that user")
            wanted = _wanted(conn, who, wish)
            networks = {
                ref: living_network(conn, NetworkRef(ref), lock=True)
                for ref in sorted({*wanted, *_own(conn, row.email)})
            }
            before, rights = _document(conn, row), Rights.of(conn, who, [row.email])
            roles = _own(conn, row.email)
            for ref, network in networks.items():
                if network is not None:
                    self._set(conn, who, network, row.email, wanted.get(ref), roles.get(ref))
            settled = settle(self._context, conn, rights)
            after = _document(conn, row)
            more = {"before": _shown(before), "after": _shown(after), "invites_ended": settled.invites_ended}
            record(self._context, conn, who, "user.set-policy", row.email, id=row.id, **more)
            return after, settled.users

        answer, users = await self._context.write(tx)
        for user_id in users:
            self._watchers.changed(user_id)
        return answer

    def _set(
        self,
        conn: Connection,
        who: Principal,
        network: Row[Any],
        email: str,
        wish: api.GivenRole | None,
        has: Row[Any] | None,
    ) -> None:
        """`has`: the role of now, None if there is none."""
        if has is not None and (wish is None or not counts_as_owner(wish.role, wish.permissions)):
            keep_an_owner(conn, who, network, email)
        if wish is not None:
            set_role(conn, network, email, wish.role, wish.permissions)
        elif has is not None:
            remove_role(conn, network.ref, email)


def _wanted(conn: Connection, who: Principal, wish: accounts.PolicyDocumentPut) -> Mapping[str, api.GivenRole]:
    """By the networks' ids. Raises ShadowMeshError: network_unknown, network_ambiguous, network_twice."""
    found: dict[str, api.GivenRole] = {}
    for name, role in wish.networks.items():
        ref = find_network(conn, who, name, Permission.NETWORK_CONFIGURE).ref
        if ref in found:
            raise usage("network_twice", f"the document names {name} twice, by its name and its id", "keep one of them")
        found[ref] = role
    return found


def _own(conn: Connection, email: str) -> Mapping[str, Row[Any]]:
    m = schema.members
    return {row.network_ref: row for row in conn.execute(sa.select(m).where(m.c.email == email))}


def _document(conn: Connection, user: Row[Any]) -> accounts.PolicyDocument:
    m, n = schema.members, schema.networks
    query = (
        sa.select(n.c.name, n.c.ref, m.c.role, m.c.permissions)
        .join(n, n.c.ref == m.c.network_ref)
        .where(m.c.email == user.email, n.c.deleted_at.is_(None))
        .order_by(n.c.name_key, n.c.ref)
    )
    rows = conn.execute(query).all()
    names = [row.name.lower() for row in rows]
    networks = {}
    for row in rows:
        listed = permissions_from(row.permissions)
        unique = names.count(row.name.lower()) == 1
        networks[row.name if unique else row.ref] = accounts.PolicyRole(
            role=row.role, permissions=None if listed is None else sorted(listed)
        )
    return accounts.PolicyDocument(user_id=user.id, networks=networks)


def _shown(document: accounts.PolicyDocument) -> Mapping[str, Any]:
    return {name: role_shown(r.role, r.permissions) for name, r in document.networks.items()}
