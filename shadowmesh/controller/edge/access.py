"""Who asks, and how much they may send: what every request passes first."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Header, Query, Request
from pydantic import BeforeValidator
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh.controller.authz import LOCAL, Principal
from shadowmesh.controller.clientcerts import identity_of
from shadowmesh.controller.edge.connections import active, certificate
from shadowmesh.controller.edge.problems import note_failure, of_error, problem
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.service.services import Services
from shadowmesh.model.addresses import source_of
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import safe_part

MAX_BODY = 256 * 1024
MAX_STRANGERS_BODY = 16 * 1024  # the longest, an enrolment, has 3
_MAX_TOKEN = 2000
_LOCAL = "shadowmesh.local"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


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
        connection = HTTPConnection(scope)
        try:
            await who_asks(connection)
        except ShadowMeshError as e:
            note_failure(connection, e)
            return of_error(e)
        return None


class JsonBodies:
    """Takes a body for JSON that says it is a form, as `curl -d` does, or says nothing: no call takes anything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            said = headers.get("content-type", "").partition(";")[0].strip().lower()
            if said in ("", "application/x-www-form-urlencoded"):
                headers["content-type"] = "application/json"
        await self._app(scope, receive, send)


def services(connection: HTTPConnection) -> Services:
    found = connection.app.state.services
    assert isinstance(found, Services)
    return found


def is_local(connection: HTTPConnection) -> bool:
    return bool(connection.scope.get(_LOCAL))


def source(connection: HTTPConnection) -> str:
    """Whose attempts are counted together."""
    return source_of(connection.client.host) if connection.client is not None else "local"


def user_agent(connection: HTTPConnection) -> str:
    """What the other side says it is, as far as it can be shown."""
    return safe_part(connection.headers.get("user-agent", ""))[:100].strip()


def certified(connection: HTTPConnection) -> str | None:
    """Whom the client certificate that the connection showed stands for."""
    return identity_of(certificate(connection), services(connection).context.now())


async def who_asks(connection: HTTPConnection, *, enrolling: bool = False) -> Principal:
    """`enrolling`: also one who has a second factor to set up before all else. Raises ShadowMeshError: not_signed_in,
    not_allowed, mfa_required."""
    if is_local(connection):
        return LOCAL
    given = connection.headers.get("authorization")
    scheme, _, token = (given or "").partition(" ")
    if given is None and (identity := certified(connection)) is not None:
        if foreign_origin(connection):  # a browser shows it whoever's page asks
            raise not_allowed("not_signed_in", "a page of another site can't use this certificate", "sign in")
        who = await services(connection).credentials.of_certificate(identity)
    elif scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
        raise not_allowed("not_signed_in", "this needs a bearer token", "sign in with `shadowmesh login`")
    else:
        who = await services(connection).credentials.principal(token.strip())
    active(connection)
    if who.enrolling and not enrolling:
        raise not_allowed(
            "mfa_required", "your role asks for a second factor", "set it up with `shadowmesh user mfa enrol`"
        )
    if who.read_only and connection.scope.get("method", "GET") not in _READS:
        raise not_allowed("not_allowed", "this API key only reads", "use one that isn't read-only")
    return who


async def at_hand(request: Request) -> Services:
    return services(request)


def foreign_origin(connection: HTTPConnection) -> bool:
    """Whether a browser sent this from another site's page."""
    origin = connection.headers.get("origin")
    if origin is None:
        return False
    settings = services(connection).context.settings
    try:
        site = urlsplit(origin)[:2]
    except ValueError:  # `http://[`
        return True
    return site not in {urlsplit(url)[:2] for url in settings.announced_urls}


At = Annotated[Services, Depends(at_hand)]


def _digits(value: object) -> object:
    """A number as JSON would write it: Python reads more as one, `1_0`, `+5`, ` 5` and digits of other scripts."""
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("is no number")
    return value


Cursor = Annotated[str | None, Query(max_length=200, pattern=r"^[\x20-\x7e]*$")]
HexCursor = Annotated[str | None, Query(max_length=200, pattern=r"^(?:[0-9a-f]{2})*$")]
Limit = Annotated[int, Query(ge=1, le=1000), BeforeValidator(_digits)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200, pattern=r"^[\x20-\x7e]+$")]
