"""One machine of a network: what is known of it, the paths that it reports, and what may be done with it; who waits to be let in."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request, Response
from pydantic import ValidationError

from shadowmesh.controller.authz import Permission, Principal
from shadowmesh.controller.edge.access import At
from shadowmesh.controller.edge.problems import sentence, status_of
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.web.forms import Posted
from shadowmesh.controller.web.pageneeds import MayConfigure, MayInvite, MayRemove, MaySeeLinks
from shadowmesh.controller.web.pagerouting import ClientID, Cursor, NetworkID, router
from shadowmesh.controller.web.rendering import noted, page, to
from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError

_PLACE = "/networks/{network}/clients/{client}"


@router.get(_PLACE)
async def client_page(at: At, request: Request, who: MaySeeLinks, network: NetworkID, client: ClientID) -> Response:
    return await _page(at, request, who, network, client)


@router.get(_PLACE + "/live")
async def client_live(at: At, request: Request, who: MaySeeLinks, network: NetworkID, client: ClientID) -> Response:
    return page(request, "parts/client.html", **await _shown(at, who, network, client))


async def _shown(at: Services, who: Principal, network: str, client: str) -> dict[str, Any]:
    """The machine, and its pairs in use as far as one may read the network's logs."""
    found = await at.clients.show(who, network, client)
    topology = await at.connections.topology(who, network)
    names = {c.client_id: c.name for c in topology.clients}
    pairs = []
    for pair in topology.pairs:
        if found.client_id in pair.client_ids:
            peer = next((i for i in pair.client_ids if i != found.client_id), "")
            views = sorted(pair.views, key=lambda view: view.client_id != found.client_id)  # its own view first
            pairs.append((names.get(peer, peer), peer, pair, views[0]))
    return {"client": found, "pairs": sorted(pairs, key=lambda row: row[0]), "network_id": network}


async def _page(
    at: Services,
    request: Request,
    who: Principal,
    network: str,
    client: str,
    status: int = 200,
    wrong: str = "",
    name: str = "",
) -> Response:
    shown = await _shown(at, who, network, client)
    there, found = await at.networks.show(who, network), shown["client"]
    own = found.owner is not None and found.owner == who.user_id
    removes = Permission.CLIENT_REMOVE in there.permissions or (own and Permission.CLIENT_REGISTER in there.permissions)
    return page(
        request, "client.html", status, network=there, removes=removes, wrong=wrong, name=name or found.name, **shown
    )


@router.post(_PLACE + "/rename")
async def rename(
    at: At, request: Request, who: MayConfigure, network: NetworkID, client: ClientID, form: Posted
) -> Response:
    name = form.text("name").lower()
    try:
        await at.clients.set(who, network, client, api.ClientPatch(name=name))
    except ValidationError:
        hint = "A name has lower-case letters, digits and dashes, at most 63, none at its ends but letters and digits."
        return await _page(at, request, who, network, client, 422, hint, name)
    except ShadowMeshError as e:
        if e.code in {"not_allowed", "network_unknown", "client_unknown"}:
            raise
        return noted(request, await _page(at, request, who, network, client, status_of(e), sentence(e), name), e)
    return to(f"/web/networks/{network}/clients/{client}", "renamed")


@router.post(_PLACE + "/approve")
async def approve(at: At, who: MayInvite, network: NetworkID, client: ClientID, form: Posted) -> Response:
    await at.clients.approve(who, network, client)
    return to("/web/approvals" if form.flag("queue") else f"/web/networks/{network}/clients/{client}", "approved")


@router.post(_PLACE + "/deny")
async def deny(at: At, who: MayInvite, network: NetworkID, client: ClientID, form: Posted) -> Response:
    await at.clients.deny(who, network, client)
    return to("/web/approvals" if form.flag("queue") else f"/web/networks/{network}", "denied")


@router.post(_PLACE + "/remove")
async def remove(at: At, who: MayRemove, network: NetworkID, client: ClientID, form: Posted) -> Response:
    await at.clients.remove(who, network, client)
    return to(f"/web/networks/{network}", "removed")


async def _waiting(at: Services, who: Principal, cursor: str | None) -> dict[str, Any]:
    listed = await at.networks.list(who, cursor, 200)
    there = [n for n in listed.networks if n.pending and Permission.NETWORK_INVITE in n.permissions]
    found = await asyncio.gather(*(at.clients.list(who, n.network_id, None, 50, "pending") for n in there))
    return {"waiting": list(zip(there, found, strict=True)), "next": listed.next}


@router.get("/approvals")
async def approvals(at: At, request: Request, who: MayInvite, cursor: Cursor = None) -> Response:
    return page(request, "approvals.html", **await _waiting(at, who, cursor))
