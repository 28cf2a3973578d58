"""The first page: the networks that one may see, how they are, and some of their machines; and each network's own page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.edge.access import At
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.web.pageneeds import MayView
from shadowmesh.controller.web.pagerouting import Cursor, NetworkID, router
from shadowmesh.controller.web.rendering import page
from shadowmesh.model import api

NETWORKS, CLIENTS = 10, 100  # on one page
_FEW = 8  # machines of a network that has a page of its own


@dataclass(frozen=True)
class Card:
    network: api.Network
    clients: Sequence[api.Client]


async def _cards(at: Services, who: Principal, after: str | None) -> dict[str, Any]:
    listed = await at.networks.list(who, after, NETWORKS)
    found = await asyncio.gather(*(at.clients.list(who, n.network_id, None, _FEW) for n in listed.networks))
    cards = [Card(n, clients.clients) for n, clients in zip(listed.networks, found, strict=True)]
    return {"cards": cards, "next": listed.next, "cursor": after}


@router.get("/")
async def dashboard(at: At, request: Request, who: MayView, cursor: Cursor = None) -> Response:
    return page(request, "dashboard.html", **await _cards(at, who, cursor))


@router.get("/live")
async def dashboard_live(at: At, request: Request, who: MayView, cursor: Cursor = None) -> Response:
    """What of the dashboard changes."""
    return page(request, "parts/cards.html", **await _cards(at, who, cursor))


async def _network(at: Services, who: Principal, network: str, cursor: str | None) -> dict[str, Any]:
    shown = await at.networks.show(who, network)
    found = await at.clients.list(who, network, cursor, CLIENTS)
    return {"network": shown, "clients": found.clients, "next": found.next, "cursor": cursor}


@router.get("/networks/{network}")
async def network_page(at: At, request: Request, who: MayView, network: NetworkID, cursor: Cursor = None) -> Response:
    return page(request, "network.html", **await _network(at, who, network, cursor))


@router.get("/networks/{network}/live")
async def network_live(at: At, request: Request, who: MayView, network: NetworkID, cursor: Cursor = None) -> Response:
    return page(request, "parts/network.html", **await _network(at, who, network, cursor))
