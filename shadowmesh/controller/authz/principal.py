"""Who asks, and the most that what they showed may be used for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, replace

from shadowmesh.controller.authz.permissions import ALL, Permission
from shadowmesh.controller.errors import not_allowed
from shadowmesh.model.errors import ShadowMeshError


@dataclass(frozen=True, slots=True)
class Principal:
    """`name` is how the audit log calls them. `scopes` bounds whatever their roles give: it never adds to it."""

    name: str
    user_id: str | None = None
    email: str | None = None
    admin: bool = False
    scopes: frozenset[Permission] = ALL
    credential: str | None = None  # the session or API key that was shown
    expires: dt.datetime | None = None  # when what was shown runs out

    def narrowed(self, to: Collection[str]) -> Principal:
        """The same person, for what a route has declared that it needs and nothing else.

        Raises ShadowMeshError(not_allowed) if what they showed isn't for any of it.
        """
        needed = frozenset(map(Permission, to))
        if needed and not needed & self.scopes:
            raise out_of_scope(needed)
        return replace(self, scopes=self.scopes & needed)


LOCAL = Principal("local", admin=True)  # whoever may use the controller's own socket
SYSTEM = Principal("controller", admin=True)


def require_admin(who: Principal) -> None:
    """Raises ShadowMeshError(not_allowed). Administering takes every scope: what was narrowed can't do it."""
    if not who.admin:
        raise not_allowed("not_allowed", "this needs an administrator", "ask one, or sign in as one")
    if who.scopes != ALL:
        raise not_allowed("not_allowed", "this needs an administrator without limits", "sign in with a password")


def require_permission(who: Principal, needed: Permission) -> None:
    """For what concerns no network that exists. Raises ShadowMeshError(not_allowed)."""
    if not who.admin:
        raise not_allowed("not_allowed", f"{needed} needs an administrator", "ask one, or sign in as one")
    if needed not in who.scopes:
        raise out_of_scope({needed})


def out_of_scope(needed: Collection[Permission]) -> ShadowMeshError:
    return not_allowed("not_allowed", f"this API key isn't for {' or '.join(sorted(needed))}", "use one that is")
