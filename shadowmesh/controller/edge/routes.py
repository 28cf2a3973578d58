"""The REST API under `/api/v1`: parse, call the service, answer. A network may be named by its id or its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from shadowmesh import __version__
from shadowmesh.controller.authz import no_such_network
from shadowmesh.controller.edge.access import MAX_BODY, At, Cursor, HexCursor, IdempotencyKey, Limit, is_local, source
from shadowmesh.controller.edge.needs import (
    Administrator,
    Anyone,
    MayConfigure,
    MayCreate,
    MayDelete,
    MayInvite,
    MayInviteOrRegister,
    MayReadLogs,
    MayRemoveOrRegister,
    MayView,
    SignedIn,
)
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.model import api
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolRequest
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.keys import FixedBytes
from shadowmesh.model.relaylink import RelayRegistration
from shadowmesh.protocol.signing import IdentityDocument, sign_identity


class _Route(APIRoute):
    """A path that a route writes out is that route's alone, as the API's description has it: not a name of another's pattern."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if self.param_convertors and scope["path"] in _written_out():
            return Match.NONE, {}
        return super().matches(scope)


router = APIRouter(prefix=api.API, route_class=_Route)


@cache
def _written_out() -> frozenset[str]:
    return frozenset(
        route.path for route in router.routes if isinstance(route, APIRoute) and not route.param_convertors
    )


_NAME = r"^[\x21-\x7e]+$"
Name = Annotated[str, Path(max_length=100, pattern=_NAME)]
# An id, or an e-mail address as `api.Email` lets it be: of any script, long, perhaps with a slash in it.
UserName = Annotated[str, Path(max_length=1000, pattern=r"^[^\x00-\x20\x7f]+$")]
Number = Annotated[str | None, Query(max_length=18, pattern=r"^[0-9]+$")]
NetworkQuery = Annotated[str | None, Query(max_length=100, pattern=r"^[\x21-\x7e]+$")]
_JSON = "application/json"
_PIECE = 128  # members of a map: some 30 kB


def _json(value: object) -> Response:
    return Response(to_json(value), media_type=_JSON)


def _in_pieces(answer: EnrolAnswer) -> Response:
    """The answer's JSON; a map of thousands isn't copied for each who joins, and goes out as fast as it is read."""
    snapshot = None if answer.map is None else answer.map.snapshot
    if answer.map is None or snapshot is None:
        return _json(answer)
    members = snapshot.members
    bare = msgspec.structs.replace(answer.map, snapshot=msgspec.structs.replace(snapshot, members=()))
    text = to_json(msgspec.structs.replace(answer, map=bare))
    before, _, after = text.rpartition(b'"members":[]')  # keys are sorted: nothing that others named comes after it
    opening = before + b'"members":['

    async def pieces() -> AsyncIterator[bytes]:
        yield opening
        for start in range(0, len(members), _PIECE):
            part = b",".join(members[start : start + _PIECE])
            yield b"," + part if start else part
        yield b"]" + after

    size = len(opening) + sum(memoryview(raw).nbytes for raw in members) + max(0, len(members) - 1) + 1 + len(after)
    return StreamingResponse(pieces(), media_type=_JSON, headers={"Content-Length": str(size)})


def _struct_body(kind: type[msgspec.Struct], *, required: bool = True) -> dict[str, Any]:
    """A body that msgspec reads, for the API's description. Keys and the like are text."""

    def text(part: type) -> dict[str, str]:
        return {"type": "string"} | ({"pattern": part.pattern()} if issubclass(part, FixedBytes) else {})

    (schema,), known = msgspec.json.schema_components([kind], schema_hook=text)

    def whole(part: Any) -> Any:
        """With what it refers to in its place."""
        if isinstance(part, list):
            return [whole(p) for p in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return whole(known[part["$ref"].rpartition("/")[2]])
        return {name: whole(value) for name, value in part.items()}

    return {"requestBody": {"required": required, "content": {_JSON: {"schema": whole(schema)}}}}


# first contact and enrolment


@router.get("/identity", tags=["enrolment"], dependencies=[Anyone])
async def identity(at: At, request: Request) -> Response:
    """The signed identity document: the CA bundle, signing keys, URLs and STUN ports."""
    core = at.core
    document = IdentityDocument(
        identity=core.keys.identity.public,
        ca_pem=request.app.state.trust_bundle,
        signing_keys=(core.keys.maps.public,),
        audit_keys=(core.keys.audit.public,),
        urls=core.settings.announced_urls,
        stun_ports=core.settings.stun_ports,
        issued=core.now().timestamp(),
    )
    return Response(sign_identity(core.keys.identity, document), media_type=_JSON)


@router.post(
    "/enroll/challenge",
    tags=["enrolment"],
    openapi_extra=_struct_body(ChallengeRequest, required=False),
    dependencies=[Anyone],
)
async def challenge(at: At, request: Request) -> Response:
    """A nonce for the signature of an enrolment or a relay's registration. A body may name an invite; see `model.enrol`."""
    wish = from_json(await request.body() or b"{}", ChallengeRequest)
    return _json(await at.enrolment.challenge(wish, source(request)))


@router.post("/enroll", tags=["enrolment"], openapi_extra=_struct_body(EnrolRequest), dependencies=[Anyone])
async def enroll(at: At, request: Request) -> Response:
    """Redeems an invite or a short code; see `model.enrol`."""
    wish = from_json(await request.body(), EnrolRequest)
    return _in_pieces(await at.enrolment.enrol(wish, source(request)))


@router.post("/relays/register", tags=["relays"], openapi_extra=_struct_body(RelayRegistration), dependencies=[Anyone])
async def register_relay(at: At, request: Request) -> Response:
    """Registers a relay by its token; see `model.relaylink`."""
    return _json(await at.relays.register(from_json(await request.body(), RelayRegistration)))


# signing in


@router.post("/auth/login", tags=["auth"], dependencies=[Anyone])
async def login(at: At, request: Request, wish: api.Login) -> api.Session:
    return await at.sessions.login(wish, source(request))


@router.post("/auth/refresh", tags=["auth"], dependencies=[Anyone])
async def refresh(at: At, wish: api.Refresh) -> api.Session:
    return await at.sessions.refresh(wish.refresh_token)


@router.post("/auth/logout", tags=["auth"], status_code=204, dependencies=[Anyone])
async def logout(at: At, wish: api.Refresh) -> None:
    await at.sessions.logout(wish.refresh_token)


@router.get("/whoami", tags=["auth"])
async def whoami(at: At, who: SignedIn) -> api.WhoAmI:
    urls = list(at.core.settings.public_urls)
    return api.WhoAmI(name=who.name, user=who.user_id, admin=who.admin, controller_urls=urls, version=__version__)


# networks


@router.post("/networks", tags=["networks"], status_code=201)
async def create_network(at: At, who: MayCreate, wish: api.NetworkCreate, key: IdempotencyKey = None) -> api.Network:
    return await at.networks.create(who, wish, IdempotentRequest.of(key, "networks", wish))


@router.get("/networks", tags=["networks"])
async def list_networks(at: At, who: MayView, cursor: Cursor = None, limit: Limit = 100) -> api.Page[api.Network]:
    return await at.networks.list(who, cursor, limit)


@router.get("/networks/{network}", tags=["networks"])
async def show_network(at: At, who: MayView, network: Name) -> api.Network:
    return await at.networks.show(who, network)


@router.patch("/networks/{network}", tags=["networks"])
async def set_network(at: At, who: MayConfigure, network: Name, wish: api.NetworkPatch) -> api.Network:
    return await at.networks.set(who, network, wish)


@router.delete("/networks/{network}", tags=["networks"], status_code=204)
async def delete_network(at: At, who: MayDelete, network: Name) -> None:
    await at.networks.delete(who, network)


@router.post("/networks/{network}/rotate-key", tags=["networks"])
async def rotate_key(at: At, who: MayConfigure, network: Name) -> api.Network:
    return await at.networks.rotate_key(who, network)


@router.get("/networks/{network}/map", tags=["networks"])
async def network_map(at: At, who: MayView, network: Name) -> Response:
    """The map as the members get it, with its signature."""
    shown = await at.networks.show(who, network)
    live = await at.maps.get(NetworkRef(shown.id))
    if live is None:  # deleted a moment ago
        raise no_such_network(network)
    return _json({"map": live.map.snapshot(), "signature": live.signature})


# invites


@router.post("/networks/{network}/invites", tags=["invites"], status_code=201)
async def create_invite(
    at: At, who: MayInviteOrRegister, network: Name, wish: api.InviteCreate, key: IdempotencyKey = None
) -> api.InviteCreated:
    return await at.invites.create(who, network, wish, IdempotentRequest.of(key, f"invites {network}", wish))


@router.get("/networks/{network}/invites", tags=["invites"])
async def list_invites(
    at: At, who: MayInviteOrRegister, network: Name, cursor: Cursor = None, limit: Limit = 100
) -> api.Page[api.Invite]:
    return await at.invites.list(who, network, cursor, limit)


@router.delete("/networks/{network}/invites/{invite}", tags=["invites"], status_code=204)
async def revoke_invite(at: At, who: MayInviteOrRegister, network: Name, invite: Name) -> None:
    await at.invites.revoke(who, network, invite)


# clients


@router.get("/networks/{network}/clients", tags=["clients"])
async def list_clients(
    at: At,
    who: MayView,
    network: Name,
    cursor: Cursor = None,
    limit: Limit = 100,
    state: Annotated[Literal["approved", "pending"] | None, Query()] = None,
) -> api.Page[api.Client]:
    return await at.clients.list(who, network, cursor, limit, state)


@router.get("/networks/{network}/clients/{client}", tags=["clients"])
@router.get("/networks/{network}/peers/{client}", tags=["clients"])
async def show_client(at: At, who: MayView, network: Name, client: Name) -> api.Client:
    return await at.clients.show(who, network, client)


@router.patch("/networks/{network}/clients/{client}", tags=["clients"])
async def set_client(at: At, who: MayConfigure, network: Name, client: Name, wish: api.ClientPatch) -> api.Client:
    return await at.clients.set(who, network, client, wish)


@router.post("/networks/{network}/clients/{client}/approve", tags=["clients"])
async def approve_client(at: At, who: MayInvite, network: Name, client: Name) -> api.Client:
    return await at.clients.approve(who, network, client)


@router.post("/networks/{network}/clients/{client}/deny", tags=["clients"], status_code=204)
async def deny_client(at: At, who: MayInvite, network: Name, client: Name) -> None:
    await at.clients.deny(who, network, client)


@router.delete("/networks/{network}/clients/{client}", tags=["clients"], status_code=204)
async def remove_client(at: At, who: MayRemoveOrRegister, network: Name, client: Name) -> None:
    await at.clients.remove(who, network, client)


# devices


@router.get("/devices", tags=["devices"])
async def list_devices(
    at: At, who: MayRemoveOrRegister, cursor: HexCursor = None, limit: Limit = 100
) -> api.Page[api.Device]:
    return await at.inventory.list(who, cursor, limit)


@router.get("/devices/{device}", tags=["devices"])
async def show_device(at: At, who: MayRemoveOrRegister, device: Name) -> api.Device:
    return await at.inventory.show(who, device)


@router.delete("/devices/{device}", tags=["devices"])
async def remove_device(at: At, who: MayRemoveOrRegister, device: Name) -> api.Device:
    return await at.inventory.remove(who, device)


# members


@router.get("/networks/{network}/members", tags=["members"])
async def list_members(at: At, who: MayView, network: Name) -> api.Page[api.NetworkMember]:
    return api.Page(items=list(await at.members.list(who, network)))


@router.put("/networks/{network}/members", tags=["members"])
async def put_member(at: At, who: MayConfigure, network: Name, wish: api.MemberPut) -> api.NetworkMember:
    return await at.members.put(who, network, wish)


@router.delete("/networks/{network}/members/{user:path}", tags=["members"], status_code=204)
async def remove_member(at: At, who: MayConfigure, network: Name, user: UserName) -> None:
    await at.members.remove(who, network, user)


# relays


@router.post("/relays/tokens", tags=["relays"], status_code=201)
async def create_relay_token(
    at: At, who: Administrator, wish: api.RelayTokenCreate, key: IdempotencyKey = None
) -> api.RelayTokenCreated:
    return await at.relays.create_token(who, wish, IdempotentRequest.of(key, "relay tokens", wish))


@router.get("/relays", tags=["relays"])
async def list_relays(at: At, who: MayView, cursor: Cursor = None, limit: Limit = 100) -> api.Page[api.Relay]:
    return await at.relays.list(who, cursor, limit)


@router.post("/relays/{relay}/drain", tags=["relays"])
async def drain_relay(at: At, who: Administrator, relay: Name) -> api.Relay:
    return await at.relays.drain(who, relay)


@router.post("/relays/{relay}/undrain", tags=["relays"])
async def undrain_relay(at: At, who: Administrator, relay: Name) -> api.Relay:
    return await at.relays.drain(who, relay, draining=False)


@router.delete("/relays/{relay}", tags=["relays"], status_code=204)
async def remove_relay(at: At, who: Administrator, relay: Name) -> None:
    await at.relays.remove(who, relay)


# people


@router.post("/api-keys", tags=["people"], status_code=201)
async def create_api_key(
    at: At, who: SignedIn, wish: api.ApiKeyCreate, key: IdempotencyKey = None
) -> api.ApiKeyCreated:
    return await at.api_keys.create(who, wish, IdempotentRequest.of(key, "api keys", wish))


@router.get("/api-keys", tags=["people"])
async def list_api_keys(at: At, who: SignedIn) -> api.Page[api.ApiKey]:
    return api.Page(items=list(await at.api_keys.list(who)))


@router.delete("/api-keys/{key}", tags=["people"], status_code=204)
async def revoke_api_key(at: At, who: SignedIn, key: Name) -> None:
    await at.api_keys.revoke(who, key)


@router.post("/users", tags=["people"], status_code=201)
async def create_user(at: At, who: Administrator, wish: api.UserCreate) -> api.UserCreated:
    return await at.users.create(who, wish)


@router.get("/users", tags=["people"])
async def list_users(at: At, who: Administrator) -> api.Page[api.User]:
    return api.Page(items=list(await at.users.list(who)))


@router.patch("/users/{user:path}", tags=["people"])
async def set_user(at: At, who: Administrator, user: UserName, wish: api.UserPatch) -> api.User:
    return await at.users.set(who, user, wish)


@router.post("/users/{user:path}/reset-password", tags=["people"])
async def reset_password(at: At, who: Administrator, user: UserName) -> api.UserCreated:
    return await at.users.reset_password(who, user)


# audit and events


@router.get("/audit", tags=["audit"])
async def list_audit(at: At, who: Administrator, cursor: Number = None, limit: Limit = 100) -> api.Page[api.AuditEntry]:
    return await at.audit.list(who, int(cursor or 0), limit)


@router.get("/audit/verify", tags=["audit"])
async def verify_audit(at: At, who: Administrator) -> api.AuditVerdict:
    return await at.audit.verify(who)


@router.get("/events", tags=["events"])
async def list_events(
    at: At, who: MayReadLogs, cursor: Number = None, network: NetworkQuery = None
) -> api.Page[api.Event]:
    """What the WebSocket `/api/v1/ws` tells, for those who would rather ask."""
    return await at.events.log(who, int(cursor or 0), network)


@router.get("/status", tags=["audit"])
async def status(at: At, who: Administrator, request: Request) -> dict[str, Any]:
    """How the controller is: connections, where it is asked from."""
    return {
        "version": __version__,
        "devices": len(at.hub.devices),
        "relays": len(at.hub.relays),
        "local": is_local(request),
        "max_body": MAX_BODY,
    }
