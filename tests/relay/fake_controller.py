"""The part of a controller that a relay talks to, over real TLS: identity, registering, the link. Driven by the test."""

from __future__ import annotations

import asyncio
import secrets
import socket
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import Challenge, LinkError, LinkMessage, read_message
from shadowmesh.model.enrol import EnrolChallenge
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import SigningPublicKey
from shadowmesh.model.relaylink import (
    FromRelay,
    Load,
    RelayHello,
    RelayRegistered,
    RelayRegistration,
    Revocations,
    TokenKeys,
    Usage,
    UsageTaken,
)
from shadowmesh.protocol.signing import (
    Context,
    IdentityDocument,
    Signer,
    hello_message,
    sign_identity,
    verify_text,
)
from shadowmesh.relay.server import boottime_clock


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The test's process keeps its own."""


class FakeController:
    """`token` is what registering wants. `hellos`, `loads`, `registrations` tell what relays said."""

    def __init__(self, certificate: tuple[Path, Path], tokens: Signer) -> None:
        self.certificate, self.tokens = certificate, tokens
        self.identity = Signer.generate()
        self.announced: tuple[str, ...] = ()  # further URLs in its identity document
        self.signing_keys: tuple[SigningPublicKey, ...] = ()
        self.issued_ago = 0.0  # seconds: a document that is played back
        self.token = "smr_" + secrets.token_urlsafe(16)
        self.registrations: list[RelayRegistration] = []
        self.hellos: asyncio.Queue[RelayHello] = asyncio.Queue()
        self.loads: asyncio.Queue[Load] = asyncio.Queue()
        self.usages: asyncio.Queue[Usage] = asyncio.Queue()
        self.takes_usage = True
        self.links: list[WebSocket] = []
        self.revoked: Revocations = Revocations(complete=True, entries=())
        self.refuse_links: LinkError | None = None
        self.wall_ahead = 0.0
        self.port = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def fingerprint(self) -> str:
        return self.identity.public.fingerprint

    def wall(self) -> float:
        return boottime_clock().wall + self.wall_ahead

    async def start(self) -> FakeController:
        sock = socket.create_server(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        config = uvicorn.Config(
            self._app(),
            ssl_certfile=str(self.certificate[0]),
            ssl_keyfile=str(self.certificate[1]),
            log_level="critical",
            ws="websockets-sansio",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([sock]))
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            await self._serving
            self._server = None

    async def say(self, message: LinkMessage) -> None:
        for link in self.links:
            await link.send_text(to_json(message).decode())

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/api/v1/identity")
        def identity() -> Response:
            document = IdentityDocument(
                identity=self.identity.public,
                ca_pem=self.certificate[0].read_text(),
                signing_keys=self.signing_keys,
                urls=(self.url, *self.announced),
                issued=self.wall() - self.issued_ago,
            )
            return Response(sign_identity(self.identity, document))

        @app.post("/api/v1/enroll/challenge")
        def challenge() -> Response:
            answer = EnrolChallenge(nonce="ab" * 32, wall=self.wall(), identity=self.identity.public)
            return Response(to_json(answer))

        @app.post("/api/v1/relays/register")
        async def register(request: Request) -> Response:
            wish = from_json(await request.body(), RelayRegistration)
            self.registrations.append(wish)
            message = hello_message(bytes.fromhex(wish.nonce), self.identity.public, wish.token)
            assert verify_text(wish.key, Context.RELAY_REGISTRATION, message, wish.signature)
            if wish.token != self.token:
                problem: dict[str, Any] = {
                    "title": "Not allowed",
                    "status": 403,
                    "code": "relay_token_invalid",
                    "detail": "this relay token is wrong or used up",
                    "remedy": "make another with `shadowmesh relay token`",
                }
                return Response(to_json(problem), status_code=403, media_type="application/problem+json")
            return Response(
                to_json(
                    RelayRegistered(
                        relay_id=RelayID("rly_test"),
                        name=wish.name + "2",
                        token_keys=(self.tokens.public,),
                        controller_urls=(self.url,),
                    )
                )
            )

        @app.websocket("/api/v1/relay-link")
        async def link(socket: WebSocket) -> None:
            await socket.accept()
            await self._link(socket)

        return app

    async def _link(self, socket: WebSocket) -> None:
        nonce = secrets.token_bytes(32)
        await socket.send_text(to_json(Challenge(nonce=nonce.hex(), wall=self.wall())).decode())
        hello = from_json(await socket.receive_text(), RelayHello)
        message = hello_message(nonce, self.identity.public, hello.boot_id)
        assert verify_text(hello.key, Context.RELAY_HELLO, message, hello.signature)
        if self.refuse_links is not None:
            await socket.send_text(to_json(self.refuse_links).decode())
            await socket.close()
            self.hellos.put_nowait(hello)
            return
        await socket.send_text(to_json(TokenKeys(keys=(self.tokens.public,), wall=self.wall())).decode())
        await socket.send_text(to_json(self.revoked).decode())
        self.links.append(socket)
        self.hellos.put_nowait(hello)
        try:
            while True:
                message = read_message(await socket.receive_text(), FromRelay)
                if isinstance(message, Usage):
                    self.usages.put_nowait(message)
                    if self.takes_usage:
                        taken = UsageTaken(ledger=message.ledger, number=message.number)
                        await socket.send_text(to_json(taken).decode())
                elif isinstance(message, Load):
                    self.loads.put_nowait(message)
        except WebSocketDisconnect:
            self.links.remove(socket)
