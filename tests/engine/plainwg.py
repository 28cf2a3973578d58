"""A WireGuard peer and nothing else: one peer, one endpoint, no disco, no relay. For the simulated internet."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from simworld import Host, packet

from shadowmesh.engine import WireGuardExport
from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol import noise
from shadowmesh.protocol.cookies import CookieJar


class PlainWireGuard:
    """Takes a host's place in the world: its socket, its keys."""

    def __init__(self, host: Host, config: WireGuardExport, other: Host) -> None:
        self.host = host
        self.world = host.world
        self.static = noise.StaticKeys(config.private)
        self.config = config
        self.other = other
        self.endpoint = config.endpoint
        self.jar = CookieJar(config.peer)
        self.keys: dict[int, noise.TransportKeys] = {}
        self.current: noise.TransportKeys | None = None
        self.counter = 0
        self.initiation: noise.Initiation | None = None
        self.received: list[tuple[float, int]] = []
        self.waiting: list[bytes] = []
        self.index = 1
        self.not_understood = 0
        host.stop()
        host.arrive = self.arrive  # type: ignore[method-assign]

    def initiate(self) -> None:
        self.index += 1
        now = self.host.clock()
        self.initiation = noise.Initiation.create(self.static, self.config.peer, self.index, noise.tai64n(now.wall))
        self.send(self.jar.add_macs(self.initiation.message, now))

    def send(self, data: bytes) -> None:
        assert self.endpoint is not None
        self.world.transmit(self.host, SockAddr(self.host.ip, self.host.port), self.endpoint, data)

    def send_packet(self, number: int) -> None:
        inner = packet(self.host.overlay, self.other.overlay, number, 32)
        if self.current is None:
            self.waiting.append(inner)
            if self.initiation is None:
                self.initiate()
        else:
            self.transport(inner)

    def transport(self, inner: bytes) -> None:
        keys = self.current
        assert keys is not None
        counter = self.counter.to_bytes(8, "little")
        self.counter += 1
        header = b"\4\0\0\0" + keys.remote_index.to_bytes(4, "little") + counter
        self.send(header + ChaCha20Poly1305(keys.send).encrypt(bytes(4) + counter, inner, None))

    def use(self, keys: noise.TransportKeys) -> None:
        self.keys[keys.local_index] = self.current = keys
        self.counter = 0
        for inner in self.waiting or [b""]:
            self.transport(inner)
        self.waiting.clear()

    def arrive(self, src: SockAddr, data: bytes) -> None:
        now = self.host.clock()
        if data[:2] == b"SM":
            self.not_understood += 1
            return
        kind = noise.message_type(data)
        if kind == noise.RESPONSE and self.initiation is not None:
            keys = self.initiation.consume_response(data, self.config.psk)
            self.initiation = None
            self.endpoint = src
            self.use(keys)
        elif kind == noise.INITIATION:
            received = noise.ReceivedInitiation.open(self.static, data)
            self.index += 1
            message, keys = received.respond(self.index, self.config.psk)
            self.keys[keys.local_index] = keys
            self.endpoint = src
            self.send(self.jar.add_macs(message, now))
        elif kind == noise.TRANSPORT:
            session = self.keys.get(noise.receiver_index(data))
            if session is None:
                return
            try:
                inner = ChaCha20Poly1305(session.recv).decrypt(bytes(4) + data[8:16], data[16:], None)
            except InvalidTag:
                return
            self.endpoint = src
            if self.current is not session and not session.initiator:
                self.current, self.counter = session, 0
            if inner:
                self.received.append((self.world.time, int.from_bytes(inner[20:28], "big")))
