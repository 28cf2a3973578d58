"""The ASGI application: REST by FastAPI, WebSockets by Starlette (lighter per connection), health and metrics."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from shadowmesh import __version__
from shadowmesh.controller.edge import (
    account_routes,
    connection_routes,
    problems,
    rights_routes,
    routes,
    sink_routes,
    template_routes,
    usage_routes,
    watch,
    websockets,
)
from shadowmesh.controller.edge.access import At, BodyLimit, JsonBodies
from shadowmesh.controller.edge.controllermetrics import ControllerMetrics, RequestTimes
from shadowmesh.controller.edge.declared import DeclaredSocket, check_declared
from shadowmesh.controller.edge.examples import add_examples
from shadowmesh.controller.edge.needs import Administrator, Anyone
from shadowmesh.controller.edge.problems import problem
from shadowmesh.controller.edge.routing import router
from shadowmesh.controller.service.services import Services
from shadowmesh.model.api import API, Problem

# each registered its own when it was imported
WITH_ROUTES = (account_routes, connection_routes, rights_routes, routes, sink_routes, template_routes, usage_routes)
SOCKETS: Mapping[str, DeclaredSocket] = {
    f"{API}/link": websockets.DEVICE_SOCKET,
    f"{API}/relay-link": websockets.RELAY_SOCKET,
    f"{API}/ws": watch.SOCKET,
}
_PIECE = 16 * 1024
_TITLE = "ShadowMesh controller"


@cache
def described() -> bytes:
    """The API's description, as JSON. Made once: anyone may ask for it, and it is long."""
    document = get_openapi(title=_TITLE, version=__version__, routes=router.routes)
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()  # no route's answer: of its refusals
    add_examples(document)
    return json.dumps(document, separators=(",", ":")).encode()


class Front:
    """WebSockets go straight to their handlers: FastAPI's layers would cost each idle connection some 30 kB."""

    def __init__(self, rest: FastAPI, serve: ASGIApp | None = None) -> None:
        """`serve`: what requests go to; default: `rest` itself."""
        self.rest = rest
        self._serve_rest = serve or rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send)
        except asyncio.CancelledError:
            return  # the controller stops; uvicorn would log it as a failure

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._serve_rest(scope, receive, send)
            return
        scope["app"] = self.rest
        socket = WebSocket(scope, receive, send)
        found = SOCKETS.get(scope["path"])
        if found is None:
            await socket.close()
        else:
            await found.handler(socket)


def make_app(
    at: Services, trust_bundle: str, certificate_ends: Callable[[], dt.datetime | None] = lambda: None
) -> FastAPI:
    """The REST part; `Front` puts the WebSockets before it. `certificate_ends`: when the served certificate does.

    Raises RuntimeError if something of either has declared no need.
    """
    app = FastAPI(title=_TITLE, version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.services = at
    app.state.trust_bundle = trust_bundle
    problems.install(app)
    # As they are: `include_router` would make each anew at the first request, and look for a route twice at every one.
    app.router.routes.extend(router.routes)
    measured = cache(lambda: ControllerMetrics(at, certificate_ends))

    @app.get(f"{API}/openapi.json", include_in_schema=False, dependencies=[Anyone])
    async def description() -> Response:
        whole = described()

        async def pieces() -> AsyncIterator[bytes]:
            """Or each slow reader would have a copy of its own waiting."""
            for start in range(0, len(whole), _PIECE):
                yield whole[start : start + _PIECE]

        return StreamingResponse(pieces(), media_type="application/json", headers={"Content-Length": str(len(whole))})

    @app.get("/healthz", include_in_schema=False, dependencies=[Anyone])
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
        return Response(await measured().page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    check_declared(app, SOCKETS)
    app.add_middleware(JsonBodies)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestTimes, at=at)
    return app
