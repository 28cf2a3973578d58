"""Who asks and what they may: permissions, roles, principals, and the only way from a name that someone gave to a network."""

from shadowmesh.controller.authz.credentials import key_lives, not_signed_in, require_signed_in, session_lives
from shadowmesh.controller.authz.networks import find_network, no_such_network, permissions_in, require_in, visible
from shadowmesh.controller.authz.permissions import ALL, ROLES, Permission
from shadowmesh.controller.authz.principal import LOCAL, SYSTEM, Principal, require_admin, require_permission

__all__ = [
    "ALL",
    "LOCAL",
    "ROLES",
    "SYSTEM",
    "Permission",
    "Principal",
    "find_network",
    "key_lives",
    "no_such_network",
    "not_signed_in",
    "permissions_in",
    "require_admin",
    "require_in",
    "require_permission",
    "require_signed_in",
    "session_lives",
    "visible",
]
