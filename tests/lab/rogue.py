"""One who breaks the rules: speaks to daemons and relays with the product's own wire code and a member's keys, but says
what no daemon would say. Its packets leave from a host of the lab.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shadowmesh.daemon.state import State
from shadowmesh.lab.internet import Host
from shadowmesh.model.clock import Now
from shadowmesh.model.keys import NetworkID, Secret, SigningPublicKey, WireGuardPublicKey
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.cookies import CookieJar
from shadowmesh.protocol.noise import Initiation, StaticKeys, TransportKeys, message_type, tai64n
from shadowmesh.protocol.psk import derive_psk
from shadowmesh.protocol.relay import LoginAttempt, Refuse, Welcome, decode_control, is_control
from shadowmesh.protocol.signing import Signer

_ANSWER = 5.0  # seconds
_indices = itertools.count(0x52470001)


@dataclass(frozen=True)
class Loot:
    """What lies in the state directory of a host whose daemon is stopped."""

    device: Signer
    wg_private: Secret
    network_id: NetworkID
    network_key: Secret
    epoch: int
    relay_token: str
    netmap: NetworkMap
    ip: IPv4Address

    def member_key(self, name: str) -> WireGuardPublicKey:
        return next(m.wg_key for m in self.netmap.members if m.name == name)

    def member_ip(self, name: str) -> IPv4Address:
        return next(m.ip for m in self.netmap.members if m.name == name)

    def psk(self, name: str, network_key: Secret | None = None) -> Secret:
        """Of the pair of this member and `name`; by another network key, a wrong one."""
        own = StaticKeys(self.wg_private).public
        return derive_psk(network_key or self.network_key, self.network_id, self.epoch, own, self.member_key(name))

    @property
    def relay_key(self) -> SigningPublicKey:
        return self.netmap.head.relays[0].key


def loot(state_directory: Path, network: str) -> Loot:
    state = State(state_directory)
    try:
        record = next(n for n in state.networks() if n.name == network)
        keys, token = state.load_grant(record.network_id)
        kept = state.load_map(record.network_id)
        assert kept is not None
        epoch = max(keys)
        return Loot(
            Signer.from_secret(state.device()[0]),
            state.secrets_of(record.network_id).wg_private,
            record.network_id,
            keys[epoch],
            epoch,
            token,
            kept,
            IPv4Address(record.ip),
        )
    finally:
        state.close()


def ipv4(source: str, target: str, payload: bytes, *, port: int = 7300, ttl: int = 64) -> bytes:
    """A UDP packet, whole and with right checksums of the header (UDP's is left out, as IPv4 allows)."""
    udp = struct.pack(">HHHH", port, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, ttl, socket.IPPROTO_UDP, 0)
    head += IPv4Address(source).packed + IPv4Address(target).packed
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + (0xFFFF - total).to_bytes(2, "big") + head[12:] + udp


class Wire:
    """A UDP socket in a lab host that talks to one address."""

    def __init__(self, host: Host, remote: tuple[str, int]) -> None:
        self.remote = remote
        self.sock = host.socket()
        self.sock.bind((host.address, 0))
        self.sock.settimeout(_ANSWER)
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        self.sock.sendto(data, self.remote)

    def receive(self, timeout: float = _ANSWER) -> bytes:
        self.sock.settimeout(timeout)
        return self.sock.recv(2048)

    def close(self) -> None:
        self.sock.close()


def initiate(wire: Wire, private: Secret, peer: WireGuardPublicKey) -> tuple[Initiation, bytes]:
    """Sends message 1 and returns what it was, with the answer. Raises TimeoutError if none comes."""
    hello = Initiation.create(StaticKeys(private), peer, next(_indices), tai64n(time.time()))
    now = Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    wire.send(CookieJar(peer).add_macs(hello.message, now))
    until = time.monotonic() + _ANSWER
    while time.monotonic() < until:
        answer = wire.receive(max(0.01, until - time.monotonic()))
        if answer[:1] == b"\x02" and message_type(answer) == 2:
            return hello, answer
    raise TimeoutError("no message 2")


class Tunnel:
    """The sending half of a session."""

    def __init__(self, wire: Wire, keys: TransportKeys) -> None:
        self._wire = wire
        self._keys = keys
        self._aead = ChaCha20Poly1305(keys.send)
        self._counter = itertools.count()

    def seal(self, packet: bytes) -> bytes:
        number = next(self._counter).to_bytes(8, "little")
        padded = packet + bytes(-len(packet) % 16)
        header = struct.pack("<II", 4, self._keys.remote_index)
        return header + number + self._aead.encrypt(b"\0\0\0\0" + number, padded, None)

    def send(self, packet: bytes) -> None:
        self._wire.send(self.seal(packet))


def log_in(wire: Wire, token: str, relay: SigningPublicKey, device: Signer) -> Welcome | Refuse:
    """One attempt to get a session at a relay. Raises TimeoutError if it doesn't answer."""
    attempt = LoginAttempt(token, relay, device)
    wire.send(attempt.hello())
    while not attempt.done:
        data = wire.receive()
        if is_control(data):
            answer = attempt.receive(decode_control(data))
            if answer is not None:
                wire.send(answer)
    done = attempt.welcome or attempt.refused
    assert done is not None
    return done
