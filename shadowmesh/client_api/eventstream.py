"""The WebSocket of people, `/api/v1/ws`: what happens at a controller, as it happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from shadowmesh import __version__
from shadowmesh.client_api.contact import unreachable
from shadowmesh.client_api.localhttp import SOCKET_NAME, no_permission, not_running
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.client_api.unixsocket import short_path
from shadowmesh.model.api import API, Event
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import escaped

_OPEN_TIMEOUT = 10.0
_PING = 15.0
_UNAUTHORISED = 4401


@dataclass(frozen=True, slots=True)
class Subscribed:
    """From here on all that happens after number `seq` is told."""

    seq: int


async def watch(
    client: ControllerClient,
    *,
    network: str | None = None,
    since: int | None = None,
    off_loop: Callable[[Callable[[], bool]], Awaitable[bool]] = asyncio.to_thread,
) -> AsyncGenerator[Subscribed | Event, None]:
    """What happens in a network, or in all that one may see: first `Subscribed`, then events, those after number `since` if it is given.

    `client` says where and as whom; its access token is renewed, `off_loop`, where it has run out. Never ends but by ShadowMeshError:
    controller_unreachable, not_signed_in, or what the controller refuses.
    """
    renewed = False
    while True:
        try:
            async with aclosing(_subscription(client, network, since)) as telling:
                async for told in telling:
                    yield told
                    renewed = False
                    since = told.seq
        except ShadowMeshError as e:
            if e.code != "not_signed_in" or renewed or not await off_loop(client.renew):
                raise
            renewed = True


async def _subscription(
    client: ControllerClient, network: str | None, since: int | None
) -> AsyncGenerator[Subscribed | Event, None]:
    wish = {"type": "subscribe", "network_id": network, "since": since}
    async with _open(client) as socket:
        try:
            await socket.send(json.dumps({key: value for key, value in wish.items() if value is not None}))
            async for text in socket:
                yield _read(text)
        except ConnectionClosed as e:
            if e.rcvd is not None and e.rcvd.code == _UNAUTHORISED:
                raise _not_signed_in() from e
    raise ShadowMeshError(
        "controller_unreachable",
        f"{client.place} closed the connection",
        "check that the controller runs",
        kind=Kind.UNREACHABLE,
    )


def _read(text: str | bytes) -> Subscribed | Event:
    try:
        message = json.loads(text)
        if message["type"] == "subscribed":
            return Subscribed(int(message["seq"]))
        if message["type"] != "error":
            return Event.model_validate(message)
    except (ValueError, ValidationError, TypeError, KeyError) as e:
        raise ShadowMeshError(
            "bad_answer", "what the controller tells isn't understood", "is it of another version?"
        ) from e
    code = escaped(str(message.get("code", "failed")))
    if code == "not_signed_in":
        raise _not_signed_in()
    detail = escaped(str(message.get("detail", "the controller refuses to tell what happens")))
    raise ShadowMeshError(code, detail, "ask who runs the controller", kind=Kind.NOT_ALLOWED)


def _not_signed_in() -> ShadowMeshError:
    return ShadowMeshError(
        "not_signed_in", "this sign-in has run out", "sign in again with `shadowmesh login`", kind=Kind.NOT_ALLOWED
    )


@asynccontextmanager
async def _open(client: ControllerClient) -> AsyncIterator[ClientConnection]:
    """Raises ShadowMeshError."""
    try:
        socket = await _connected(client)
    except InvalidStatus as e:
        if e.response.status_code in (401, 403):
            raise _not_signed_in() from e
        raise unreachable(client.place, e) from e
    except (OSError, TimeoutError, WebSocketException) as e:
        if client.data_dir is None:
            raise unreachable(client.place, e) from e
        raise (no_permission if isinstance(e, PermissionError) else not_running)(client.data_dir) from e
    try:
        yield socket
    finally:
        await socket.close()


async def _connected(client: ControllerClient) -> ClientConnection:
    options = {
        "compression": None,
        "max_size": 2**20,
        "open_timeout": _OPEN_TIMEOUT,
        "ping_interval": _PING,
        "ping_timeout": _PING,
        "close_timeout": 1.0,
        "user_agent_header": f"shadowmesh/{__version__}",
    }
    if client.data_dir is not None:
        with short_path(client.data_dir / SOCKET_NAME) as path:
            return await unix_connect(path, f"ws://controller{API}/ws", **options)
    headers = {"Authorization": client.authorization} if client.authorization else {}
    url = f"wss://{client.place.removeprefix('https://')}{API}/ws"
    return await connect(url, ssl=client.tls, proxy=None, additional_headers=headers, **options)  # type: ignore[arg-type]
