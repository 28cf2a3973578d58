"""Who asks and what they may: permissions, roles, principals, and the only way from a name that someone gave to a network."""

from shadowmesh.controller.authz.networks import find_network, no_such_network, permissions_in, visible
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
    "no_such_network",
    "permissions_in",
    "require_admin",
    "require_permission",
    "visible",
]
