"""The dashboard's own ASGI application, and how it stands beside the REST API."""

from __future__ import annotations

import re
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from shadowmesh.controller.edge.controllermetrics import RequestTimes
from shadowmesh.controller.edge.problems import public, public_remedy, status_of
from shadowmesh.controller.service.services import Services
from shadowmesh.controller.web import (
    account_pages,
    client_pages,
    dashboard_pages,
    join_pages,
    network_pages,
    people_pages,
    signin_pages,
    topology_pages,
)
from shadowmesh.controller.web.pageneeds import Anyone, check_pages
from shadowmesh.controller.web.pagerouting import NEXT, router
from shadowmesh.controller.web.rendering import HERE, HOME, noted, page
from shadowmesh.controller.web.visits import SESSION, Visits, visit_of
from shadowmesh.model.errors import ShadowMeshError

log = structlog.get_logger("shadowmesh.controller")

# each registered its own when it was imported
WITH_PAGES = (
    account_pages, client_pages, dashboard_pages, join_pages, network_pages, people_pages, signin_pages, topology_pages,
)  # fmt: skip
_STATIC = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}

# loads itself anew: that is our own page's doing, and the cookie is shown
_ONCE_MORE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>ShadowMesh</title>'
    '<meta http-equiv="refresh" content="0"><a href="">Go on</a></html>'
)


class Beside:
    """The pages below `/web/`, and the way to them from `/`; all else is the API's."""

    def __init__(self, api: ASGIApp, pages: ASGIApp) -> None:
        self._api = api
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        ours = scope["type"] == "http" and (path in ("/", "/web") or path.startswith(HOME))
        await (self._pages if ours else self._api)(scope, receive, send)


def make_pages(at: Services) -> ASGIApp:
    """Raises RuntimeError if a page has declared no need."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = at
    _refusals(app)
    app.router.routes.extend(router.routes)

    @app.get("/", dependencies=[Anyone])
    @app.get("/web", dependencies=[Anyone])
    async def home() -> Response:
        return RedirectResponse(HOME, 303)

    @app.get("/web/static/{name}", dependencies=[Anyone])
    async def static(name: str) -> Response:
        if name not in _STATIC:
            raise HTTPException(404)
        return FileResponse(HERE / "static" / name, media_type=_STATIC[name])

    check_pages(app)
    app.add_middleware(RequestTimes, at=at)
    return Visits(app, at)  # around all, so that what goes wrong has its headers, too


def _followed(request: Request) -> bool:
    """Whether somebody came by a link on another site's page: then a browser doesn't show the cookie of a session (SameSite=Strict)."""
    headers, shown = request.headers, SESSION in visit_of(request).cookies
    there = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return request.method == "GET" and there and not shown


def _refusals(app: FastAPI) -> None:
    """Errors as pages."""

    def refused(request: Request, status: int, what: str, remedy: str = "") -> Response:
        title = HTTPStatus(status).phrase
        return page(request, "refused.html", status, title=title, what=what, remedy=remedy)

    @app.exception_handler(ShadowMeshError)
    async def known(request: Request, error: ShadowMeshError) -> Response:
        status = 413 if error.code == "body_too_large" else status_of(error)
        if error.code in {"not_signed_in", "mfa_required"} and "x-live" in request.headers:
            return Response(status_code=401)  # the page is loaded anew, and led there
        if error.code == "not_signed_in" and _followed(request):
            return HTMLResponse(_ONCE_MORE)
        if error.code == "not_signed_in":
            path = request.url.path
            follows = request.method == "GET" and path != HOME and re.fullmatch(NEXT, path) is not None
            return RedirectResponse(f"/web/sign-in?next={path}" if follows else "/web/sign-in", 303)
        if error.code == "mfa_required":
            return RedirectResponse("/web/second-factor", 303)
        return noted(request, refused(request, status, public(error), public_remedy(error)), error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, _: RequestValidationError) -> Response:
        return refused(request, 404, "there is no such page")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what = "there is no such page" if error.status_code == HTTPStatus.NOT_FOUND else str(error.detail)
        return refused(request, error.status_code, what)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        log.error("a page broke the controller", path=request.url.path, exc_info=error)
        return Response("the controller made a mistake; see its log\n", 500, media_type="text/plain")
