"""The WebSockets of machines: devices on `/api/v1/link`, relays on `/api/v1/relay-link`."""

from __future__ import annotations

import asyncio
import secrets

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from shadowmesh.controller.edge.access import certified, foreign_origin, services
from shadowmesh.controller.edge.connections import proven
from shadowmesh.controller.edge.declared import DeclaredSocket, LinkProof
from shadowmesh.controller.edge.outbox import Outbox
from shadowmesh.controller.edge.pace import Pace
from shadowmesh.controller.edge.problems import sentence
from shadowmesh.controller.service.hub import DeviceLink, encode
from shadowmesh.controller.service.services import Services
from shadowmesh.model.codec import from_json
from shadowmesh.model.devicelink import (
    AuditTestimony,
    Challenge,
    EpochHeld,
    FromDevice,
    Health,
    Hello,
    Leave,
    LinkError,
    ProbeReply,
    RefreshGrant,
    Report,
    Watch,
    read_message,
)
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.relaylink import FromRelay, Load, RelayHello, Usage
from shadowmesh.protocol.signing import NONCE_SIZE

log = structlog.get_logger("shadowmesh.controller")

SERVICE_RESTART = 1012
REFUSED = 4003
MALFORMED = 4002
FORBIDDEN = 4403
_NORMAL = (1000, 1001)
_DEVICE_PACE = (200, 0.05)  # messages at once, and seconds for each more
_RELAY_PACE = (50, 0.2)


def remote(socket: WebSocket) -> str:
    return "local" if socket.client is None else f"{socket.client.host}:{socket.client.port}"


async def receive(socket: WebSocket) -> str | bytes:
    """The next message. Raises WebSocketDisconnect."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text: str | None = message.get("text")
    return text if text is not None else message.get("bytes") or b""


async def _challenge(socket: WebSocket, outbox: Outbox, at: Services) -> bytes:
    await socket.accept()
    nonce = secrets.token_bytes(NONCE_SIZE)
    outbox.post(encode(Challenge(nonce=nonce.hex(), wall=at.context.now().timestamp())))
    return nonce


async def _refuse(outbox: Outbox, code: str, what: str, close: int = REFUSED) -> None:
    outbox.post(encode(LinkError(code=code, what=what)))
    outbox.close(close, code)
    await outbox.flush()


async def _greet(socket: WebSocket, outbox: Outbox, at: Services) -> DeviceLink:
    """Challenge and hello: apart, so that an idle link doesn't hold what they took."""
    nonce = await _challenge(socket, outbox, at)
    async with asyncio.timeout(at.context.timing.hello):
        hello = from_json(await receive(socket), Hello)
    return await at.devices.hello(hello, nonce, remote(socket), outbox.post, outbox.close)


async def device_link(socket: WebSocket) -> None:
    """From challenge to end; see `model.devicelink`."""
    at, outbox, link, clean = services(socket), Outbox(socket), None, False
    if foreign_origin(socket):
        await socket.close(FORBIDDEN)
        return
    if at.nodes.draining:
        await socket.close(SERVICE_RESTART)  # another node takes it
        return
    try:
        link = await _greet(socket, outbox, at)
        if not outbox.closing:
            proven(socket)
        pace = Pace(*_DEVICE_PACE)
        while True:
            message = read_message(await receive(socket), FromDevice)
            await pace.turn()
            if message is not None:
                await at.devices.handle(link, message)
    except WebSocketDisconnect as e:
        clean = e.code in _NORMAL
    except TimeoutError:
        await _refuse(outbox, "no_hello", "no hello came in time")
    except MalformedError as e:
        await _refuse(outbox, "malformed", str(e)[:300], MALFORMED)
    except ShadowMeshError as e:
        await _refuse(outbox, e.code, sentence(e))
    finally:
        outbox.stop()
        if link is not None:
            await at.devices.seen(at.devices.gone(link, clean=clean))


async def relay_link(socket: WebSocket) -> None:
    """From challenge to end; see `model.relaylink`."""
    at, outbox, link = services(socket), Outbox(socket), None
    if foreign_origin(socket):
        await socket.close(FORBIDDEN)
        return
    if at.nodes.draining:
        await socket.close(SERVICE_RESTART)
        return
    try:
        nonce = await _challenge(socket, outbox, at)
        async with asyncio.timeout(at.context.timing.hello):
            hello = from_json(await receive(socket), RelayHello)
        link = await at.relays.hello(hello, nonce, outbox.post, outbox.close, certified(socket))
        proven(socket)
        pace = Pace(*_RELAY_PACE)
        while True:
            message = read_message(await receive(socket), FromRelay)
            await pace.turn()
            if isinstance(message, Load):
                at.relays.loaded(link, message)
            elif isinstance(message, Usage):
                await at.usage.take(link, message)
            elif message is not None:
                raise MalformedError("a second hello")
    except WebSocketDisconnect:
        pass
    except TimeoutError:
        await _refuse(outbox, "no_hello", "no hello came in time")
    except MalformedError as e:
        await _refuse(outbox, "malformed", str(e)[:300], MALFORMED)
    except ShadowMeshError as e:
        await _refuse(outbox, e.code, sentence(e))
    finally:
        outbox.stop()
        if link is not None:
            await at.relays.gone(link)


DEVICE_SOCKET = DeclaredSocket(
    device_link,
    FromDevice,
    {
        Hello: LinkProof.OWN_KEY,
        Report: LinkProof.MEMBERSHIP,
        EpochHeld: LinkProof.MEMBERSHIP,
        RefreshGrant: LinkProof.MEMBERSHIP,
        Watch: LinkProof.MEMBERSHIP,
        Health: LinkProof.MEMBERSHIP,
        Leave: LinkProof.MEMBERSHIP,
        AuditTestimony: LinkProof.DEVICE,
        ProbeReply: LinkProof.DEVICE,
    },
)
RELAY_SOCKET = DeclaredSocket(
    relay_link, FromRelay, {RelayHello: LinkProof.OWN_KEY, Load: LinkProof.RELAY, Usage: LinkProof.RELAY}
)
