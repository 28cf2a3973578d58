"""The members of the loaded network: real keys, real enrolments, real hellos. A few are whole clients, most only note
when something arrives."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from load_wire import API, Http, WebSocket, open_websocket, tls

from shadowmesh.client_api.link import FIRST_RETRY, LAST_RETRY, STARTING
from shadowmesh.daemon.maplog import MapLog
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import (
    ALPN,
    EpochHeld,
    FromController,
    Hello,
    KeyHeld,
    MapState,
    MapUpdate,
    ProbeReply,
    Report,
    read_message,
)
from shadowmesh.model.enrol import EnrolChallenge, EnrolRequest
from shadowmesh.model.ids import ClientID
from shadowmesh.model.invite import Invite
from shadowmesh.model.keys import NetworkID, Secret, SigningPublicKey
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.noise import generate_private_key, public_key
from shadowmesh.protocol.possession import Challenge, prove
from shadowmesh.protocol.sealing import generate_sealing_keys, key_check, network_key_info, open_sealed
from shadowmesh.protocol.signing import Context, Signer, hello_message, registration_message, sign_text, verify_map


class _Serials(msgspec.Struct):
    serial: int = 0
    generation: int = 1
    to_serial: int = 0


class _Sealed(msgspec.Struct):
    epoch: int
    sealed: str


class _Message(msgspec.Struct):
    """What a thin member reads of a message."""

    type: str
    nonce: str = ""
    code: str = ""
    delta: _Serials | None = None
    snapshot: _Serials | None = None
    keys: tuple[_Sealed, ...] = ()


class _Answer(msgspec.Struct):
    class _Map(msgspec.Struct):
        snapshot: _Serials

    client_id: ClientID
    network_id: str
    map: msgspec.Raw = msgspec.Raw(b"null")
    grant: _Message | None = None


_DECODER = msgspec.json.Decoder(_Message)
_ANSWER = msgspec.json.Decoder(_Answer)
_MAP = msgspec.json.Decoder(_Answer._Map)


class Crowd:
    """What all members share: where the controller's nodes are, what they saw."""

    def __init__(
        self, ports: tuple[int, ...], identity: SigningPublicKey, signing_keys: tuple[SigningPublicKey, ...]
    ) -> None:
        self.ports = ports
        self.identity = identity
        self.signing_keys = signing_keys
        self.tls: ssl.SSLContext = tls()
        self.tls.set_alpn_protocols([ALPN, "http/1.1"])
        self.sealing_private, self.sealing_key = generate_sealing_keys()  # one for all: making 5,000 measures nothing
        self.held: dict[int, KeyHeld] = {}  # by epoch: whoever opens one first opens it for all
        self.come_back = False
        self.failed_tries = 0
        self.refused_connections = 0
        self.errors: list[str] = []
        self.snapshots = 0
        self.saw: Callable[[Member, int, float], None] = lambda member, serial, at: None
        self.saw_grant: Callable[[Member], None] = lambda member: None


class Member:
    """A thin member: proves who it is, keeps count of serials, answers probes."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.port = crowd.ports[number % len(crowd.ports)]  # its node
        self.source = f"127.{1 + number // 60000}.{number // 240 % 250}.{1 + number % 240}"
        self.device = Signer.generate()
        self.wg_private = generate_private_key()
        self.boot_id = os.urandom(8).hex()
        self.client_id = ClientID("")
        self.network_id: NetworkID
        self.generation, self.serial = 1, 0
        self.epochs: set[int] = set()
        self.ready_at = 0.0
        self._socket: WebSocket | None = None
        self._left: WebSocket | None = None  # one that we ended ourselves
        self._ready: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def enrol(self, http: Http, invite: Invite) -> int:
        """Becomes a member; returns the size of the answer."""
        crowd, wg_key = self.crowd, public_key(self.wg_private)
        keys = {"device_key": self.device.device_key, "wg_key": wg_key, "sealing_key": crowd.sealing_key}
        named = {"invite_id": invite.invite_id, "secret": invite.secret}
        wish = {**named, **{k: str(v) for k, v in keys.items()}}
        challenge = from_json(await http("POST", "/enroll/challenge", wish), EnrolChallenge)
        assert challenge.ephemeral is not None and challenge.sealed is not None
        message = registration_message(bytes.fromhex(challenge.nonce), crowd.identity, invite=invite.invite_id, **keys)
        asked = Challenge(challenge.ephemeral, base64.b64decode(challenge.sealed))
        request = EnrolRequest(
            nonce=challenge.nonce,
            signature=sign_text(self.device, Context.REGISTRATION, message),
            proof=base64.b64encode(prove(asked, self.wg_private, crowd.sealing_private, message)).decode(),
            hostname=f"h{self.number}",
            version="load",
            **named,
            **keys,
        )
        text = await http("POST", "/enroll", to_json(request))
        answer = _ANSWER.decode(text)
        self.client_id = answer.client_id
        self.network_id = NetworkID.parse(answer.network_id)
        self.joined(bytes(answer.map))
        assert answer.grant is not None
        self._keep(answer.grant.keys)
        return len(text)

    def _keep(self, keys: tuple[_Sealed, ...]) -> None:
        crowd = self.crowd
        for key in keys:
            self.epochs.add(key.epoch)
            if key.epoch not in crowd.held:
                info, blob = network_key_info(self.network_id, key.epoch), base64.b64decode(key.sealed)
                opened = Secret(open_sealed(crowd.sealing_private, blob, info))
                check = key_check(self.network_id, key.epoch, opened)
                crowd.held[key.epoch] = KeyHeld(epoch=key.epoch, check=check)

    def joined(self, text: bytes) -> None:
        found = _MAP.decode(text).snapshot
        self.generation, self.serial = found.generation, found.serial

    async def connect(self, port: int | None = None) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(
            open_websocket(port or self.port, self.crowd.tls, self.source, f"{API}/link", self._message, self._lost), 25
        )
        await asyncio.wait_for(self._ready, 25)

    def _send(self, message: object) -> None:
        if self._socket is not None:
            self._socket.send(to_json(message))

    def _message(self, socket: WebSocket, data: bytes) -> None:
        self._socket = socket
        message = _DECODER.decode(data)
        if message.type == "mapupdate":
            self.take(data, message)
            now = time.monotonic()
            self.crowd.saw(self, self.serial, now)
            if self._ready is not None and not self._ready.done():
                self.ready_at = now
                self._ready.set_result(None)
                self._send(Report(network_id=self.network_id))
        elif message.type == "challenge":
            signed = hello_message(bytes.fromhex(message.nonce), self.crowd.identity, self.boot_id)
            keys = tuple(self.crowd.held[epoch] for epoch in sorted(self.epochs))
            held = () if not self.serial else (
                MapState(network_id=self.network_id, generation=self.generation, serial=self.serial, keys=keys),
            )  # fmt: skip
            hello = Hello(
                device_key=self.device.device_key,
                signature=sign_text(self.device, Context.HELLO, signed),
                boot_id=self.boot_id,
                version="load",
                maps=held,
            )
            self._send(hello)
        elif message.type == "grant":
            self._keep(message.keys)
            self.crowd.saw_grant(self)
        elif message.type == "probe":
            self._send(ProbeReply(nonce=message.nonce))
        elif message.type == "linkerror":
            self.crowd.errors.append(message.code)
            if self._ready is not None and not self._ready.done():
                self._ready.set_exception(RuntimeError(message.code))

    def take(self, data: bytes, message: _Message) -> None:
        """A map: a thin member notes its serial."""
        if message.delta is not None:
            self.serial = message.delta.to_serial
        elif message.snapshot is not None:
            self.crowd.snapshots += 1
            self.generation, self.serial = message.snapshot.generation, message.snapshot.serial

    def hold_epoch(self, epoch: int) -> None:
        self._send(EpochHeld(network_id=self.network_id, epoch=epoch))

    def _lost(self, socket: WebSocket) -> None:
        if socket is self._left:
            return
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ConnectionError("lost"))
        elif self.crowd.come_back:
            self._task = asyncio.get_running_loop().create_task(self._back())

    async def _back(self) -> None:
        """At the pace of `client_api.link`."""
        lost, failures = time.monotonic(), 0
        while True:
            await asyncio.sleep(random.uniform(0, min(LAST_RETRY, FIRST_RETRY * 2 ** max(0, failures - 1))))
            starting = time.monotonic() - lost < STARTING
            for port in sorted(self.crowd.ports, key=lambda port: port != self.port):  # its own node first
                try:
                    await self.connect(port)
                    self.port = port
                    return
                except ConnectionRefusedError:
                    self.crowd.refused_connections += 1
                except Exception as e:
                    starting = False
                    self.crowd.failed_tries += 1
                    self.crowd.errors.append(repr(e)[:100])
            failures += not starting

    def leave(self) -> None:
        """As a machine that vanishes."""
        if self._task is not None:
            self._task.cancel()
        if self._socket is not None:
            self._left, self._socket = self._socket, None
            self._left.abort()


class WholeMember(Member):
    """One that does with maps what a daemon does: verifies, applies, keeps."""

    def __init__(self, crowd: Crowd, number: int, directory: Path) -> None:
        super().__init__(crowd, number)
        self._log = MapLog(directory / f"{number}.log")
        self.map: NetworkMap | None = None

    def joined(self, text: bytes) -> None:
        self._update(from_json(text, MapUpdate))

    def take(self, data: bytes, message: _Message) -> None:
        update = read_message(data, FromController)
        assert isinstance(update, MapUpdate)
        self._update(update)

    def _update(self, update: MapUpdate) -> None:
        found = update.apply(self.map)
        if not verify_map(found, update.signature, self.crowd.signing_keys):
            raise AssertionError("a map with a wrong signature")
        self._log.save(found, update)
        self.map = found
        self.generation, self.serial = found.order
