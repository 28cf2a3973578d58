"""The one place where errors become HTTP: RFC 9457 problem documents with a stable `code`."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match

from shadowmesh.controller.service.limits import TooMany
from shadowmesh.controller.store.database import StorageFailed, StorageInDoubt
from shadowmesh.model.api import Problem
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.text import escaped
from shadowmesh.serving.rarelog import RareLog

_STATUS = {
    Kind.CONFLICT: 409,
    Kind.NOT_FOUND: 404,
    Kind.NOT_ALLOWED: 403,
    Kind.USAGE: 422,
    Kind.UNREACHABLE: 503,
    Kind.FAILED: 500,
}
_NOT_SIGNED_IN = {"not_signed_in", "bad_credentials", "session_expired"}
_CONTENT: Final[dict[str, Any]] = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_RETRY_AFTER: Final[dict[str, Any]] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_MAX_ERRORS = 20


def responses(*, takes_input: bool, changes: bool) -> dict[int | str, dict[str, Any]]:
    """How a call may be refused, for the API's description."""
    statuses = [401, 403, 413, 500, 503]
    if takes_input:
        statuses += [400, 404, 422]
    if changes:
        statuses += [409, 429]
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": _CONTENT}
        | ({"headers": _RETRY_AFTER} if status == HTTPStatus.TOO_MANY_REQUESTS else {})
        for status in sorted(statuses)
    }


def status_of(error: ShadowMeshError) -> int:
    if isinstance(error, TooMany):
        return 429
    if isinstance(error, StorageFailed):
        return 503
    return 401 if error.code in _NOT_SIGNED_IN else _STATUS[error.kind]


def problem(
    status: int,
    code: str,
    detail: str,
    remedy: str = "",
    *,
    errors: Sequence[str] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, code=code, detail=detail, remedy=remedy, errors=list(errors))
    content = body.model_dump(exclude_defaults=True) | {"title": title, "status": status, "code": code}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def of_error(error: ShadowMeshError) -> JSONResponse:
    headers: dict[str, str] = {}
    status = status_of(error)
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(error.retry_after)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    details = [_safe(line) for line in error.details]
    return problem(status, error.code, _safe(public(error)), public_remedy(error), errors=details, headers=headers)


def note_failure(connection: HTTPConnection, error: ShadowMeshError) -> None:
    """What failed at the controller is in its log; rarely, as anybody may ask again and again while it fails."""
    if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _rare(connection).error("request failed", error.code, code=error.code, what=error.what)


def _rare(connection: HTTPConnection) -> RareLog:
    rare: RareLog = connection.app.state.services.context.rare
    return rare


def public(error: ShadowMeshError) -> str:
    """What happened, as far as it is anyone's business."""
    return error.PUBLIC if isinstance(error, StorageFailed) else error.what


def public_remedy(error: ShadowMeshError) -> str:
    if isinstance(error, StorageInDoubt):
        return error.REMEDY
    return "see the controller's log" if isinstance(error, StorageFailed) else error.remedy


def sentence(error: ShadowMeshError) -> str:
    """Both in one, where there is no document."""
    remedy = public_remedy(error)
    return f"{public(error)}; {remedy}" if remedy else public(error)


def _safe(text: str) -> str:
    """What came from outside may hold anything; what is told of it is one line that shows what it is."""
    return escaped(text)[:1000]


def install(app: FastAPI) -> None:
    @app.exception_handler(ShadowMeshError)
    async def _known(request: Request, error: ShadowMeshError) -> JSONResponse:
        note_failure(request, error)
        return of_error(error)

    @app.exception_handler(MalformedError)
    async def _malformed(_: Request, error: MalformedError) -> JSONResponse:
        return problem(422, "malformed", _safe(str(error)), "see the API's description")

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [_safe(f"{_place(e['loc'])}: {e['msg']}") for e in error.errors()[:_MAX_ERRORS]]
        return problem(422, "invalid_request", found[0] if found else "", "see the API's description", errors=found)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).name.lower()
        headers = dict(error.headers) if error.headers else {}
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = _allowed(request)
        return problem(error.status_code, code, str(error.detail), headers=headers)

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        *_, raised = traceback.extract_tb(error.__traceback__)
        kind = f"{type(error).__name__} at {raised.filename}:{raised.lineno}"
        _rare(request).error("a request broke the controller", kind, path=request.url.path, exc_info=error)
        return problem(500, "internal_error", "the controller made a mistake", "see its log, and report it")


def _allowed(request: Request) -> str:
    """The methods of a path, over all its routes: the router names those of the first one only."""

    def serves(method: str) -> bool:
        scope = dict(request.scope) | {"method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(method for method in _METHODS if serves(method))


def _place(location: Sequence[Any]) -> str:
    return ".".join(str(part)[:60] for part in location if part != "body") or "body"
