"""A peer played by hand, with the cipher used directly: what the pump says is checked by other code than its own."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from hashlib import blake2s
from ipaddress import ip_address, ip_network
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shadowmesh.model import pump as m

NETWORK_ID = bytes(range(32))


def ip_packet(source: str, destination: str, body: bytes = b"hello", protocol: int = 253) -> bytes:
    """An inner packet of either family."""
    a, b = ip_address(source), ip_address(destination)
    if a.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + a.packed + b.packed + body
    header = bytearray(
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0) + a.packed + b.packed
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = (0xFFFF ^ ((total & 0xFFFF) + (total >> 16))).to_bytes(2, "big")
    return bytes(header) + body


def frame_header(source: str, destination: str) -> bytes:
    """Of a relay frame between two overlay addresses."""
    return b"SM\x01\x02" + NETWORK_ID + ip_address(source).packed + ip_address(destination).packed


def initiation(mac1_key: bytes) -> bytes:
    """148 bytes that pass for a handshake initiation to the owner of the key."""
    body = b"\1\0\0\0" + os.urandom(112)
    return body + blake2s(body, digest_size=16, key=mac1_key).digest() + bytes(16)


@dataclass
class Keys:
    """Both ends of one session. `local` is the pump's index, `remote` the peer's."""

    local: int
    remote: int
    from_pump: bytes = field(default_factory=lambda: os.urandom(32))
    to_pump: bytes = field(default_factory=lambda: os.urandom(32))
    counter: int = 0

    def seal(self, packet: bytes, counter: int | None = None) -> bytes:
        """A transport datagram to the pump."""
        if counter is None:
            counter = self.counter
            self.counter += 1
        number = counter.to_bytes(8, "little")
        padded = packet + bytes(-len(packet) % 16)
        sealed = ChaCha20Poly1305(self.to_pump).encrypt(bytes(4) + number, padded, None)
        return b"\4\0\0\0" + self.local.to_bytes(4, "little") + number + sealed

    def opened(self, datagram: bytes) -> tuple[int, bytes]:
        """Counter and padded inner packet of a datagram from the pump."""
        assert datagram[:8] == b"\4\0\0\0" + self.remote.to_bytes(4, "little")
        number = datagram[8:16]
        return int.from_bytes(number, "little"), ChaCha20Poly1305(self.from_pump).decrypt(
            bytes(4) + number, datagram[16:], None
        )

    def is_mine(self, datagram: bytes) -> bool:
        return datagram[4:8] == self.remote.to_bytes(4, "little")


class Peer:
    """Peer number `index` of network `net`, at the remote `name`."""

    def __init__(
        self, rig: Any, index: int = 1, net: int = 0, name: str = "peer", inner: str = "10.7.0.2", slot: int = 0,
        *, roam: bool = False, mtu: int | None = None,
    ) -> None:  # fmt: skip
        self.rig = rig
        self.index = m.PeerIndex(index)
        self.inner = inner
        self.path = m.Path(m.Slot(slot), rig.remote(name))
        rig.apply(
            m.PutPeer(self.index, m.NetIndex(net), (ip_network(inner),), roam),
            m.SetPath(self.index, self.path, mtu=mtu),
        )
        rig.sync()

    def session(self, number: int, *, initiator: bool = True, lifetime: float = 180.0, install: bool = True) -> Keys:
        """Installs a session whose index at the pump is `number`."""
        keys = Keys(number, number + 1000)
        if install:
            self.install(keys, initiator=initiator, lifetime=lifetime)
        return keys

    def install(self, keys: Keys, *, initiator: bool = True, lifetime: float = 180.0) -> None:
        now = self.rig.now()
        session = m.Session(keys.local, keys.remote, keys.from_pump, keys.to_pump, initiator, now, now + lifetime)
        self.rig.apply(m.Install(self.index, session))
        self.rig.sync()
