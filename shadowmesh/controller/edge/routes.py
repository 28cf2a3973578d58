"""The REST API under `/api/v1`: parse, call the service, answer. A network may be named by its id or its name.

What is about people is in `account_routes`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from shadowmesh import __version__
from shadowmesh.controller.authz import no_such_network
from shadowmesh.controller.edge.access import (
    MAX_BODY,
    At,
    Cursor,
    HexCursor,
    IdempotencyKey,
    Limit,
    certified,
    is_local,
    source,
)
from shadowmesh.controller.edge.needs import (
    Administrator,
    Anyone,
    MayConfigure,
    MayCreate,
    MayDelete,
    MayInvite,
    MayInviteOrRegister,
    MayReadLogs,
    MayRegister,
    MayRemoveOrRegister,
    MayView,
    MayViewOrConnect,
)
from shadowmesh.controller.edge.routing import MomentQuery, Name, NetworkQuery, Number, UserName, router
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.model import api
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolRequest
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.keys import FixedBytes
from shadowmesh.model.relaylink import RelayCertificateRequest, RelayRegistration
from shadowmesh.protocol.signing import IdentityDocument, sign_identity

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
    context = at.context
    document = IdentityDocument(
        identity=context.keys.identity.public,
        ca_pem=request.app.state.trust_bundle,
        signing_keys=(context.keys.maps.public,),
        audit_keys=(context.keys.audit.public,),
        urls=context.settings.announced_urls,
        stun_ports=context.settings.stun_ports,
        issued=context.now().timestamp(),
    )
    return Response(sign_identity(context.keys.identity, document), media_type=_JSON)


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


@router.post(
    "/relays/certificate", tags=["relays"], openapi_extra=_struct_body(RelayCertificateRequest), dependencies=[Anyone]
)
async def renew_relay_certificate(at: At, request: Request) -> Response:
    """For the relay whose certificate was shown in the TLS handshake."""
    wish = from_json(await request.body(), RelayCertificateRequest)
    return _json(await at.relays.renew(certified(request), wish))


# networks


@router.post("/networks", tags=["networks"], status_code=201)
async def create_network(
    at: At, who: MayCreate, wish: api.NetworkCreate, key: IdempotencyKey = None
) -> api.NetworkCreated:
    return await at.networks.create(who, wish, IdempotentRequest.of(key, "networks", wish))


@router.get("/networks", tags=["networks"])
async def list_networks(at: At, who: MayView, cursor: Cursor = None, limit: Limit = 100) -> api.NetworkList:
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
    live = await at.maps.get(NetworkRef(shown.network_id))
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


@router.get("/networks/{network}/code", tags=["invites"])
async def show_code(at: At, who: MayInvite, network: Name) -> api.InvitationCode:
    """The network's own invitation code, once more."""
    return await at.invites.code(who, network)


@router.post("/networks/{network}/code", tags=["invites"])
async def regenerate_code(at: At, who: MayInvite, network: Name) -> api.InvitationCode:
    """Another invitation code; the one of before is good for nothing any more."""
    return await at.invites.regenerate_code(who, network)


# clients


@router.post("/networks/{network}/clients", tags=["clients"], status_code=201)
async def register_client(
    at: At, request: Request, who: MayRegister, network: Name, wish: api.ClientRegister, key: IdempotencyKey = None
) -> api.ClientRegistered:
    """By its WireGuard key; it is a member once it has proved that key (`/enroll`)."""
    once = IdempotentRequest.of(key, f"clients {network}", wish)
    return await at.registration.register(who, network, wish, source(request), once)


@router.get("/networks/{network}/clients", tags=["clients"])
async def list_clients(
    at: At,
    who: MayViewOrConnect,
    network: Name,
    cursor: Cursor = None,
    limit: Limit = 100,
    state: Annotated[Literal["approved", "pending"] | None, Query()] = None,
) -> api.ClientList:
    return await at.clients.list(who, network, cursor, limit, state)


@router.get("/networks/{network}/clients/{client}", tags=["clients"])
async def show_client(at: At, who: MayViewOrConnect, network: Name, client: Name) -> api.Client:
    return await at.clients.show(who, network, client)


@router.get("/networks/{network}/peers/{peer}", tags=["clients"])
async def show_peer(at: At, who: MayViewOrConnect, network: Name, peer: Name) -> api.Peer:
    return await at.peers.show(who, network, peer)


@router.patch("/networks/{network}/clients/{client}", tags=["clients"])
async def set_client(at: At, who: MayConfigure, network: Name, client: Name, wish: api.ClientPatch) -> api.Client:
    return await at.clients.set(who, network, client, wish)


@router.post("/networks/{network}/clients/{client}/approve", tags=["clients"])
async def approve_client(at: At, who: MayInvite, network: Name, client: Name) -> api.Client:
    return await at.clients.approve(who, network, client)


@router.post("/networks/{network}/clients/{client}/plain-wireguard", tags=["clients"])
async def declare_plain_wireguard(at: At, who: MayInvite, network: Name, client: Name) -> api.Client:
    """Lets a registered client in that can't prove its key, as it has no daemon: who asks vouches for the key."""
    return await at.plain_wireguard.declare(who, network, client)


@router.get("/networks/{network}/clients/{client}/plain-wireguard", tags=["clients"])
async def plain_wireguard_configuration(at: At, who: MayInvite, network: Name, client: Name) -> api.PlainConfiguration:
    """What such a device has to be configured with; its preshared keys are secrets."""
    return await at.plain_wireguard.configuration(who, network, client)


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


@router.get("/relays/tokens", tags=["relays"])
async def list_relay_tokens(at: At, who: Administrator) -> api.Page[api.RelayToken]:
    """Those with which relays may register still."""
    return api.Page(items=list(await at.relays.tokens(who)))


@router.delete("/relays/tokens/{token}", tags=["relays"], status_code=204)
async def revoke_relay_token(at: At, who: Administrator, token: Name) -> None:
    """No relay registers with it any more; those that did stay."""
    await at.relays.revoke_token(who, token)


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


# nodes


@router.get("/nodes", tags=["nodes"])
async def list_nodes(at: At, who: Administrator) -> api.Page[api.ControllerNode]:
    """The controllers on this database that live; the one that answers comes first."""
    return api.Page(items=await at.nodes.living(who))


@router.post("/nodes/{node}/drain", tags=["nodes"])
async def drain_node(at: At, who: Administrator, node: Name) -> api.ControllerNode:
    """Its links move to the other nodes, and it takes no new ones."""
    return await at.nodes.drain(who, node)


@router.post("/nodes/{node}/undrain", tags=["nodes"])
async def undrain_node(at: At, who: Administrator, node: Name) -> api.ControllerNode:
    return await at.nodes.drain(who, node, draining=False)


# audit and events


@router.get("/audit", tags=["audit"])
async def list_audit(
    at: At,
    who: Administrator,
    cursor: Number = None,
    limit: Limit = 100,
    since: MomentQuery = None,
    until: MomentQuery = None,
) -> api.Page[api.AuditEntry]:
    return await at.audit.list(who, int(cursor or 0), limit, since, until)


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
async def status(at: At, who: Administrator, request: Request) -> api.ControllerStatus:
    """How the controller is: connections, where it is asked from."""
    return api.ControllerStatus(
        version=__version__,
        devices=len(at.hub.devices),
        relays=len(at.hub.relays),
        local=is_local(request),
        max_body=MAX_BODY,
    )
