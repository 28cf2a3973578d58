"""What each page needs, said in its signature, as `edge.needs` has it for REST; who asks is known by the cookie alone.

The principal is narrowed to what the page has declared, and that it holds this in the network at hand is decided where the
services look the network up (`authz.decision`). A page that changes something takes what was `posted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes

from shadowmesh.controller.authz import Permission, Principal, require_admin
from shadowmesh.controller.edge.declared import check_declared, parts_of
from shadowmesh.controller.edge.needs import Declaring
from shadowmesh.controller.refusals import not_allowed
from shadowmesh.controller.web.forms import posted, posted_by_visitor
from shadowmesh.controller.web.visits import visit_of

_READS = frozenset({"GET", "HEAD"})


async def anyone() -> None:
    """For the pages by which one signs in, and what they are made of."""


async def _visitor(request: Request, *, enrolling: bool = False) -> Principal:
    """Raises ShadowMeshError: not_signed_in, mfa_required, not_allowed."""
    who = await visit_of(request).resolve(request)
    if who.enrolling and not enrolling:
        raise not_allowed("mfa_required", "your role asks for a second factor", "set it up here first")
    if who.read_only and request.method not in _READS:
        raise not_allowed("not_allowed", "this API key only reads", "use one that isn't read-only")
    return who


async def _signed_in(request: Request) -> Principal:
    return await _visitor(request)


async def _enrolling(request: Request) -> Principal:
    return await _visitor(request, enrolling=True)


async def _administrator(request: Request) -> Principal:
    who = await _visitor(request)
    require_admin(who)
    return who


async def _narrowed(request: Request, needed: SecurityScopes) -> Principal:
    return (await _visitor(request)).narrowed(needed.scopes)


P = Permission
Anyone = Depends(anyone)
SignedIn = Annotated[Principal, Depends(_signed_in)]
Enrolling = Annotated[Principal, Depends(_enrolling)]  # also who has to set up a second factor first
Administrator = Annotated[Principal, Depends(_administrator)]
MayView = Annotated[Principal, Security(_narrowed, scopes=[P.NETWORK_VIEW])]
MaySeeLinks = Annotated[Principal, Security(_narrowed, scopes=[P.NETWORK_VIEW, P.LOGS_VIEW])]
MayCreate = Annotated[Principal, Security(_narrowed, scopes=[P.NETWORK_CREATE, P.NETWORK_VIEW])]
MayConfigure = Annotated[Principal, Security(_narrowed, scopes=[P.NETWORK_CONFIGURE, P.NETWORK_VIEW])]
MayDelete = Annotated[Principal, Security(_narrowed, scopes=[P.NETWORK_DELETE, P.NETWORK_VIEW])]
MayInvite = Annotated[Principal, Security(_narrowed, scopes=[P.NETWORK_INVITE, P.NETWORK_VIEW])]
MayRemove = Annotated[Principal, Security(_narrowed, scopes=[P.CLIENT_REMOVE, P.CLIENT_REGISTER, P.NETWORK_VIEW])]

DECLARING: Mapping[object, Declaring] = {
    anyone: Declaring(),
    _signed_in: Declaring(),
    _enrolling: Declaring(),
    _administrator: Declaring(),
    _narrowed: Declaring(scopes=True),
}


def check_pages(app: FastAPI) -> None:
    """Raises RuntimeError that names the pages which have declared no need, or change something that nobody has posted."""
    check_declared(app, {}, DECLARING)
    for route in app.routes:
        assert isinstance(route, APIRoute)
        reads = not (route.methods or set()) - _READS
        if not reads and not any(part.call in (posted, posted_by_visitor) for part in parts_of(route.dependant)):
            raise RuntimeError(f"takes a form that isn't `Posted`: {route.path}")
