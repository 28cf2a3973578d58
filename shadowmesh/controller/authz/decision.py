"""What somebody may do in a network: the one function that decides it, `decide`, and what it decides by."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shadowmesh.controller.authz.permissions import ALL, ROLES
from shadowmesh.model.api import Permission, Role

_ORDER: tuple[Role, ...] = ("guest", "member", "owner")  # each has what those before have


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """A role in a network, given to somebody (`group` is None) or to a group that they are in.

    `permissions`: a list in the place of the role's own, wider or narrower; None: the role's.
    """

    role: Role
    permissions: frozenset[Permission] | None = None
    group: str | None = None

    @property
    def given(self) -> frozenset[Permission]:
        return ROLES[self.role] if self.permissions is None else self.permissions


@dataclass(frozen=True, slots=True)
class Standing:
    """What comes of them. `listed`: their own list decided. `oversees`: others' machines are in the logs that they read."""

    role: Role | None = None
    permissions: frozenset[Permission] = frozenset()
    listed: bool = False
    oversees: bool = False


NOBODY = Standing()
ADMINISTRATOR = Standing(permissions=ALL, oversees=True)


def decide(grants: Iterable[RoleGrant], *, admin: bool = False) -> Standing:
    """An administrator has everything. Else one's own list is the last word; without one it is all that the own role and
    those of the groups give together."""
    if admin:
        return ADMINISTRATOR
    grants = tuple(grants)
    counted = tuple(g for g in grants if g.group is None and g.permissions is not None) or grants
    return Standing(
        role=max((g.role for g in counted), key=_ORDER.index, default=None),
        permissions=frozenset().union(*(g.given for g in counted)),
        listed=any(g.group is None and g.permissions is not None for g in counted),
        oversees=any(g.role == "owner" and Permission.LOGS_VIEW in g.given for g in counted),
    )


def outranks(role: Role | None, other: Role | None) -> bool:
    """Whether `role` is a higher one than `other`."""
    return role is not None and (other is None or _ORDER.index(role) > _ORDER.index(other))


def said(permissions: Collection[Permission]) -> str:
    """As a sentence has them."""
    return ", ".join(p for p in Permission if p in permissions) or "nothing"
