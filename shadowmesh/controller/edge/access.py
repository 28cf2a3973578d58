"""Who asks, and how much they may send: what every request passes first."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Header, Query, Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh.controller.authz import LOCAL, Principal
from shadowmesh.controller.edge.problems import problem
from shadowmesh.controller.errors import not_allowed
from shadowmesh.controller.service.limits import source_of
from shadowmesh.controller.service.services import Services

MAX_BODY = 256 * 1024
_MAX_TOKEN = 2000
_LOCAL = "shadowmesh.local"


class LocalSocket:
    """Wraps the app where it is served on the controller's own unix socket: whoever gets there is an administrator.

    The socket's permissions let in only root and the service's user.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            scope[_LOCAL] = True
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies over MAX_BODY, whether or not they say their length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = problem(413, "body_too_large", f"a request has at most {MAX_BODY} bytes")
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > MAX_BODY:
            await refused(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                await refused(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        delivered = False

        async def whole() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, whole, send)


def services(connection: HTTPConnection) -> Services:
    found = connection.app.state.services
    assert isinstance(found, Services)
    return found


def is_local(connection: HTTPConnection) -> bool:
    return bool(connection.scope.get(_LOCAL))


def source(connection: HTTPConnection) -> str:
    """Whose attempts are counted together."""
    return source_of(connection.client.host) if connection.client is not None else "local"


async def who_asks(connection: HTTPConnection) -> Principal:
    """Raises ShadowMeshError(not_signed_in)."""
    if is_local(connection):
        return LOCAL
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
        raise not_allowed("not_signed_in", "this needs a bearer token", "sign in with `shadowmesh login`")
    return await services(connection).credentials.principal(token.strip())


async def at_hand(request: Request) -> Services:
    return services(request)


def foreign_origin(connection: HTTPConnection) -> bool:
    """Whether a browser sent this from another site's page."""
    origin = connection.headers.get("origin")
    if origin is None:
        return False
    settings = services(connection).core.settings
    return urlsplit(origin)[:2] not in {urlsplit(url)[:2] for url in settings.public_urls}


At = Annotated[Services, Depends(at_hand)]
Cursor = Annotated[str | None, Query(max_length=200, pattern=r"^[\x20-\x7e]*$")]
Limit = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
