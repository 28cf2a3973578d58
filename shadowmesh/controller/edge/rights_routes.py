"""The part of the REST API that is about what people may do: groups, policy documents, and why somebody may do what."""

from __future__ import annotations

from shadowmesh.controller.edge.access import At
from shadowmesh.controller.edge.needs import Administrator, SignedIn
from shadowmesh.controller.edge.routing import KeyQuery, Name, UserName, UserQuery, router
from shadowmesh.model import accounts, api


@router.get("/users/{user:path}/policy", tags=["rights"])
async def show_policy(at: At, who: SignedIn, user: UserName) -> accounts.PolicyDocument:
    """A user's roles in networks, with the lists of permissions that widen or narrow them. One's own, or an administrator's to read."""
    return await at.policy_documents.show(who, user)


@router.put("/users/{user:path}/policy", tags=["rights"])
async def set_policy(
    at: At, who: Administrator, user: UserName, wish: accounts.PolicyDocumentPut
) -> accounts.PolicyDocument:
    """All of it or nothing. In a network that isn't named the user has no role of their own any more."""
    return await at.policy_documents.set(who, user, wish)


@router.post("/groups", tags=["rights"], status_code=201)
async def create_group(at: At, who: Administrator, wish: accounts.GroupCreate) -> accounts.Group:
    return await at.groups.create(who, wish)


@router.get("/groups", tags=["rights"])
async def list_groups(at: At, who: Administrator) -> api.Page[accounts.Group]:
    return api.Page(items=list(await at.groups.list(who)))


@router.get("/groups/{group}", tags=["rights"])
async def show_group(at: At, who: Administrator, group: Name) -> accounts.Group:
    return await at.groups.show(who, group)


@router.patch("/groups/{group}", tags=["rights"])
async def set_group(at: At, who: Administrator, group: Name, wish: accounts.GroupPatch) -> accounts.Group:
    return await at.groups.set(who, group, wish)


@router.delete("/groups/{group}", tags=["rights"], status_code=204)
async def delete_group(at: At, who: Administrator, group: Name) -> None:
    await at.groups.delete(who, group)


@router.put("/groups/{group}/users/{user:path}", tags=["rights"])
async def add_to_group(at: At, who: Administrator, group: Name, user: UserName) -> accounts.Group:
    return await at.groups.add(who, group, user)


@router.delete("/groups/{group}/users/{user:path}", tags=["rights"])
async def remove_from_group(at: At, who: Administrator, group: Name, user: UserName) -> accounts.Group:
    return await at.groups.remove(who, group, user)


@router.put("/groups/{group}/networks/{network}", tags=["rights"])
async def give_group_role(
    at: At, who: Administrator, group: Name, network: Name, wish: api.GivenRole
) -> accounts.Group:
    """All its users have this role there, with their own and those of other groups."""
    return await at.groups.give(who, group, network, wish)


@router.delete("/groups/{group}/networks/{network}", tags=["rights"])
async def take_group_role(at: At, who: Administrator, group: Name, network: Name) -> accounts.Group:
    return await at.groups.take(who, group, network)


@router.get("/networks/{network}/access", tags=["rights"])
async def explain_access(
    at: At, who: SignedIn, network: Name, user: UserQuery = None, key: KeyQuery = None
) -> accounts.AccessExplained:
    """Why somebody may do what there: oneself; others for who holds network.configure. `key`: by this API key of theirs."""
    return await at.access.explain(who, network, user, key)


@router.get("/settings", tags=["rights"])
async def show_settings(at: At, who: Administrator) -> accounts.ControllerSettings:
    return await at.sign_in_policy.show(who)


@router.patch("/settings", tags=["rights"])
async def set_settings(
    at: At, who: Administrator, wish: accounts.ControllerSettingsPatch
) -> accounts.ControllerSettings:
    """In force at once, on every node."""
    return await at.sign_in_policy.set(who, wish)
