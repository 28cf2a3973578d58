"""From what someone called a network to its row, if they may. To who has no role in it a network doesn't exist."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz.decision import Standing, decide, said
from shadowmesh.controller.authz.permissions import READING
from shadowmesh.controller.authz.principal import Principal, out_of_scope
from shadowmesh.controller.authz.rolegrants import networks_where, standings
from shadowmesh.controller.refusals import MOST_NAMES, not_allowed, unknown, usage
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model.api import Permission
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import is_id

_CANDIDATES = 5


def find_network(conn: Connection, who: Principal, name: str, *needed: Permission, lock: bool = False) -> Row[Any]:
    """The living network of this id or name in which `who` holds one of the `needed` permissions; with none, has a role.

    `lock`: others' changes to it wait, to its roles too. Raises ShadowMeshError: network_unknown (also if it is
    another's), network_ambiguous, not_allowed.
    """
    n = schema.networks
    by = n.c.ref == name if is_id(name, "net") else n.c.name_key == name.lower()
    query = sa.select(n).where(by, n.c.deleted_at.is_(None), _of(conn, who)).order_by(n.c.ref).limit(_CANDIDATES + 1)
    found = conn.execute(query).all()
    if len(found) > 1:
        raise _ambiguous(name, found)
    row = living_network(conn, found[0].ref, lock=lock) if found else None
    if row is None:
        theirs = sa.select(n.c.name).where(n.c.deleted_at.is_(None), _of(conn, who)).limit(MOST_NAMES)
        raise no_such_network(name, conn.execute(theirs).scalars().all())
    standing = standing_of(conn, who, row.ref)
    if standing is None:
        raise no_such_network(name)  # it was taken away a moment ago
    if needed and not (standing.permissions & who.scopes).intersection(needed):
        raise _lacks(row, standing, needed)
    return row


def _ambiguous(name: str, found: Sequence[Row[Any]]) -> ShadowMeshError:
    candidates = ", ".join(f"{row.ref} ({row.name}, {row.subnet})" for row in found[:_CANDIDATES])
    more = ", …" if len(found) > _CANDIDATES else ""
    return usage("network_ambiguous", f"{name[:80]!r} names several networks: {candidates}{more}", "use an id")


def require_in(conn: Connection, who: Principal, network: Row[Any], needed: Permission) -> None:
    """More than `find_network` asked for. Raises ShadowMeshError(not_allowed)."""
    standing = standing_of(conn, who, network.ref)
    if standing is None or needed not in standing.permissions & who.scopes:
        raise _lacks(network, standing, (needed,))


def _lacks(network: Row[Any], standing: Standing | None, needed: Sequence[Permission]) -> ShadowMeshError:
    if standing is None or standing.permissions.intersection(needed):
        return out_of_scope(needed)
    what = " or ".join(needed)
    if standing.listed:
        has = said(standing.permissions)
        return not_allowed(
            "not_allowed", f"your list of permissions in {network.name} ({has}) lacks {what}", "ask an owner"
        )
    return not_allowed(
        "not_allowed", f"the role {standing.role} in {network.name} doesn't allow {what}", "ask an owner"
    )


def permissions_in(conn: Connection, who: Principal, ref: str) -> frozenset[Permission]:
    """All that `who` may do in this network."""
    standing = standing_of(conn, who, ref)
    return frozenset() if standing is None else standing.permissions & who.scopes


def permissions_by_network(
    conn: Connection, who: Principal, refs: Collection[str]
) -> Mapping[str, frozenset[Permission]]:
    """All that `who` may do in each of these networks by what they showed, whatever a route narrowed it to."""
    who = who.whole
    most = who.scopes & READING if who.read_only else who.scopes
    if who.admin:
        found = dict.fromkeys(refs, decide((), admin=True))
    else:
        found = {ref: standing for (_, ref), standing in standings(conn, [who.email or ""], refs).items()}
    within = (ref for ref in refs if who.networks is None or ref in who.networks)
    return {ref: found[ref].permissions & most for ref in within if ref in found}


def sees_others(conn: Connection, who: Principal, ref: str) -> bool:
    """Whether, of what `who` may read of this network's logs, what others' machines did is a part."""
    standing = standing_of(conn, who, ref)
    return standing is not None and standing.oversees


def standing_of(conn: Connection, who: Principal, ref: str) -> Standing | None:
    """What the roles of `who` give them in this network, whatever what they showed is for; None if it doesn't exist for them."""
    if who.networks is not None and ref not in who.networks:
        return None
    if who.admin:
        return decide((), admin=True)
    return standings(conn, [who.email or ""], [ref]).get((who.email or "", ref))


def visible(conn: Connection, who: Principal, needed: Permission = Permission.NETWORK_VIEW) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those in which `who` holds this permission."""
    return _of(conn, who, needed) if needed in who.scopes else sa.false()


def overseen(conn: Connection, who: Principal) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those in which `who` sees what others' machines did, too."""
    n = schema.networks
    within = sa.true() if who.networks is None else n.c.ref.in_(who.networks)
    if who.admin:
        return within
    found = standings(conn, [who.email or ""])
    return sa.and_(within, n.c.ref.in_([ref for (_, ref), standing in found.items() if standing.oversees]))


def _of(conn: Connection, who: Principal, needed: Permission | None = None) -> sa.ColumnElement[bool]:
    """A condition on `networks`: those in which `who` has a role; by which they hold this permission."""
    n = schema.networks
    within = sa.true() if who.networks is None else n.c.ref.in_(who.networks)
    return within if who.admin else sa.and_(within, n.c.ref.in_(networks_where(conn, who.email, needed)))


def no_such_network(name: str, theirs: Sequence[str] = ()) -> ShadowMeshError:
    """One answer for a network that isn't there and for one that `who` has no role in. `name` is what was asked for, `theirs` are
    the names of those in which they have one."""
    what = f"there is no network {name[:80]!r}"
    return unknown("network_unknown", what, name, theirs, "shadowmesh network list")
