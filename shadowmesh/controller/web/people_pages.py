"""People: the controller's users, who is asked in, who has which role in a network."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import ValidationError

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.edge.access import At
from shadowmesh.controller.edge.problems import sentence, status_of
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.web.forms import Posted
from shadowmesh.controller.web.pageneeds import Administrator, MayConfigure, MayView
from shadowmesh.controller.web.pagerouting import Name, NetworkID, router
from shadowmesh.controller.web.rendering import noted, page, to
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import ShadowMeshError


async def _people(at: Services, who: Principal) -> dict[str, Any]:
    networks = await at.networks.list(who, None, 1000)
    return {
        "users": await at.users.list(who),
        "invitations": await at.user_invitations.list(who),
        "networks": networks.networks,
        "names": {n.network_id: n.name for n in networks.networks},
    }


@router.get("/people")
async def people_page(at: At, request: Request, who: Administrator) -> Response:
    return page(request, "people.html", made=None, said="", email="", **await _people(at, who))


@router.post("/people/invite")
async def invite_user(at: At, request: Request, who: Administrator, form: Posted) -> Response:
    """The token is on the page that comes of it, once; nothing is sent to anybody."""
    network = form.text("network") or None
    made, said, status, failed = None, "", 200, None
    try:
        role = form.text("network_role") or "member"
        fields = {"email": form.text("email"), "role": form.text("role") or "user"}
        more = {} if network is None else {"network": network, "network_role": role}
        made = await at.user_invitations.create(who, accounts.UserInvite.model_validate(fields | more))
    except ValidationError:
        said, status = "Give an e-mail address, and roles of the lists.", 422
    except ShadowMeshError as e:
        said, status, failed = sentence(e), status_of(e), e
    email = "" if made is not None else form.text("email")
    answer = page(request, "people.html", status, made=made, said=said, email=email, **await _people(at, who))
    return answer if failed is None else noted(request, answer, failed)


@router.post("/people/invitations/{invitation}/revoke")
async def revoke_invitation(at: At, who: Administrator, invitation: Name, form: Posted) -> Response:
    await at.user_invitations.revoke(who, invitation)
    return to("/web/people", "revoked")


async def _members(
    at: Services, request: Request, who: Principal, network: str, status: int = 200, said: str = "", email: str = ""
) -> Response:
    shown = await at.networks.show(who, network)
    found = await at.members.list(who, network)
    return page(request, "members.html", status, network=shown, members=found, said=said, email=email)


@router.get("/networks/{network}/people")
async def members_page(at: At, request: Request, who: MayView, network: NetworkID) -> Response:
    return await _members(at, request, who, network)


@router.post("/networks/{network}/people")
async def give_role(at: At, request: Request, who: MayConfigure, network: NetworkID, form: Posted) -> Response:
    try:
        wish = api.MemberPut.model_validate({"email": form.text("email"), "role": form.text("role")})
        await at.members.put(who, network, wish)
    except ValidationError:
        said = "Give an e-mail address, and a role of the list."
        return await _members(at, request, who, network, 422, said, form.text("email"))
    except ShadowMeshError as e:
        if e.code == "network_unknown":
            raise
        return noted(
            request, await _members(at, request, who, network, status_of(e), sentence(e), form.text("email")), e
        )
    return to(f"/web/networks/{network}/people", "role")


@router.post("/networks/{network}/people/remove")
async def take_role(at: At, who: MayConfigure, network: NetworkID, form: Posted) -> Response:
    await at.members.remove(who, network, form.text("email"))
    return to(f"/web/networks/{network}/people", "norole")
