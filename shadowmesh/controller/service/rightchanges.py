"""Before and after a change of what people may do in networks: who may make it, and what ends with it.

Whoever changes roles, lists of permissions or groups does so between `Rights.of` and `settle`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Permission, Principal, Standing, outranks, said, standings
from shadowmesh.controller.authz.decision import ADMINISTRATOR, NOBODY
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.invites import revoke_invites
from shadowmesh.controller.service.revocations import rights_changed
from shadowmesh.controller.store import schema


@dataclass(frozen=True, slots=True)
class Rights:
    """What these people may do in these networks (None: in all) at one moment; and what who changes it may do himself."""

    who: Principal
    emails: frozenset[str]
    refs: frozenset[str] | None
    found: Mapping[tuple[str, str], Standing]
    own: Mapping[str, Standing]  # by network; an administrator's isn't looked up

    @classmethod
    def of(
        cls, conn: Connection, who: Principal, emails: Collection[str], refs: Collection[str] | None = None
    ) -> Rights:
        own = {} if who.admin else {ref: s for (_, ref), s in standings(conn, [who.email or ""], refs).items()}
        found = standings(conn, list(emails), refs)
        return cls(who, frozenset(emails), None if refs is None else frozenset(refs), found, own)

    def between(self, later: Mapping[tuple[str, str], Standing]) -> Iterator[tuple[str, str, Standing, Standing]]:
        """What has changed: address, network, before, after."""
        for email, ref in sorted(self.found.keys() | later.keys()):
            old, new = self.found.get((email, ref), NOBODY), later.get((email, ref), NOBODY)
            if old != new:
                yield email, ref, old, new


@dataclass(frozen=True, slots=True)
class Settled:
    """The invites that ended, and the users whose open connections have to be looked at again."""

    invites_ended: Sequence[str]
    users: frozenset[str]


def settle(context: ServiceContext, conn: Connection, before: Rights) -> Settled:
    """After the change, and before `record`. Raises ShadowMeshError(beyond_own_rights) if it gives somebody what its maker lacks."""
    changes = list(before.between(standings(conn, list(before.emails), before.refs)))
    for _, ref, old, new in changes:
        _within_own(before, ref, old, new)
    u = schema.users
    query = (
        sa.select(u.c.email, u.c.id, u.c.admin).where(u.c.email.in_({change[0] for change in changes})).order_by(u.c.id)
    )
    users = {row.email: row for row in conn.execute(query)} if changes else {}
    ended = list[str]()
    for email, ref, old, new in changes:
        user = users.get(email)
        if user is not None and not user.admin and _may_invite_no_more(old, new):
            ended += revoke_invites(context, conn, user.id, ref)
    for user in users.values():
        rights_changed(context, conn, user.id)
    return Settled(sorted(ended), frozenset(user.id for user in users.values()))


def _may_invite_no_more(old: Standing, new: Standing) -> bool:
    """Others, or at the least machines of their own."""
    lost = old.permissions - new.permissions
    if Permission.NETWORK_INVITE in new.permissions:
        return False
    return Permission.NETWORK_INVITE in lost or Permission.CLIENT_REGISTER in lost


def _within_own(before: Rights, ref: str, old: Standing, new: Standing) -> None:
    """Nobody gives what they don't have: a permission, or a role above their own. What counts is all that they showed is for."""
    own = ADMINISTRATOR if before.who.admin else before.own.get(ref, NOBODY)
    lacking = new.permissions - old.permissions - (own.permissions & before.who.whole.scopes)
    if lacking:
        raise not_allowed(
            "beyond_own_rights",
            f"you can't give {said(lacking)}, which you don't hold there yourself",
            "give less, or ask who holds it",
        )
    if not before.who.admin and outranks(new.role, own.role) and outranks(new.role, old.role):
        raise not_allowed(
            "beyond_own_rights",
            f"you can't make somebody {new.role} of a network in which you are {own.role or 'nothing'}",
            "give a lower role, or ask an owner",
        )
