"""A network's picture: on the page, and as a file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from fastapi import Request, Response
from markupsafe import Markup

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.edge.access import At
from shadowmesh.controller.service.limits import TooMany
from shadowmesh.controller.web.pageneeds import MaySeeLinks
from shadowmesh.controller.web.pagerouting import NetworkID, router
from shadowmesh.controller.web.rendering import page
from shadowmesh.controller.web.visits import visit_of
from shadowmesh.drawing.layout import lay_out
from shadowmesh.drawing.svg import svg

T = TypeVar("T")

MOST_OF_ONE, _MOST = 2, 16  # that are drawn or wait for it


class _Drawing:
    """One picture at a time: that of thousands of machines takes seconds and a hundred megabytes, and whoever sees a network may ask for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "drawing")
        self._asked = Counter[str]()

    async def __call__(self, who: Principal, work: Callable[[], T]) -> T:
        """Raises TooMany."""
        name = who.user_id or who.name
        if self._asked[name] >= MOST_OF_ONE or self._asked.total() >= _MOST:
            raise TooMany(5)
        self._asked[name] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._asked[name] -= 1
            self._asked += Counter()  # without those that are nothing


_drawn = _Drawing()


@router.get("/networks/{network}/topology")
async def topology_page(at: At, request: Request, who: MaySeeLinks, network: NetworkID) -> Response:
    shown = await at.networks.show(who, network)
    found = await at.connections.topology(who, network)
    nonce = visit_of(request).nonce
    picture = await _drawn(who, lambda: svg(lay_out(found), nonce=nonce))
    # What the drawing holds of names is escaped by it.
    return page(request, "topology.html", network=shown, topology=found, picture=Markup(picture))  # noqa: S704


@router.get("/networks/{network}/topology.{kind}")
async def topology_file(at: At, who: MaySeeLinks, network: NetworkID, kind: Literal["svg", "png"]) -> Response:
    found = await at.connections.topology(who, network)

    def file() -> bytes:
        from shadowmesh.drawing.png import png

        return svg(lay_out(found)).encode() if kind == "svg" else png(lay_out(found))

    media = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    headers = {"Content-Disposition": f'attachment; filename="{found.name}.{kind}"'}
    return Response(await _drawn(who, file), media_type=media, headers=headers)
