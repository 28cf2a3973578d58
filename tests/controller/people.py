"""People who use the API: each with a session of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shadowmesh.client_api.contact import first_contact
from shadowmesh.model import accounts, api

if TYPE_CHECKING:
    from tests.controller.conftest import World

PATIENCE = 8.0


@dataclass
class Person:
    world: World
    user: str
    email: str
    password: str
    session: accounts.Session

    @property
    def token(self) -> str:
        return self.session.access_token

    async def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        async with web(self.world) as client:
            return await client.request(method, f"/api/v1{path}", json=body, headers=headers)

    @asynccontextmanager
    async def watching(self, *, token: str | None = None, **subscription: Any) -> AsyncIterator[Watch]:
        contact = await asyncio.to_thread(first_contact, self.world.url, self.world.fingerprint)
        headers = {"Authorization": f"Bearer {token or self.token}"}
        url = self.world.url.replace("https", "wss") + "/api/v1/ws"
        async with connect(url, ssl=contact.tls, proxy=None, additional_headers=headers) as socket:
            watch = Watch(socket)
            await socket.send(json.dumps({"type": "subscribe"} | subscription))
            if (first := await watch.either("subscribed", "error"))["type"] == "error":
                raise Refused(first["code"])
            yield watch

    async def subscribing(self, token: str, network: str) -> str:
        """What comes of subscribing to this network: `ok`, or an error's code."""
        try:
            async with self.watching(token=token, network_id=network):
                return "ok"
        except Refused as e:
            return e.code


class Refused(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Watch:
    """An open subscription, and what it told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.told: list[dict[str, Any]] = []

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first message of this type with these fields (of the message, or of its data)."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = json.loads(await self.socket.recv())
                self.told.append(message)
                known = message | message.get("data", {})
                if message["type"] == kind and all(known.get(k) == v for k, v in fields.items()):
                    return message

    async def either(self, *kinds: str) -> dict[str, Any]:
        """The first message of one of these types."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                self.told.append(message)
                if message["type"] in kinds:
                    return message

    async def ended(self) -> tuple[int | None, str]:
        """Waits for the end: the close code, and the error's code that came before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    self.told.append(json.loads(await self.socket.recv()))
            except ConnectionClosed:
                pass
        errors = [m["code"] for m in self.told if m["type"] == "error"]
        return self.socket.close_code, errors[-1] if errors else ""


@asynccontextmanager
async def web(world: World) -> AsyncIterator[httpx.AsyncClient]:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, trust_env=False, timeout=20) as client:
        yield client


async def person(world: World, name: str, roles: Mapping[str, str] = {}, *, admin: bool = False) -> Person:
    """Someone who has signed in, with these roles in networks."""
    email = f"{name}@example.org"
    made = await world.call("user_create", accounts.UserCreate(email=email, admin=admin))
    for network, role in roles.items():
        await world.call("member_set", network, api.MemberPut(email=email, role=role))  # type: ignore[arg-type]
    return await signed_in(world, made, f"the password of {name}")


async def signed_in(world: World, made: accounts.UserCreated, password: str) -> Person:
    """With the password that was given out, which is for one use."""
    wish = accounts.Login(email=made.email, password=made.password, new_password=password)
    session = await world.at.signing_in.login(wish, "192.0.2.7")
    return Person(world, made.id, made.email, password, session)
