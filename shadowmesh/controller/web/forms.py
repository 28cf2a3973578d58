"""What is posted: read up to a bound, and only from a page of this controller that was made for who is signed in."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request

from shadowmesh.controller.edge.access import foreign_origin
from shadowmesh.controller.refusals import not_allowed, usage
from shadowmesh.controller.web.visits import visit_of
from shadowmesh.model.errors import Kind, ShadowMeshError

MAX_FORM = 16 * 1024
_MAX_FIELDS = 60
_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Form:
    """The fields of a form, without the token that they came with. One that is there several times counts once, the last."""

    fields: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.fields.get(name, "").strip()

    def whole(self, name: str) -> str:
        """With its spaces: a password's are its own."""
        return self.fields.get(name, "")

    def flag(self, name: str) -> bool:
        return name in self.fields


async def posted(request: Request) -> Form:
    """Raises ShadowMeshError: wrong_origin, form_expired, body_too_large, malformed_form."""
    fields = await _sent(request)
    visit = visit_of(request)
    try:
        await visit.resolve(request)
    except ShadowMeshError as e:
        if e.code != "not_signed_in":
            raise
    return _checked(fields, visit.form_token)


async def posted_by_visitor(request: Request) -> Form:
    """The same of a form to sign in, which may have been there before somebody signed in elsewhere in this browser."""
    return _checked(await _sent(request), visit_of(request).visitor_token)


async def _sent(request: Request) -> dict[str, str]:
    if not _from_here(request):
        raise not_allowed("wrong_origin", "this was sent by another site's page", "send it from the controller's own")
    return _parsed(request, await _body(request))


def _checked(fields: dict[str, str], token: str) -> Form:
    if not hmac.compare_digest(fields.pop("token", "").encode(), token.encode()):
        raise not_allowed(
            "form_expired", "the page that this came from is too old", "go back, load it anew and try again"
        )
    return Form(fields)


Posted = Annotated[Form, Depends(posted)]
PostedByVisitor = Annotated[Form, Depends(posted_by_visitor)]


def _from_here(request: Request) -> bool:
    """Whether a browser says that a page of this controller sent it.

    Where pages tell nobody where they are (no-referrer), a form's Origin is `null`: then Sec-Fetch-Site says it, which no page can set.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin"):
        return False
    if origin is None or origin == "null":
        return site == "same-origin"
    try:
        parts = urlsplit(origin)
    except ValueError:  # `http://[`
        return False
    here = parts.scheme == "https" and parts.netloc.lower() == request.headers.get("host", "").lower()
    return here or not foreign_origin(request)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            raise BodyTooLarge()
    return bytes(body)


class BodyTooLarge(ShadowMeshError):
    def __init__(self) -> None:
        super().__init__("body_too_large", f"a form has at most {MAX_FORM} bytes", "say less", kind=Kind.USAGE)


def _parsed(request: Request, body: bytes) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind != _TYPE:
            raise ValueError
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:  # UnicodeError too
        raise usage(
            "malformed_form", "this isn't what a form of these pages sends", "use the page's own form"
        ) from None
    return dict(pairs)
