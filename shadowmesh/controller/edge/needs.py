"""What each route needs, said in its signature. A route can do no more than it has said: its principal is narrowed to it.

`who: MayView` reads: someone signed in, for `network.view` and nothing else. That they hold it in the network at hand is
checked where the network is looked up, in the transaction that uses it. The API's description tells it as scopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes

from shadowmesh.controller.authz import Permission, Principal, require_admin
from shadowmesh.controller.edge.access import who_asks

_TOKEN = Annotated[
    object, Depends(HTTPBearer(auto_error=False, scheme_name="token", description="An access token or an API key"))
]


async def anyone() -> None:
    """For routes that prove who asks in their own way, or say nothing that isn't public."""


async def _signed_in(request: Request, _token: _TOKEN) -> Principal:
    return await who_asks(request)


async def _enrolling(request: Request, _token: _TOKEN) -> Principal:
    return await who_asks(request, enrolling=True)


async def _administrator(request: Request, _token: _TOKEN) -> Principal:
    who = await who_asks(request)
    require_admin(who)
    return who


async def _narrowed(request: Request, needed: SecurityScopes, _token: _TOKEN) -> Principal:
    return (await who_asks(request)).narrowed(needed.scopes)


Anyone = Depends(anyone)
SignedIn = Annotated[Principal, Depends(_signed_in)]
Enrolling = Annotated[Principal, Depends(_enrolling)]  # also who has to set up a second factor first
Administrator = Annotated[Principal, Depends(_administrator)]
MayCreate = Annotated[Principal, Security(_narrowed, scopes=[Permission.NETWORK_CREATE, Permission.NETWORK_VIEW])]
MayView = Annotated[Principal, Security(_narrowed, scopes=[Permission.NETWORK_VIEW])]
MayConfigure = Annotated[Principal, Security(_narrowed, scopes=[Permission.NETWORK_CONFIGURE, Permission.NETWORK_VIEW])]
MayDelete = Annotated[Principal, Security(_narrowed, scopes=[Permission.NETWORK_DELETE])]
MayInvite = Annotated[Principal, Security(_narrowed, scopes=[Permission.NETWORK_INVITE])]
MayViewOrConnect = Annotated[
    Principal, Security(_narrowed, scopes=[Permission.NETWORK_VIEW, Permission.CLIENT_REGISTER])
]
MayRegister = Annotated[Principal, Security(_narrowed, scopes=[Permission.CLIENT_REGISTER])]
MayInviteOrRegister = Annotated[
    Principal, Security(_narrowed, scopes=[Permission.NETWORK_INVITE, Permission.CLIENT_REGISTER])
]
MayRemoveOrRegister = Annotated[
    Principal, Security(_narrowed, scopes=[Permission.CLIENT_REMOVE, Permission.CLIENT_REGISTER])
]
MayViewAndReadLogs = Annotated[Principal, Security(_narrowed, scopes=[Permission.NETWORK_VIEW, Permission.LOGS_VIEW])]
MayReadLogs = Annotated[Principal, Security(_narrowed, scopes=[Permission.LOGS_VIEW])]


class Declaring(NamedTuple):
    """A dependency that says who may call a route. `scopes`: it narrows to permissions, and has to name them."""

    scopes: bool = False


DECLARING: Mapping[object, Declaring] = {
    anyone: Declaring(),
    _signed_in: Declaring(),
    _enrolling: Declaring(),
    _administrator: Declaring(),
    _narrowed: Declaring(scopes=True),
}
