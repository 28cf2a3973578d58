"""A device's lasting link to its controller: connects, proves itself, keeps maps verified, comes back after every break.

`async for event in link.run()`: `Connected`, `Disconnected`, `LinkRefused`, `MapChanged` (verified and in order), and the
messages `Grant`, `PresenceUpdate`, `Removed`, `Pending`, `AuditCheckpoint` (verified), `AuditQuery` as they come. `post`
sends; what is posted while there is no connection is lost, so that a daemon tells everything anew on `Connected`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from shadowmesh import __version__
from shadowmesh.client_api.contact import API, contact_again, tls_context, unreachable
from shadowmesh.client_api.dialing import Connect
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import (
    ALPN,
    AuditCheckpoint,
    AuditQuery,
    Challenge,
    FromController,
    Grant,
    Hello,
    KeyHeld,
    LinkError,
    LinkMessage,
    MapState,
    MapUpdate,
    Pending,
    PresenceUpdate,
    Probe,
    ProbeReply,
    Removed,
    read_message,
)
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.model.text import escaped
from shadowmesh.model.urls import is_controller_url
from shadowmesh.protocol.checkpoints import verify_checkpoint
from shadowmesh.protocol.sealing import key_check
from shadowmesh.protocol.signing import (
    Context,
    IdentityDocument,
    Signer,
    hello_message,
    sign_text,
    verify_map,
)

log = structlog.get_logger(__name__)

FIRST_RETRY = 5.0  # seconds: the first retry is uniform over these, so that a thousand clients spread out
STARTING = 60.0  # seconds in which a controller that was there may refuse connections because it starts: no failures
LAST_RETRY = 25.0  # with the connection itself, all are back 30 s after a controller that was long away
REFUSED_RETRY = 60.0
_OPEN_TIMEOUT = 10.0
_HELLO_TIMEOUT = 10.0
_PING = 20.0
_KICK_TIMEOUT = 3.0
_QUIET = 2.0  # seconds: a controller that was heard since isn't asked when somebody looks
_LOOK_TIMEOUT = 10.0  # a busy one may take a while
_FORGIVEN = 300.0  # seconds after which a URL that failed is as good as the others
_MAX_MESSAGE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Connected:
    """The controller has taken this device's hello, perhaps anew without a `Disconnected`. `offset`: the controller's clock minus this machine's, in seconds."""

    url: str
    offset: float


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No connection now; the next try comes in `retry_in` seconds."""

    error: ShadowMeshError
    retry_in: float


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """The controller doesn't want this device: `client_duplicate`, `device_unknown`… It is asked again now and then."""

    code: str
    what: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class IdentityChanged:
    """The controller's identity document is another than before: other URLs, certificates or keys. To be kept on disk."""

    identity: IdentityDocument


@dataclass(frozen=True, slots=True)
class MapChanged:
    """The newest map of a network, its signature checked, and the message that brought it: to be kept on disk as it came."""

    network_id: NetworkID
    map: NetworkMap
    update: MapUpdate


@dataclass(frozen=True, slots=True)
class MapRefused:
    """The controller sent a map older than one that was held: it was restored from a backup, or something is wrong."""

    network_id: NetworkID
    held: tuple[int, int]
    offered: tuple[int, int]


LinkEvent: TypeAlias = (
    Connected
    | IdentityChanged
    | Disconnected
    | LinkRefused
    | MapChanged
    | MapRefused
    | Grant
    | PresenceUpdate
    | Removed
    | Pending
    | AuditCheckpoint
    | AuditQuery
)


def link_lost(url: str, cause: ConnectionClosed) -> ShadowMeshError:
    """What to tell a person when a connection that stood has ended (a device's link, or a relay's)."""
    if cause.rcvd is None:
        what = f"the connection to the controller at {url} was lost"
    elif cause.rcvd.code == CloseCode.SERVICE_RESTART:
        what = f"the controller at {url} restarts"
    else:
        why = escaped(cause.rcvd.reason) or f"code {cause.rcvd.code}"
        what = f"the controller at {url} closed the connection ({why})"
    return ShadowMeshError("link_lost", what, "it is tried again", kind=Kind.UNREACHABLE)


class _RefusedError(Exception):
    def __init__(self, error: LinkError) -> None:
        super().__init__(error.what)
        self.error = error


class ControllerLink:
    """One device and one controller, whatever number of networks and URLs they share."""

    def __init__(
        self,
        *,
        urls: Sequence[str],
        fingerprint: str | None,
        device: Signer,
        boot_id: str,
        identity: IdentityDocument | None = None,
        maps: Iterable[NetworkMap] = (),
        networks: Iterable[NetworkID] = (),
        wall: Callable[[], float],
        keys: Callable[[NetworkID], Mapping[int, Secret]] = lambda _: {},
        connect: Connect | None = None,
        jitter: Callable[[float], float] = lambda most: random.uniform(0.0, most),  # noqa: S311 - spreads load, no secret
    ) -> None:
        """`identity`, `maps`: as kept on disk. `networks`: joined through this controller, those of `maps` among them;
        of others it is not heard. `wall`: the clock that `Connected.offset` is measured against. `keys`: the network keys
        held, by epoch: what is held isn't sealed again. `connect`: how connections are made, where that matters."""
        self.identity = identity
        self.maps: dict[NetworkID, NetworkMap] = {m.head.network_id: m for m in maps}
        self.networks: set[NetworkID] = {*networks, *self.maps}
        self._newest: dict[NetworkID, tuple[int, int]] = {i: m.order for i, m in self.maps.items()}
        self._told_identity = identity
        self._urls = tuple(urls)
        self._fingerprint = fingerprint
        self._device = device
        self._boot_id = boot_id
        self._wall = wall
        self._keys = keys
        self._dial = connect
        self._jitter = jitter
        self._socket: ClientConnection | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        self._kicked = asyncio.Event()
        self._failures = 0
        self._failed_at: dict[str, float] = {}  # by URL; of the event loop's clock
        self._served = False
        self._given_up: ShadowMeshError | None = None  # why we ended the connection ourselves
        self._moved = False  # … for a reason of this host alone
        self._heard_at = -math.inf  # of the event loop's clock
        self._asking: asyncio.Task[bool] | None = None
        self._renewing = False
        self._ready = False
        self._unsent: asyncio.Queue[str] = asyncio.Queue()

    @property
    def connected(self) -> bool:
        return self._ready

    def post(self, message: LinkMessage) -> bool:
        """Sends soon; False if there is no connection."""
        if self._ready:
            self._unsent.put_nowait(to_json(message).decode())
        return self._ready

    def joined(self, network: NetworkID) -> None:
        """One more network is in this controller's hands. A link that stands says hello anew: what came about it so far
        was ignored, and all of it is told again."""
        if network not in self.networks:
            self.networks.add(network)
            if self._ready and self._socket is not None:
                self._ready, self._renewing = False, True
                self._socket.transport.abort()

    def hold(self, netmap: NetworkMap) -> None:
        """A map that came by another way (an enrolment's answer)."""
        held = self.maps.get(netmap.head.network_id)
        if held is None or held.order < netmap.order:
            self.maps[netmap.head.network_id] = netmap
            self._newest[netmap.head.network_id] = netmap.order

    def forget(self, network: NetworkID) -> None:
        """A network was left, or this device removed from it."""
        self.networks.discard(network)
        self.maps.pop(network, None)
        self._newest.pop(network, None)

    def kick(self) -> None:
        """The host's network changed, or it woke: try now, and don't trust an old connection unseen."""
        self._kicked.set()

    async def silence(self, patience: float) -> float | None:
        """Seconds since the controller was last heard; None without a connection.

        One that has been quiet is asked, and its answer waited for, `patience` seconds at most. If none comes for
        `_LOOK_TIMEOUT` the connection is given up, as it is without anybody looking after 40 s.
        """
        loop = asyncio.get_running_loop()
        if self._ready and self._socket is not None and loop.time() - self._heard_at > _QUIET:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(self._socket, _LOOK_TIMEOUT))
            await asyncio.wait({self._asking}, timeout=patience)
        return max(0.0, loop.time() - self._heard_at) if self._ready else None

    async def close(self) -> None:
        self._closed = True
        self._kicked.set()
        if self._socket is not None:
            await self._socket.close()

    async def run(self) -> AsyncIterator[LinkEvent]:
        """Events until `close`; never raises for what happens on the way."""
        while not self._closed:
            error = ShadowMeshError("link_lost", "the controller closed the connection")
            self._served = self._moved = self._renewing = refused = False
            starting = asyncio.get_running_loop().time() - self._heard_at < STARTING
            self._given_up = None
            for url in self._candidates():
                try:
                    async for event in self._once(url):
                        yield event
                except _RefusedError as e:
                    wait = REFUSED_RETRY / 2 + self._jitter(REFUSED_RETRY / 2)
                    yield LinkRefused(escaped(e.error.code), escaped(e.error.what), wait)
                    await self._wait(wait)
                    refused = True
                    break
                except (OSError, TimeoutError, WebSocketException, MalformedError, ShadowMeshError) as e:
                    error = self._why(url, e)
                    starting &= isinstance(e, ConnectionRefusedError)
                    if not (self._closed or self._moved or self._renewing):
                        self._failed_at[url] = asyncio.get_running_loop().time()
                    if self._served:
                        break  # it was connected: first wait a little, as a thousand others do
                if self._closed:
                    return
            else:
                self._failures += not starting
            if self._closed:
                return
            if refused or self._renewing:  # ended on purpose, and nothing is wrong: the next try tells if something is
                continue
            wait = self._jitter(min(LAST_RETRY, FIRST_RETRY * 2 ** max(0, self._failures - 1)))
            error = self._given_up or error
            if self._moved:  # nobody else comes back at the same time
                wait = 0.0
            yield Disconnected(error, wait)
            await self._wait(wait)

    def _candidates(self) -> tuple[str, ...]:
        """Where the controller's nodes are, best first; what was known at first comes last.

        Which node comes first is each device's own: so they spread over all, and where one goes its devices spread over
        the others (rendezvous hashing: Thaler, Ravishankar 1998). The URLs of one node, those of the identity that it
        gave, stay in its order. A node that didn't answer a moment ago comes after the others.
        """
        given = self.identity.urls if self.identity is not None else ()
        mapped = [url for netmap in self.maps.values() for url in netmap.head.controller_urls]
        nodes = [node for node in (given, *((url,) for url in dict.fromkeys(mapped) if url not in given)) if node]
        lately = asyncio.get_running_loop().time() - _FORGIVEN

        def rank(node: tuple[str, ...]) -> tuple[bool, bytes]:
            own = hashlib.blake2b(node[0].encode(), key=bytes(self._device.device_key)).digest()
            return self._failed_at.get(node[0], -math.inf) > lately, own

        best = [url for node in sorted(nodes, key=rank) for url in node]
        return tuple(dict.fromkeys(url for url in (*best, *self._urls) if is_controller_url(url)))

    async def _wait(self, seconds: float) -> None:
        self._kicked.clear()
        if self._closed:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._kicked.wait(), seconds)

    def _why(self, url: str, cause: Exception) -> ShadowMeshError:
        if isinstance(cause, ShadowMeshError):
            return cause
        if isinstance(cause, MalformedError):
            return ShadowMeshError("bad_answer", f"{url} sent what isn't understood ({cause})")
        if isinstance(cause, ConnectionClosed):
            return link_lost(url, cause)
        return unreachable(url, cause)

    # one connection

    async def _once(self, url: str) -> AsyncIterator[LinkEvent]:
        try:
            socket = await self._connect(url)
        except ssl.SSLCertVerificationError:
            await self._meet(url)  # its certificate changed in a way that the known identity doesn't cover
            socket = await self._connect(url)
        if self._closed:  # while it was connecting
            await socket.close()
            return
        self._socket = socket
        tasks: list[asyncio.Task[None]] = []
        try:
            offset = await self._hello(socket)
            self._unsent = asyncio.Queue()
            tasks = [asyncio.create_task(self._write(socket)), asyncio.create_task(self._watch(socket))]
            async for text in socket:
                message: FromController | None = read_message(text, FromController)
                event = None if message is None else await self._take(url, message)
                self._heard_at = asyncio.get_running_loop().time()
                if not self._served:  # what isn't a refusal means that the hello was taken
                    self._failures, self._served, self._ready = 0, True, True
                    yield Connected(url, offset)
                if event is not None:
                    yield event
                if self.identity is not None and self.identity != self._told_identity:
                    self._told_identity = self.identity
                    yield IdentityChanged(self.identity)
            if not self._closed:
                raise ShadowMeshError("link_lost", f"{url} closed the connection", kind=Kind.UNREACHABLE)
        finally:
            self._ready = False
            self._socket = None
            for task in (*tasks, *([self._asking] if self._asking is not None else [])):
                task.cancel()
            await socket.close()

    async def _connect(self, url: str) -> ClientConnection:
        if self.identity is None:
            await self._meet(url)
        if self._tls is None:
            assert self.identity is not None
            self._tls = tls_context(self.identity)
        self._tls.set_alpn_protocols([ALPN, "http/1.1"])
        parts = urlsplit(url)
        sock = None if self._dial is None else await self._dial(parts.hostname or "", parts.port or 443, _OPEN_TIMEOUT)
        return await connect(
            f"wss://{parts.netloc}{parts.path}{API}/link",
            sock=sock,
            ssl=self._tls,
            compression=None,
            proxy=None,
            max_size=_MAX_MESSAGE,
            open_timeout=_OPEN_TIMEOUT,
            ping_interval=_PING,
            ping_timeout=_PING,
            close_timeout=2.0,
            user_agent_header=f"shadowmesh/{__version__}",
        )

    async def _meet(self, url: str) -> None:
        """The identity anew, checked by the fingerprint. Raises ShadowMeshError, identity_older for one played back."""
        fingerprint = self._fingerprint or (self.identity.identity.fingerprint if self.identity else None)
        contact = await asyncio.to_thread(contact_again, url, fingerprint, self.identity, connect=self._dial)
        self.identity, self._tls = contact.identity, contact.tls

    async def _hello(self, socket: ClientConnection) -> float:
        """Proves who this is. Returns the controller's clock minus ours."""
        assert self.identity is not None
        async with asyncio.timeout(_HELLO_TIMEOUT):
            challenge = from_json(await socket.recv(), Challenge)
        try:
            nonce = bytes.fromhex(challenge.nonce)
        except ValueError as e:
            raise MalformedError("a challenge without a nonce") from e
        message = hello_message(nonce, self.identity.identity, self._boot_id)
        hello = Hello(
            device_key=self._device.device_key,
            signature=sign_text(self._device, Context.HELLO, message),
            boot_id=self._boot_id,
            version=__version__,
            maps=tuple(self._held(network_id) for network_id in sorted(self.networks)),
        )
        await socket.send(to_json(hello).decode())
        return challenge.wall - self._wall()

    def _held(self, network_id: NetworkID) -> MapState:
        """A network without a map is named as well: so it is told if this device is in it no more."""
        generation, serial = self.maps[network_id].order if network_id in self.maps else (0, 0)
        keys = tuple(
            KeyHeld(epoch=epoch, check=key_check(network_id, epoch, key))
            for epoch, key in sorted(self._keys(network_id).items())
        )
        return MapState(network_id=network_id, generation=generation, serial=serial, keys=keys)

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.send(await self._unsent.get())

    async def _watch(self, socket: ClientConnection) -> None:
        """After a kick, a connection that doesn't answer at once is given up."""
        while True:
            self._kicked.clear()
            await self._kicked.wait()
            if self._closed:
                return
            if not await self._ask(socket, _KICK_TIMEOUT, moved=True):
                return

    async def _ask(self, socket: ClientConnection, patience: float, *, moved: bool = False) -> bool:
        """Whether the controller answers a ping. If not, the connection is given up. `moved`: the host's network changed."""
        try:
            async with asyncio.timeout(patience):
                await (await socket.ping())
        except (TimeoutError, ConnectionClosed):
            if socket.close_code is None:  # else the other side ended it, and all come back at once
                what = (
                    "the connection to the controller didn't outlive a change of this host's network"
                    if moved
                    else f"the controller has said nothing for {asyncio.get_running_loop().time() - self._heard_at:.0f} s"
                )
                self._given_up, self._moved = ShadowMeshError("link_lost", what, kind=Kind.UNREACHABLE), moved
                socket.transport.abort()
            return False
        self._heard_at = asyncio.get_running_loop().time()
        return True

    async def _take(self, url: str, message: FromController) -> LinkEvent | None:
        if isinstance(message, Probe):
            self.post(ProbeReply(nonce=message.nonce))
            return None
        if isinstance(message, AuditCheckpoint):
            return message if await self._vouched(url, message) else None
        if isinstance(message, AuditQuery):
            return message
        if isinstance(message, LinkError):
            raise _RefusedError(message)
        if isinstance(message, Challenge):
            raise MalformedError("a second challenge")
        if isinstance(message, MapUpdate):
            return await self._take_map(url, message)
        if message.network_id not in self.networks:
            self._ignore(message)
            return None
        if isinstance(message, Removed):
            self.forget(message.network_id)
        return message

    def _ignore(self, message: MapUpdate | Grant | PresenceUpdate | Removed | Pending) -> None:
        log.warning("ignored: of a network not joined here", message=type(message).__name__, network=message.network_id)

    async def _vouched(self, url: str, checkpoint: AuditCheckpoint) -> bool:
        """Whether an audit key of this controller signed it."""
        assert self.identity is not None
        if checkpoint.key not in self.identity.audit_keys:
            await self._meet(url)
        return verify_checkpoint(checkpoint, self.identity.audit_keys)

    async def _take_map(self, url: str, update: MapUpdate) -> MapChanged | MapRefused | None:
        """The verified map; None for a network that wasn't joined through this controller.

        Raises MalformedError; then the next hello asks for this map whole.
        """
        if update.network_id not in self.networks:
            self._ignore(update)
            return None
        held = self.maps.get(update.network_id)
        try:
            new = update.apply(held)
        except MalformedError:
            self.maps.pop(update.network_id, None)
            raise
        assert self.identity is not None
        if update.signature.key not in self.identity.signing_keys:
            await self._meet(url)
        elif set(new.head.controller_urls) != set(held.head.controller_urls if held else self.identity.urls):
            with contextlib.suppress(ShadowMeshError):  # the map's URLs serve as well
                await self._meet(url)
        if not verify_map(new, update.signature, self.identity.signing_keys):
            raise MalformedError("a map with a wrong signature")
        newest = self._newest.get(update.network_id, (0, 0))
        if new.order < newest:
            return MapRefused(update.network_id, newest, new.order)
        self.maps[update.network_id] = new
        self._newest[update.network_id] = new.order
        return MapChanged(update.network_id, new, update)
