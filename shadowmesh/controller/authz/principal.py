"""Who asks, and the most that what they showed may be used for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from shadowmesh.controller.authz.permissions import ALL, Permission
from shadowmesh.controller.errors import not_allowed


@dataclass(frozen=True, slots=True)
class Principal:
    """`name` is how the audit log calls them. `scopes` bounds whatever their roles give: it never adds to it."""

    name: str
    user_id: str | None = None
    admin: bool = False
    scopes: frozenset[Permission] = ALL

    def narrowed(self, to: Collection[str]) -> Principal:
        """The same person, for what a route has declared that it needs and nothing else."""
        return replace(self, scopes=self.scopes & {Permission(name) for name in to})


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
        raise not_allowed("not_allowed", f"this credential isn't for {needed}", "use one that is")
