"""The relay's side of its link to the controller: registering once, then keys and revocations in, load out.

The relay goes on without: what it last heard is on disk. While nobody answers it tries again, and says so once per
cause, not once per try.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast
from urllib.parse import urlsplit

import httpx
import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from shadowmesh import __version__
from shadowmesh.client_api.contact import Contact, contact_again, unreachable
from shadowmesh.client_api.dialing import Connect, http_client
from shadowmesh.client_api.link import link_lost
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import Challenge, LinkError
from shadowmesh.model.enrol import EnrolChallenge
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.model.relaylink import (
    ALIVE_SECONDS,
    LOAD_SECONDS,
    Drain,
    FromController,
    FromRelay,
    Load,
    RelayHello,
    RelayRegistered,
    RelayRegistration,
    Revocations,
    Serves,
    TokenKeys,
    UsageTaken,
)
from shadowmesh.protocol.signing import Context, hello_message, sign_text
from shadowmesh.relay.certificatefiles import RelayCertificateFiles
from shadowmesh.relay.metering import Metering
from shadowmesh.relay.relaycore import Out, RelayCore
from shadowmesh.relay.store import RelayState, RelayStore

log = structlog.get_logger(__name__)

_JSON = {"content-type": "application/json"}
_TIMEOUT = 5.0
_SILENCE = 3 * ALIVE_SECONDS  # a link on which nothing came for so long is dead
_FIRST_RETRY, _LAST_RETRY = 1.0, 15.0
_MAX_MESSAGE = 64 << 20  # a complete list of revocations
_BUSY = 0.9  # of a core
_RETRIABLE = {408, 425, 429}
_KINDS = {401: Kind.NOT_ALLOWED, 403: Kind.NOT_ALLOWED, 404: Kind.NOT_FOUND, 409: Kind.CONFLICT}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Advertised:
    """What the relay tells of itself. `public_udp` None with `udp`: the public URL's host and the port listened on."""

    name: str
    public_url: str
    udp: bool = True
    public_udp: SockAddr | None = None
    port: int = 0
    region: str = ""
    capacity_mbit: int | None = None


class _Problem(msgspec.Struct):
    """The part of an RFC 9457 document that is told to a person."""

    code: str = "refused"
    title: str = ""
    detail: str = ""
    remedy: str = ""


class RelayControllerLink:
    """`await link.run()` goes on until cancelled; it raises where trying again can't help.

    `url`, `token` and `fingerprint` are needed until the relay has registered; a fingerprint given later has to be the
    one that it registered with.
    """

    def __init__(
        self,
        core: RelayCore,
        store: RelayStore,
        advertised: Advertised,
        *,
        clock: Callable[[], Now],
        send: Callable[[Out], None],
        url: str | None = None,
        token: Secret | None = None,
        fingerprint: str | None = None,
        connect: Connect | None = None,
        mtls: bool = False,
    ) -> None:
        """`mtls`: it is linked by a certificate that it gets when it registers, and renews. Puts into the core what is known from the last time. `connect`: how connections are made. Raises ShadowMeshError (USAGE, NOT_ALLOWED)."""
        self._core = core
        self._store = store
        self._advertised = advertised
        self._clock = clock
        self._send = send
        self._url = url
        self._dial = connect
        self._mtls = mtls
        self._certificate = RelayCertificateFiles(store, connect, self._post)
        self._token = token
        self._changed = asyncio.Event()
        self._boot_id = secrets.token_hex(16)
        self._said = ""
        self._unknown = False  # the controller doesn't know this relay any more: with a new token it can register anew
        self._metering = Metering(core, store, clock)
        state = store.load()
        if state.relay_id is None and (url is None or token is None):
            raise ShadowMeshError(
                "relay_not_registered",
                "this relay is not registered yet",
                "give --controller and --token once (`shadowmesh relay token` on the controller prints one)",
                kind=Kind.USAGE,
            )
        if fingerprint and state.fingerprint and fingerprint.strip().lower() != state.fingerprint:
            raise ShadowMeshError(
                "fingerprint_mismatch",
                f"this relay is registered with the controller {state.fingerprint}, not {fingerprint}",
                "use an empty --data-dir to register with another controller",
                kind=Kind.NOT_ALLOWED,
            )
        self._state = state if state.fingerprint else msgspec.structs.replace(state, fingerprint=fingerprint)
        core.set_token_keys(state.token_keys)
        core.set_wall_offset(state.wall_offset)
        core.revoke(state.revocations, complete=True)
        core.serves = None if state.serves is None else frozenset(state.serves)

    @property
    def state(self) -> RelayState:
        return self._state

    async def run(self) -> None:
        """Registers if need be, then holds the link for ever. Raises ShadowMeshError where it makes no sense to go on."""
        tasks = [asyncio.create_task(self._save_changes()), asyncio.create_task(self._metering.run())]
        try:
            await self._run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        delay = _FIRST_RETRY
        while True:
            began = self._clock().boot
            try:
                contact = await self._contact()
                if self._state.relay_id is None or (self._lost and self._token is not None):
                    await self._register(contact)
                self._certificate.show(contact)
                await self._hold(contact)
            except ShadowMeshError as e:
                if self._is_final(e):
                    raise
                self._say(e)
                self._unknown = e.code in ("relay_unknown", "relay_removed", "relay_uncertified")
            except Exception:  # whatever the controller sent, the relay serves on and tries again
                log.exception("the link to the controller failed, and is tried again")
            if self._clock().boot - began > _LAST_RETRY:
                delay = _FIRST_RETRY
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads, hides nothing
            delay = min(delay * 2, _LAST_RETRY)

    def _is_final(self, error: ShadowMeshError) -> bool:
        """A registered relay never gives up: it may serve for weeks without its controller."""
        if self._state.relay_id is not None:
            return False
        untrusted = error.code == "certificate_refused" and self._state.fingerprint is None
        return untrusted or error.kind in (Kind.NOT_ALLOWED, Kind.USAGE, Kind.NOT_FOUND, Kind.CONFLICT)

    def _say(self, error: ShadowMeshError) -> None:
        if error.what != self._said:
            self._said = error.what
            log.warning("controller away", code=error.code, what=error.what, remedy=error.remedy, retry="goes on")

    # registering

    async def _contact(self) -> Contact:
        """The controller, at the first of its URLs that answers as the one meant."""
        urls = dict.fromkeys((*([self._url] if self._url else []), *self._state.controller_urls))
        last: ShadowMeshError | None = None
        for url in urls:
            try:
                contact = await asyncio.to_thread(
                    contact_again,
                    url,
                    self._state.fingerprint,
                    self._state.identity,
                    timeout=_TIMEOUT,
                    connect=self._dial,
                )
            except ShadowMeshError as e:
                last = last or e
                continue
            if self._state.relay_id is not None:  # it may move: what it announces is kept
                announced = contact.identity.urls or self._state.controller_urls
                self._keep(msgspec.structs.replace(self._state, identity=contact.identity, controller_urls=announced))
            return contact
        assert last is not None
        raise last

    async def _register(self, contact: Contact) -> None:
        assert self._token is not None
        signer, me = self._core.signer, self._advertised
        with http_client(contact.tls, _TIMEOUT, self._dial, base_url=contact.url) as http:
            challenge = await self._post(http, "/api/v1/enroll/challenge", b"{}", EnrolChallenge)
            token = self._token.reveal().decode()
            try:
                message = hello_message(bytes.fromhex(challenge.nonce), contact.identity.identity, token)
            except ValueError as e:
                raise _not_understood(contact.url) from e
            request = RelayRegistration(
                token=token,
                nonce=challenge.nonce,
                key=signer.public,
                signature=sign_text(signer, Context.RELAY_REGISTRATION, message),
                name=me.name,
                url=me.public_url,
                udp=await self._public_udp(),
                region=me.region,
                capacity_mbit=me.capacity_mbit,
                version=__version__,
                csr=self._certificate.request() if self._mtls else None,
            )
            answer = await self._post(http, "/api/v1/relays/register", to_json(request), RelayRegistered)
        if answer.certificate is not None:
            self._certificate.replace(answer.certificate)
        self._keep(
            msgspec.structs.replace(
                self._state,
                relay_id=answer.relay_id,
                name=answer.name,
                fingerprint=contact.identity.identity.fingerprint,
                identity=contact.identity,
                controller_urls=answer.controller_urls or (contact.url,),
                token_keys=answer.token_keys,
                wall_offset=challenge.wall - self._clock().wall,
            )
        )
        self._core.set_token_keys(answer.token_keys)
        self._core.heard_controller(self._clock(), challenge.wall)
        self._token, self._unknown = None, False
        log.info("registered", relay_id=answer.relay_id, name=answer.name, controller=contact.url)

    @property
    def _lost(self) -> bool:
        """Whether only a new registration helps: the controller doesn't know this relay any more, or the certificate isn't there."""
        return self._unknown or (self._mtls and not self._certificate.exists())

    async def _post(self, http: httpx.Client, path: str, body: bytes, kind: type[T]) -> T:
        url = str(http.base_url).rstrip("/")
        try:
            answer = await asyncio.to_thread(http.post, path, content=body, headers=_JSON)
        except httpx.HTTPError as e:
            raise unreachable(url, e) from e
        try:
            if answer.is_success:
                return from_json(answer.content, kind)
            problem = from_json(answer.content, _Problem)
        except MalformedError as e:
            raise _not_understood(url) from e
        status = answer.status_code
        final = 400 <= status < 500 and status not in _RETRIABLE
        raise ShadowMeshError(
            problem.code,
            problem.detail or problem.title or f"the controller refused the relay (HTTP {status})",
            problem.remedy,
            kind=_KINDS.get(status, Kind.USAGE) if final else Kind.UNREACHABLE,
        )

    async def _public_udp(self) -> SockAddr | None:
        """Where clients send UDP. A host name is resolved here: maps hold addresses. IPv4 first."""
        me = self._advertised
        if not me.udp or me.public_udp is not None:
            return me.public_udp if me.udp else None
        host = urlsplit(me.public_url).hostname or ""
        with contextlib.suppress(ValueError):
            return SockAddr(str(ipaddress.ip_address(host)), me.port)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, me.port, type=socket.SOCK_DGRAM)
        except OSError as e:
            raise ShadowMeshError(
                "public_url_unresolved",
                f"the name {host!r} in the relay's public URL can't be resolved ({e.strerror or e})",
                "check the name or the resolver",
                kind=Kind.UNREACHABLE,
            ) from e
        best = min(found, key=lambda info: info[0] != socket.AF_INET)
        return SockAddr(str(ipaddress.ip_address(best[4][0])), me.port)

    # the link

    async def _hold(self, contact: Contact) -> None:
        """One connection, until it ends. Raises ShadowMeshError."""
        try:
            where = urlsplit(contact.url)
            sock = None
            if self._dial is not None:
                sock = await self._dial(where.hostname or "", where.port or 443, _TIMEOUT)
            async with connect(
                "wss://" + contact.url.removeprefix("https://") + "/api/v1/relay-link",
                sock=sock,
                ssl=contact.tls,
                compression=None,
                proxy=None,
                max_size=_MAX_MESSAGE,
                open_timeout=_TIMEOUT,
            ) as connection:
                renewing = asyncio.create_task(self._certificate.keep(contact))
                try:
                    await self._converse(connection, contact)
                finally:
                    renewing.cancel()
        except ConnectionClosed as e:
            raise link_lost(contact.url, e) from e
        except (OSError, WebSocketException) as e:  # a TimeoutError is an OSError
            raise unreachable(contact.url, e) from e

    async def _converse(self, connection: ClientConnection, contact: Contact) -> None:
        reporter: asyncio.Task[None] | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(_SILENCE):
                        text = await connection.recv()
                except TimeoutError as e:
                    what = f"the controller at {contact.url} has said nothing for {_SILENCE:.0f} s"
                    raise ShadowMeshError("link_lost", what, "it is tried again", kind=Kind.UNREACHABLE) from e
                try:
                    message = from_json(text, cast(type[FromController], FromController))
                except MalformedError as e:
                    log.debug("message of the controller not understood", why=str(e))
                    continue
                wall = getattr(message, "wall", None)
                if isinstance(message, Challenge):
                    await self._answer(connection, contact, message)
                    continue
                if isinstance(message, LinkError):
                    raise ShadowMeshError(message.code, message.what, kind=Kind.NOT_ALLOWED)
                self._core.heard_controller(self._clock(), wall)
                if reporter is None:  # it takes us
                    reporter = asyncio.create_task(self._report(connection))
                    self._said, self._unknown = "", False
                    self._core.set_draining(False)  # it says so anew if it is to be
                    self._metering.linked(partial(self._tell, connection))
                    log.info("linked to the controller", controller=contact.url)
                self._take(message)
        finally:
            self._metering.linked(None)
            if reporter is not None:
                reporter.cancel()

    async def _answer(self, connection: ClientConnection, contact: Contact, challenge: Challenge) -> None:
        me, signer = self._advertised, self._core.signer
        assert self._state.relay_id is not None
        try:
            message = hello_message(bytes.fromhex(challenge.nonce), contact.identity.identity, self._boot_id)
        except ValueError as e:
            raise _not_understood(contact.url) from e
        hello = RelayHello(
            relay_id=self._state.relay_id,
            key=signer.public,
            signature=sign_text(signer, Context.RELAY_HELLO, message),
            boot_id=self._boot_id,
            version=__version__,
            url=me.public_url,
            udp=await self._public_udp(),
            region=me.region,
            capacity_mbit=me.capacity_mbit,
        )
        await self._tell(connection, hello)

    def _take(self, message: FromController) -> None:
        core, state = self._core, self._state
        match message:
            case TokenKeys(keys=keys):
                core.set_token_keys(keys)
            case Serves(networks=networks):
                core.serves = None if networks is None else frozenset(networks)
                state = msgspec.structs.replace(state, serves=networks)
            case Revocations(complete=complete, entries=entries):
                self._send(core.revoke(entries, complete=complete))
            case UsageTaken(ledger=ledger, number=number):
                self._metering.taken(ledger, number)
                return
            case Drain(draining=draining):
                core.set_draining(draining)
                log.info("draining" if draining else "taking new sessions again")
        offset = core.wall_offset if abs(core.wall_offset - state.wall_offset) > 1 else state.wall_offset
        self._keep(
            msgspec.structs.replace(
                state, token_keys=core.token_keys, revocations=core.revocations.entries(), wall_offset=offset
            )
        )

    async def _report(self, connection: ClientConnection) -> None:
        used, at = time.process_time(), time.monotonic()
        while True:
            now_used, now_at = time.process_time(), time.monotonic()
            cpu = (now_used - used) / (now_at - at) if now_at - at > 1 else 0.0
            used, at = now_used, now_at
            try:
                await self._tell(connection, self._load(cpu))
            except (WebSocketException, OSError):
                return
            except Exception:
                log.exception("the load can't be told")
            await asyncio.sleep(LOAD_SECONDS)

    def _load(self, cpu: float) -> Load:
        core, counters = self._core, self._core.counters
        return Load(
            sessions=len(core.sessions),
            networks=core.sessions.networks(),
            forwarded_frames=counters.forwarded_frames,
            forwarded_bytes=counters.forwarded_bytes,
            dropped_frames=counters.dropped_frames,
            cpu=min(1.0, cpu),
            overloaded=cpu > _BUSY or core.forwarding.short,
        )

    @staticmethod
    async def _tell(connection: ClientConnection, message: FromRelay) -> None:
        await connection.send(to_json(message).decode())

    def _keep(self, state: RelayState) -> None:
        """To be on disk soon. Not awaited: a hundred revocations at once must not wait for a hundred writes."""
        if state != self._state:
            self._state = state
            self._changed.set()

    async def _save_changes(self) -> None:
        """Until cancelled; then what is still to be written is written."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                writing = asyncio.ensure_future(asyncio.to_thread(self._save, self._state))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await writing
                    raise
        finally:
            if self._changed.is_set():
                self._save(self._state)

    def _save(self, state: RelayState) -> None:
        """A full disk doesn't stop the relay."""
        try:
            self._store.save(state)
        except ShadowMeshError as e:
            log.error("state not saved", what=e.what, remedy=e.remedy)
        except Exception:
            log.exception("state not saved")


def _not_understood(url: str) -> ShadowMeshError:
    return ShadowMeshError(
        "not_a_controller", f"{url} doesn't answer as a controller", "check the URL, and that its version fits this one"
    )
