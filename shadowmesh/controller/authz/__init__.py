"""Who asks and what they may: permissions, roles, principals, and the only way from a name that someone gave to a network."""

from shadowmesh.controller.authz.credentials import (
    key_lives,
    key_scopes,
    lacks_second_factor,
    not_signed_in,
    require_signed_in,
    session_lives,
)
from shadowmesh.controller.authz.decision import RoleGrant, Standing, decide, outranks, said
from shadowmesh.controller.authz.networks import (
    find_network,
    no_such_network,
    overseen,
    permissions_by_network,
    permissions_in,
    require_in,
    sees_others,
    standing_of,
    visible,
)
from shadowmesh.controller.authz.permissions import ALL, READING, ROLES
from shadowmesh.controller.authz.principal import (
    LOCAL,
    SYSTEM,
    Principal,
    held_everywhere,
    out_of_scope,
    require_admin,
    require_permission,
)
from shadowmesh.controller.authz.rolegrants import (
    grants_of,
    networks_where,
    people_with_roles,
    permissions_from,
    standings,
)
from shadowmesh.model.api import Permission

__all__ = [
    "ALL",
    "LOCAL",
    "READING",
    "ROLES",
    "SYSTEM",
    "Permission",
    "Principal",
    "RoleGrant",
    "Standing",
    "decide",
    "find_network",
    "grants_of",
    "held_everywhere",
    "key_lives",
    "key_scopes",
    "lacks_second_factor",
    "networks_where",
    "no_such_network",
    "not_signed_in",
    "out_of_scope",
    "outranks",
    "overseen",
    "people_with_roles",
    "permissions_by_network",
    "permissions_from",
    "permissions_in",
    "require_admin",
    "require_in",
    "require_permission",
    "require_signed_in",
    "said",
    "sees_others",
    "session_lives",
    "standing_of",
    "standings",
    "visible",
]
