"""A network's picture: on the page, and as a file."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import Request, Response
from markupsafe import Markup

from shadowmesh.controller.edge.access import At
from shadowmesh.controller.web.pageneeds import MaySeeLinks
from shadowmesh.controller.web.pagerouting import NetworkID, router
from shadowmesh.controller.web.rendering import page
from shadowmesh.controller.web.visits import visit_of
from shadowmesh.drawing.layout import lay_out
from shadowmesh.drawing.svg import svg


@router.get("/networks/{network}/topology")
async def topology_page(at: At, request: Request, who: MaySeeLinks, network: NetworkID) -> Response:
    shown = await at.networks.show(who, network)
    found = await at.connections.topology(who, network)
    nonce = visit_of(request).nonce
    picture = await asyncio.to_thread(lambda: svg(lay_out(found), nonce=nonce))
    # What the drawing holds of names is escaped by it.
    return page(request, "topology.html", network=shown, topology=found, picture=Markup(picture))  # noqa: S704


@router.get("/networks/{network}/topology.{kind}")
async def topology_file(at: At, who: MaySeeLinks, network: NetworkID, kind: Literal["svg", "png"]) -> Response:
    found = await at.connections.topology(who, network)

    def drawn() -> bytes:
        from shadowmesh.drawing.png import png

        return svg(lay_out(found)).encode() if kind == "svg" else png(lay_out(found))

    media = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    headers = {"Content-Disposition": f'attachment; filename="{found.name}.{kind}"'}
    return Response(await asyncio.to_thread(drawn), media_type=media, headers=headers)
