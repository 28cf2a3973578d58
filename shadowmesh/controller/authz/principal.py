"""Who asks, and the most that what they showed may be used for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, replace

from shadowmesh.controller.authz.permissions import ALL, READING
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.model.api import Permission
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import is_id


@dataclass(frozen=True, slots=True)
class Principal:
    """`name` is how the audit log calls them. `scopes` and `networks` bound whatever their roles give: they never add to it."""

    name: str
    user_id: str | None = None
    email: str | None = None
    admin: bool = False
    scopes: frozenset[Permission] = ALL
    networks: frozenset[str] | None = None  # by id; None: all of theirs
    read_only: bool = False  # the edge lets no request through that changes something
    enrolling: bool = False  # their role asks for a second factor, and until it is set up nothing else goes
    credential: str | None = None  # the session or API key that was shown
    creates: bool = False  # everybody makes networks of their own here
    expires: dt.datetime | None = None  # when what was shown runs out
    before: frozenset[Permission] | None = None  # the scopes before a route narrowed them

    @property
    def everywhere(self) -> bool:
        """An administrator, in every network."""
        return self.admin and self.networks is None

    @property
    def administers(self) -> bool:
        """An administrator, by something without limits; what only reads may look at what administrators may look at."""
        return self.everywhere and self.scopes == (READING if self.read_only else ALL)

    @property
    def knows_people(self) -> bool:
        """Whether they may learn who is a user, and what of: an administrator, by something without limits."""
        return self.whole.administers

    @property
    def key(self) -> str | None:
        """The API key that was shown, if it was one."""
        return self.credential if self.credential is not None and is_id(self.credential, "key") else None

    @property
    def limited(self) -> bool:
        """Whether what they showed is for less than they may do themselves."""
        return self.read_only or self.scopes != ALL or self.networks is not None

    def narrowed(self, to: Collection[str]) -> Principal:
        """The same person, for what a route has declared that it needs and nothing else.

        Raises ShadowMeshError(not_allowed) if what they showed isn't for any of it.
        """
        needed = frozenset(map(Permission, to))
        if needed and not needed & self.scopes:
            raise out_of_scope(needed)
        return replace(self, scopes=self.scopes & needed, before=self.scopes)

    @property
    def whole(self) -> Principal:
        """The same person, for all that what they showed is for: what they may hand on."""
        return self if self.before is None else replace(self, scopes=self.before, before=None)


LOCAL = Principal("local", admin=True)  # whoever may use the controller's own socket
SYSTEM = Principal("controller", admin=True)


def require_admin(who: Principal) -> None:
    """Raises ShadowMeshError(not_allowed). Administering takes every scope: what was narrowed can't do it.

    What only reads may look at what administrators may look at.
    """
    if not who.admin:
        raise not_allowed("not_allowed", "this needs an administrator", "ask one, or sign in as one")
    if not who.administers:
        raise not_allowed("not_allowed", "this needs an administrator without limits", "sign in with a password")


def held_everywhere(who: Principal) -> list[Permission]:
    """What they may do in every network, and whether they make any. Who has roles in some has none of it."""
    if who.enrolling:
        return []
    if not who.everywhere:
        own = Permission.NETWORK_CREATE
        return [own] if who.creates and own in who.scopes and not (who.read_only or who.networks) else []
    most = who.scopes & READING if who.read_only else who.scopes
    return [p for p in Permission if p in most]


def require_permission(who: Principal, needed: Permission) -> None:
    """For what concerns no network that exists. Raises ShadowMeshError(not_allowed)."""
    if not (who.admin or (who.creates and needed is Permission.NETWORK_CREATE)):
        raise not_allowed("not_allowed", f"{needed} needs an administrator", "ask one, or sign in as one")
    if needed not in who.scopes or who.networks is not None:
        raise out_of_scope({needed})


def out_of_scope(needed: Collection[Permission]) -> ShadowMeshError:
    return not_allowed("not_allowed", f"this API key isn't for {' or '.join(sorted(needed))}", "use one that is")
