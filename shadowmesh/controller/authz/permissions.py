"""What may be done, and which role may do it. Administrators hold every permission in every network."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from shadowmesh.model.api import Role


class Permission(StrEnum):
    NETWORK_CREATE = "network.create"
    NETWORK_DELETE = "network.delete"
    NETWORK_CONFIGURE = "network.configure"
    NETWORK_INVITE = "network.invite"
    NETWORK_VIEW = "network.view"
    CLIENT_REGISTER = "client.register"
    CLIENT_REMOVE = "client.remove"
    LOGS_VIEW = "logs.view"


ALL = frozenset(Permission)

_GUEST = frozenset({Permission.NETWORK_VIEW})
_MEMBER = _GUEST | {Permission.CLIENT_REGISTER, Permission.LOGS_VIEW}
_OWNER = _MEMBER | {
    Permission.NETWORK_DELETE,
    Permission.NETWORK_CONFIGURE,
    Permission.NETWORK_INVITE,
    Permission.CLIENT_REMOVE,
}
ROLES: Mapping[Role, frozenset[Permission]] = {"owner": _OWNER, "member": _MEMBER, "guest": _GUEST}
