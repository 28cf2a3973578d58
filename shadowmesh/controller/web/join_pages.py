"""How a machine comes into a network: three steps, and the machine as it arrives."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import segno
from fastapi import Request, Response
from markupsafe import Markup

from shadowmesh.controller.authz import Permission, Principal
from shadowmesh.controller.edge.access import At
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.web.forms import Posted
from shadowmesh.controller.web.offers import offered
from shadowmesh.controller.web.pageneeds import MayInvite, SignedIn
from shadowmesh.controller.web.pagerouting import NetworkID, router
from shadowmesh.controller.web.rendering import page
from shadowmesh.model import api
from shadowmesh.model.joinconfig import client_configuration

_RECENT = dt.timedelta(hours=1)


def qr(text: str) -> Markup:
    """As SVG, to stand in a page."""
    out = io.BytesIO()
    segno.make(text, error="m").save(out, kind="svg", xmldecl=False, svgns=True, scale=4, border=2, light="#fff")
    return Markup(out.getvalue().decode())  # noqa: S704 - shapes alone


def _command(at: Services, code: str) -> str:
    context = at.context
    url, fingerprint = context.settings.public_urls[0], context.keys.identity.public.fingerprint
    return f"shadowmesh register --controller {url} \\\n  --fingerprint {fingerprint} \\\n  --invite {code}"


async def _arrived(at: Services, who: Principal, network: str) -> list[api.Client]:
    """Who came within the last hour, the newest first."""
    return await at.clients.arrived(who, network, at.context.now() - _RECENT, 10)


async def _shown(at: Services, who: Principal, network: str, code: api.InvitationCode | None) -> dict[str, Any]:
    shown = await offered(at, who, network, Permission.NETWORK_INVITE)
    command = _command(at, "CODE" if code is None else code.invitation_code)
    picture = None if code is None else qr(command.replace("\\\n ", ""))
    return {
        "network": shown,
        "code": code,
        "command": command,
        "qr": picture,
        "clients": await _arrived(at, who, network),
    }


@router.get("/networks/{network}/join")
async def join_page(at: At, request: Request, who: MayInvite, network: NetworkID) -> Response:
    return page(request, "join.html", **await _shown(at, who, network, None))


@router.get("/networks/{network}/join/live")
async def join_live(at: At, request: Request, who: MayInvite, network: NetworkID) -> Response:
    shown = await offered(at, who, network, Permission.NETWORK_INVITE)
    return page(request, "parts/arrived.html", network=shown, clients=await _arrived(at, who, network))


@router.post("/networks/{network}/join")
async def show_code(at: At, request: Request, who: MayInvite, network: NetworkID, form: Posted) -> Response:
    """The same with the network's code; the audit log says who saw it."""
    return page(request, "join.html", **await _shown(at, who, network, await at.invites.code(who, network)))


@router.post("/networks/{network}/code")
async def regenerate_code(at: At, who: MayInvite, request: Request, network: NetworkID, form: Posted) -> Response:
    return page(request, "join.html", **await _shown(at, who, network, await at.invites.regenerate_code(who, network)))


@router.get("/networks/{network}/client-config.yaml")
async def client_config(at: At, who: MayInvite, network: NetworkID) -> Response:
    """For `shadowmesh daemon run --config`: where to, and an API key's place. It has no secret in it."""
    shown = await offered(at, who, network, Permission.NETWORK_INVITE)
    context = at.context
    url, fingerprint = context.settings.public_urls[0], context.keys.identity.public.fingerprint
    text = client_configuration(url, fingerprint, shown.network_id, shown.name)
    headers = {"Content-Disposition": 'attachment; filename="client-config.yaml"'}
    return Response(text, media_type="application/yaml", headers=headers)


@router.get("/help")
async def help_page(request: Request, who: SignedIn) -> Response:
    return page(request, "help.html")
