"""What a page offers: only what who looks at it may do, as `authz.decision` decides it."""

from __future__ import annotations

from shadowmesh.controller.authz import Permission, Principal
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.service.services import Services
from shadowmesh.model import api


async def offered(at: Services, who: Principal, network: str, needed: Permission) -> api.Network:
    """The network, for a page of those who hold this permission there. Raises ShadowMeshError: network_unknown, not_allowed."""
    found = await at.networks.show(who, network)
    if needed not in found.permissions:
        raise not_allowed("not_allowed", f"your role in {found.name} doesn't allow {needed}", "ask an owner")
    return found
