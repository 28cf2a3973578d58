"""Who asks, and how much they may send: what every request passes first."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Header, Query, Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh.controller.authz import LOCAL, Principal
from shadowmesh.controller.edge.connections import active
from shadowmesh.controller.edge.problems import of_error, problem
from shadowmesh.controller.errors import not_allowed
from shadowmesh.controller.service.services import Services
from shadowmesh.model.addresses import source_of
from shadowmesh.model.errors import ShadowMeshError

MAX_BODY = 256 * 1024
MAX_STRANGERS_BODY = 16 * 1024  # the longest, an enrolment, has 3
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
    """Gathers a request's body: up to MAX_BODY bytes of who is signed in, up to MAX_STRANGERS_BODY of others.

    Whether or not a request says its length, no more is read than it may have.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        length = int(announced) if announced.isdecimal() and len(announced) < 20 else MAX_BODY + 1
        body, most = bytearray(), MAX_STRANGERS_BODY
        while True:
            if max(length, len(body)) > most:
                refused = await self._refusal(scope, max(length, len(body)))
                if refused is not None:
                    await refused(scope, receive, send)
                    return  # what still comes is thrown away as it comes, for as long as a body may take
                most = MAX_BODY
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            if not message.get("more_body", False) and len(body) <= most:
                break
        delivered = False

        async def whole() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, whole, send)

    @staticmethod
    async def _refusal(scope: Scope, length: int) -> Response | None:
        """None if who asks may send so much."""
        if length > MAX_BODY:
            return problem(413, "body_too_large", f"a request has at most {MAX_BODY} bytes")
        try:
            await who_asks(HTTPConnection(scope))
        except ShadowMeshError as e:
            return of_error(e)
        return None


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
    who = await services(connection).credentials.principal(token.strip())
    active(connection)
    return who


async def at_hand(request: Request) -> Services:
    return services(request)


def foreign_origin(connection: HTTPConnection) -> bool:
    """Whether a browser sent this from another site's page."""
    origin = connection.headers.get("origin")
    if origin is None:
        return False
    settings = services(connection).core.settings
    try:
        site = urlsplit(origin)[:2]
    except ValueError:  # `http://[`
        return True
    return site not in {urlsplit(url)[:2] for url in settings.announced_urls}


At = Annotated[Services, Depends(at_hand)]
Cursor = Annotated[str | None, Query(max_length=200, pattern=r"^[\x20-\x7e]*$")]
HexCursor = Annotated[str | None, Query(max_length=200, pattern=r"^(?:[0-9a-f]{2})*$")]
Limit = Annotated[int, Query(ge=1, le=1000)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200, pattern=r"^[\x20-\x7e]+$")]
