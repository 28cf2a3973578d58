"""WireGuard's handshake, Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, as in the WireGuard paper, section 5.4.

Messages (integers little-endian):

| type | size | fields |
|---|---|---|
| 1 initiation | 148 | type 1, zero 3, sender 4, ephemeral 32, static 32+16, timestamp 12+16, mac1 16, mac2 16 |
| 2 response | 92 | type 1, zero 3, sender 4, receiver 4, ephemeral 32, empty 0+16, mac1 16, mac2 16 |
| 3 cookie reply | 64 | type 1, zero 3, receiver 4, nonce 24, cookie 16+16 |
| 4 transport | ≥ 32 | type 1, zero 3, receiver 4, counter 8, packet n+16 |

What is made here has zero macs; `protocol.cookies` fills and checks them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2s
from typing import Final

from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.protocol.primitives import REAL, AuthFailure, KeyPair, Primitives

__all__ = [
    "COOKIE_REPLY",
    "COOKIE_REPLY_SIZE",
    "INITIATION",
    "INITIATION_SIZE",
    "NO_PSK",
    "RESPONSE",
    "RESPONSE_SIZE",
    "TRANSPORT",
    "TRANSPORT_OVERHEAD",
    "AuthFailure",
    "Initiation",
    "Primitives",
    "ReceivedInitiation",
    "StaticKeys",
    "TransportKeys",
    "generate_private_key",
    "message_type",
    "public_key",
    "receiver_index",
    "sender_index",
    "tai64n",
]

INITIATION: Final = 1
RESPONSE: Final = 2
COOKIE_REPLY: Final = 3
TRANSPORT: Final = 4

INITIATION_SIZE: Final = 148
RESPONSE_SIZE: Final = 92
COOKIE_REPLY_SIZE: Final = 64
TRANSPORT_OVERHEAD: Final = 32  # header 16, tag 16

_SIZES: Final = {INITIATION: INITIATION_SIZE, RESPONSE: RESPONSE_SIZE, COOKIE_REPLY: COOKIE_REPLY_SIZE}
_MACS: Final = bytes(32)
_CHAIN: Final = blake2s(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s").digest()
_HASH: Final = blake2s(_CHAIN + b"WireGuard v1 zx2c4 Jason@zx2c4.com").digest()
_TAI64_1970: Final = 2**62 + 10  # TAI was 10 s ahead of UTC; leap seconds since are left out, as every WireGuard does
_SHARED_SECRETS: Final = 8192  # static–static secrets remembered, about 200 bytes each

NO_PSK: Final = Secret(bytes(32))
"""What stands for a preshared key where a plain WireGuard peer has none."""


def generate_private_key() -> Secret:
    """A fresh X25519 private key, clamped."""
    return REAL.generate_private_key()


def public_key(private: Secret) -> WireGuardPublicKey:
    return WireGuardPublicKey(REAL.key_pair(private).public)


def tai64n(wall: float) -> bytes:
    """Unix time in seconds as TAI64N: 12 bytes that sort as the times do."""
    seconds, fraction = divmod(wall, 1.0)
    return struct.pack(">QI", _TAI64_1970 + int(seconds), int(fraction * 1e9))


def message_type(data: bytes) -> int:
    """1 to 4, for a message of the right size with zeros where zeros belong. Raises MalformedError."""
    if len(data) < TRANSPORT_OVERHEAD or data[1] or data[2] or data[3]:
        raise MalformedError("not a WireGuard message")
    kind = data[0]
    if kind == TRANSPORT or _SIZES.get(kind) == len(data):
        return kind
    raise MalformedError(f"not a WireGuard message: type {kind} of {len(data)} bytes")


def receiver_index(data: bytes) -> int:
    """Whose session a message of type 2, 3 or 4 is for. Raises MalformedError."""
    kind = message_type(data)
    if kind == INITIATION:
        raise MalformedError("an initiation names no receiver")
    return int.from_bytes(data[8:12] if kind == RESPONSE else data[4:8], "little")


def sender_index(data: bytes) -> int:
    """The index that the sender of a message of type 1 or 2 chose. Raises MalformedError."""
    if message_type(data) > RESPONSE:
        raise MalformedError("this message names no sender")
    return int.from_bytes(data[4:8], "little")


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """What a finished handshake leaves. `initiator`: whether this side was it."""

    local_index: int
    remote_index: int
    send: bytes
    recv: bytes
    initiator: bool

    def __repr__(self) -> str:  # keys never reach a log
        return f"TransportKeys({self.local_index:#x}, {self.remote_index:#x}, ***, initiator={self.initiator})"


class StaticKeys:
    """A network's own WireGuard key, ready for use; remembers the secrets it shares with its peers."""

    def __init__(self, private: Secret, primitives: Primitives = REAL) -> None:
        self.primitives = primitives
        self.pair = primitives.key_pair(private)
        self.public = WireGuardPublicKey(self.pair.public)
        self.shared = lru_cache(_SHARED_SECRETS)(self.pair.exchange)

    def __repr__(self) -> str:
        return f"StaticKeys({self.public!r})"


class _Symmetric:
    """Chaining key and hash, Noise's symmetric state."""

    __slots__ = ("chain", "hash", "primitives")

    def __init__(self, primitives: Primitives, chain: bytes, hashed: bytes) -> None:
        self.primitives = primitives
        self.chain = chain
        self.hash = hashed

    @classmethod
    def towards(cls, responder: bytes, primitives: Primitives) -> _Symmetric:
        return cls(primitives, _CHAIN, primitives.hash(_HASH + responder))

    def copy(self) -> _Symmetric:
        return _Symmetric(self.primitives, self.chain, self.hash)

    def mix_hash(self, data: bytes) -> None:
        self.hash = self.primitives.hash(self.hash + data)

    def mix_ephemeral(self, public: bytes) -> None:
        """As WireGuard does with psk: an ephemeral goes into both."""
        self.mix_hash(public)
        self.mix_chain(public)

    def mix_chain(self, material: bytes) -> None:
        (self.chain,) = self.primitives.kdf(self.chain, material, 1)

    def mix_key(self, material: bytes) -> bytes:
        self.chain, key = self.primitives.kdf(self.chain, material, 2)
        return key

    def mix_psk(self, psk: Secret) -> bytes:
        self.chain, mixed, key = self.primitives.kdf(self.chain, psk.reveal(), 3)
        self.mix_hash(mixed)
        return key

    def seal(self, key: bytes, plaintext: bytes) -> bytes:
        ciphertext = self.primitives.seal(key, 0, plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def open(self, key: bytes, ciphertext: bytes) -> bytes:
        plaintext = self.primitives.open(key, 0, ciphertext, self.hash)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The keys initiator → responder and back."""
        forth, back = self.primitives.kdf(self.chain, b"", 2)
        return forth, back


def _ephemeral(primitives: Primitives, given: Secret | None) -> KeyPair:
    return primitives.key_pair(given if given is not None else primitives.generate_private_key())


class Initiation:
    """The initiator between message 1 and message 2. `message` has 148 bytes, its macs zero."""

    __slots__ = ("_answer", "_ephemeral", "_static", "_symmetric", "local_index", "message", "peer")

    def __init__(
        self, static: StaticKeys, peer: WireGuardPublicKey, local_index: int, timestamp: bytes, ephemeral: KeyPair
    ) -> None:
        s = _Symmetric.towards(peer, static.primitives)
        s.mix_ephemeral(ephemeral.public)
        sealed_static = s.seal(s.mix_key(ephemeral.exchange(peer)), static.public)
        sealed_time = s.seal(s.mix_key(static.shared(peer)), timestamp)
        self.peer = peer
        self.local_index = local_index
        self.message = b"".join(
            (struct.pack("<II", INITIATION, local_index), ephemeral.public, sealed_static, sealed_time, _MACS)
        )
        self._static = static
        self._ephemeral = ephemeral
        self._symmetric = s
        self._answer: tuple[bytes, _Symmetric] | None = None

    @classmethod
    def create(
        cls,
        static: StaticKeys,
        peer: WireGuardPublicKey,
        local_index: int,
        timestamp: bytes,
        *,
        ephemeral: Secret | None = None,
    ) -> Initiation:
        """Message 1 to `peer`. `timestamp` (12 bytes, `tai64n`) must be greater than any sent to this peer before.

        Raises AuthFailure when the peer's key is a point of small order.
        """
        return cls(static, peer, local_index, timestamp, _ephemeral(static.primitives, ephemeral))

    def consume_response(self, message: bytes, psk: Secret) -> TransportKeys:
        """The keys, when message 2 answers this initiation under `psk`.

        Raises AuthFailure otherwise, MalformedError when it isn't a response. It may be called again with other
        preshared keys or other messages; the Diffie–Hellman work for one message is done once.
        """
        if message_type(message) != RESPONSE:
            raise MalformedError("not a handshake response")
        if receiver_index(message) != self.local_index:
            raise AuthFailure("a response to another initiation")
        s = self._after_exchange(message[12:44]).copy()
        s.open(s.mix_psk(psk), message[44:60])
        forth, back = s.split()
        return TransportKeys(self.local_index, sender_index(message), forth, back, initiator=True)

    def _after_exchange(self, theirs: bytes) -> _Symmetric:
        if self._answer is None or self._answer[0] != theirs:
            s = self._symmetric.copy()
            s.mix_ephemeral(theirs)
            s.mix_chain(self._ephemeral.exchange(theirs))
            s.mix_chain(self._static.pair.exchange(theirs))
            self._answer = theirs, s
        return self._answer[1]


class ReceivedInitiation:
    """The responder after message 1: who asks, and its timestamp (the caller refuses one not greater than the last)."""

    __slots__ = ("_ephemeral", "_primitives", "_symmetric", "peer", "sender_index", "timestamp")

    def __init__(self, static: StaticKeys, message: bytes) -> None:
        s = _Symmetric.towards(static.public, static.primitives)
        self._ephemeral = message[8:40]
        s.mix_ephemeral(self._ephemeral)
        key = s.mix_key(static.pair.exchange(self._ephemeral))
        self.peer = WireGuardPublicKey(s.open(key, message[40:88]))
        self.timestamp = s.open(s.mix_key(static.shared(self.peer)), message[88:116])
        self.sender_index = sender_index(message)
        self._symmetric = s
        self._primitives = static.primitives

    @classmethod
    def open(cls, static: StaticKeys, message: bytes) -> ReceivedInitiation:
        """Opens message 1. Raises AuthFailure, or MalformedError when it isn't an initiation. mac1 is not checked here."""
        if message_type(message) != INITIATION:
            raise MalformedError("not a handshake initiation")
        return cls(static, message)

    def respond(self, local_index: int, psk: Secret, *, ephemeral: Secret | None = None) -> tuple[bytes, TransportKeys]:
        """Message 2 (92 bytes, its macs zero) and this side's keys, which the first authenticated packet confirms.

        Raises AuthFailure when the initiator's keys are points of small order.
        """
        s = self._symmetric.copy()
        own = _ephemeral(self._primitives, ephemeral)
        s.mix_ephemeral(own.public)
        s.mix_chain(own.exchange(self._ephemeral))
        s.mix_chain(own.exchange(self.peer))
        empty = s.seal(s.mix_psk(psk), b"")
        forth, back = s.split()
        header = struct.pack("<III", RESPONSE, local_index, self.sender_index)
        keys = TransportKeys(local_index, self.sender_index, back, forth, initiator=False)
        return b"".join((header, own.public, empty, _MACS)), keys
