"""The ASGI application: REST by FastAPI, WebSockets by Starlette (lighter per connection), health and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from shadowmesh import __version__
from shadowmesh.controller.edge import links, problems, routes, watch
from shadowmesh.controller.edge.access import At, BodyLimit
from shadowmesh.controller.edge.needs import Administrator, Anyone
from shadowmesh.controller.edge.problems import problem
from shadowmesh.controller.service.services import Services
from shadowmesh.model.api import API, Problem

_PIECE = 16 * 1024


class _Live(Collector):
    """Numbers of this controller, read when asked; no name of a network or a person is among them."""

    def __init__(self, at: Services) -> None:
        self._at = at

    def collect(self) -> Iterator[Metric]:
        hub = self._at.hub
        for name, text, value in (
            ("shadowmesh_controller_devices", "Devices connected", len(hub.devices)),
            (
                "shadowmesh_controller_memberships",
                "Clients online, over all networks",
                sum(map(len, hub.networks.values())),
            ),
            ("shadowmesh_controller_relays", "Relays connected", len(hub.relays)),
            ("shadowmesh_controller_maps", "Network maps in memory", sum(1 for _ in self._at.maps)),
        ):
            yield GaugeMetricFamily(name, text, value)


class Front:
    """WebSockets go straight to their handlers: FastAPI's layers would cost each idle connection some 30 kB."""

    def __init__(self, rest: FastAPI) -> None:
        self.rest = rest
        self._sockets = {
            f"{API}/link": links.device_link,
            f"{API}/relay-link": links.relay_link,
            f"{API}/ws": watch.watch,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send)
        except asyncio.CancelledError:
            return  # the controller stops; uvicorn would log it as a failure

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.rest(scope, receive, send)
            return
        scope["app"] = self.rest
        socket = WebSocket(scope, receive, send)
        handler = self._sockets.get(scope["path"])
        if handler is None:
            await socket.close()
        else:
            await handler(socket)


_PROBLEM: dict[str, Any] = {
    "description": "What went wrong, and what to do",
    "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
}


def make_app(at: Services, trust_bundle: str) -> FastAPI:
    """The REST part; `Front` puts the WebSockets before it."""
    app = FastAPI(
        title="ShadowMesh controller",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
    )
    app.state.services = at
    app.state.trust_bundle = trust_bundle
    problems.install(app, [route for route in routes.router.routes if isinstance(route, APIRoute)])
    app.include_router(routes.router)
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Live(at))

    @app.get(f"{API}/openapi.json", include_in_schema=False)
    async def description() -> Response:
        whole = described()

        async def pieces() -> AsyncIterator[bytes]:
            """Or each slow reader would have a copy of its own waiting."""
            for start in range(0, len(whole), _PIECE):
                yield whole[start : start + _PIECE]

        return StreamingResponse(pieces(), media_type="application/json", headers={"Content-Length": str(len(whole))})

    @cache
    def described() -> bytes:
        """Made once: anyone may ask for it, and it is long."""
        return json.dumps(app.openapi(), separators=(",", ":")).encode()

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False, dependencies=[Anyone])
    async def readyz(at: At) -> Response:
        """200 when the database can be written, else 503; why, the log says."""
        if await at.readiness.ready():
            return JSONResponse({"status": "ready"})
        return problem(503, "not_ready", "the controller can't do its work now", "see its log")

    @app.get("/metrics", include_in_schema=False)
    async def metrics(_: Administrator) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_middleware(BodyLimit)
    return app
