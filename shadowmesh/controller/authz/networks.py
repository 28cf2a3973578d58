"""From what someone called a network to its row, if they may. To who has no role in it a network doesn't exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz.permissions import ALL, ROLES, Permission
from shadowmesh.controller.authz.principal import Principal, out_of_scope
from shadowmesh.controller.errors import not_allowed, not_found, usage
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model.api import Role
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import is_id

_CANDIDATES = 5


def find_network(conn: Connection, who: Principal, name: str, *needed: Permission, lock: bool = False) -> Row[Any]:
    """The living network of this id or name in which `who` holds one of the `needed` permissions.

    `lock`: others' changes to it wait, to its roles too. Raises ShadowMeshError: network_unknown (also if it is
    another's), network_ambiguous, not_allowed.
    """
    n = schema.networks
    by = n.c.ref == name if is_id(name, "net") else n.c.name_key == name.lower()
    query = sa.select(n).where(by, n.c.deleted_at.is_(None), _of(who)).order_by(n.c.ref).limit(_CANDIDATES + 1)
    found = conn.execute(query).all()
    if len(found) > 1:
        raise _ambiguous(name, found)
    row = living_network(conn, found[0].ref, lock=lock) if found else None
    if row is None:
        raise no_such_network(name)
    role, held = _held(conn, who, row.ref)
    if role is None and not who.admin:
        raise no_such_network(name)  # it was taken away a moment ago
    if not held.intersection(needed):
        raise _lacks(row, role, needed)
    return row


def _ambiguous(name: str, found: Sequence[Row[Any]]) -> ShadowMeshError:
    candidates = ", ".join(f"{row.ref} ({row.name}, {row.subnet})" for row in found[:_CANDIDATES])
    more = ", …" if len(found) > _CANDIDATES else ""
    return usage("network_ambiguous", f"{name[:80]!r} names several networks: {candidates}{more}", "use an id")


def require_in(conn: Connection, who: Principal, network: Row[Any], needed: Permission) -> None:
    """More than `find_network` asked for. Raises ShadowMeshError(not_allowed)."""
    role, held = _held(conn, who, network.ref)
    if needed not in held:
        raise _lacks(network, role, (needed,))


def _lacks(network: Row[Any], role: Role | None, needed: Sequence[Permission]) -> ShadowMeshError:
    if role is None or ROLES[role].intersection(needed):
        return out_of_scope(needed)
    what = " or ".join(needed)
    return not_allowed("not_allowed", f"the role {role} in {network.name} doesn't allow {what}", "ask an owner")


def permissions_in(conn: Connection, who: Principal, ref: str) -> frozenset[Permission]:
    """All that `who` may do in this network."""
    return _held(conn, who, ref)[1]


def _held(conn: Connection, who: Principal, ref: str) -> tuple[Role | None, frozenset[Permission]]:
    if who.admin:
        return None, ALL & who.scopes
    m = schema.members
    query = sa.select(m.c.role).where(m.c.network_ref == ref, m.c.email == who.email)
    role: Role | None = conn.execute(query).scalar_one_or_none()
    return role, frozenset() if role is None else ROLES[role] & who.scopes


def visible(who: Principal, needed: Permission = Permission.NETWORK_VIEW) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those in which `who` holds this permission."""
    return _of(who, needed) if needed in who.scopes else sa.false()


def _of(who: Principal, needed: Permission | None = None) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those in which `who` has a role; one that gives this permission."""
    if who.admin:
        return sa.true()
    m = schema.members
    roles = [role for role, permissions in ROLES.items() if needed is None or needed in permissions]
    mine = sa.select(m.c.network_ref).where(m.c.email == who.email, m.c.role.in_(roles))
    return schema.networks.c.ref.in_(mine)


def no_such_network(name: str) -> ShadowMeshError:
    """One answer for a network that isn't there and for one that `who` has no role in. `name` is what was asked for."""
    return not_found("network_unknown", f"there is no network {name[:80]!r}", "`shadowmesh network list` names them")
