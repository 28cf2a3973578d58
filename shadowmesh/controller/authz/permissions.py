"""What may be done, and which role may do it. Administrators hold every permission in every network."""

from __future__ import annotations

from collections.abc import Mapping

from shadowmesh.model.api import Permission, Role

ALL = frozenset(Permission)
READING = frozenset({Permission.NETWORK_VIEW, Permission.LOGS_VIEW})

_GUEST = frozenset({Permission.NETWORK_VIEW})
_MEMBER = _GUEST | {Permission.CLIENT_REGISTER, Permission.LOGS_VIEW}
_OWNER = _MEMBER | {
    Permission.NETWORK_DELETE,
    Permission.NETWORK_CONFIGURE,
    Permission.NETWORK_INVITE,
    Permission.CLIENT_REMOVE,
}
ROLES: Mapping[Role, frozenset[Permission]] = {"owner": _OWNER, "member": _MEMBER, "guest": _GUEST}
