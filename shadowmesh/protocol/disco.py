"""Disco: how two peers find a path to each other. Sealed datagrams between WireGuard keys, beside the sessions.

A datagram is

| bytes | what |
|---|---|
| 4 | `53 4D 01 01` |
| 32 | the sender's WireGuard public key |
| 24 | nonce, random but for the lowest bit of its first byte: 1 where the sender's key is the larger one |
| 16 + n | NaCl box (X25519, XSalsa20-Poly1305) between the two peers' keys, of one of the messages below |

Integers are big-endian; an address is 16 bytes of IPv6 (IPv4 as ::ffff:a.b.c.d) and a u16 port that isn't 0.
Bytes after the last field are ignored, so that a later version may add some.

| message | fields |
|---|---|
| ping | 1 ‖ transaction id 12 ‖ epoch u32 ‖ heard 12 ‖ flags u8 (bit 0: nested, bit 1: MTU probe) ‖ zero 14 |
| pong | 2 ‖ transaction id 12 ‖ observed address 18 ‖ own id 12 ‖ nested u8 |
| no-session | 4 ‖ receiver index u32 |
| call-me-maybe | 3 ‖ flags u8 (bit 0: ask, bit 1: filters ports, bit 2: UDP blocked) ‖ epoch u32 ‖ count u8 ‖ count × (kind u8 ‖ address 18) |

Ping and pong are of one size: who replays a ping from a forged address gains no amplification. A probe of the MTU is
longer, padded with zeros. Candidates of a kind not known here are skipped. The largest call-me-maybe has 691 bytes. A no-session (81 bytes) answers a transport packet
whose receiver index is unknown, as after a restart, and echoes that index: it means something only to who holds a session
of it, and only while that is the one in use. There is no replay protection below the
transaction id: a pong counts when its id is that of a ping under way, a ping only ever causes a pong and a check.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

from msgspec import Struct

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.protocol.primitives import REAL, AuthFailure, Box, Primitives

__all__ = [
    "HEADER",
    "MAX_CANDIDATES",
    "MAX_SIZE",
    "NO_ID",
    "NO_SESSION_SIZE",
    "AuthFailure",
    "CallMeMaybe",
    "Candidate",
    "CandidateKind",
    "DiscoBox",
    "Message",
    "NoSession",
    "Ping",
    "Pong",
    "decode",
    "encode",
    "is_disco",
    "sender",
]

HEADER: Final = b"SM\x01\x01"
MAX_CANDIDATES: Final = 32
MAX_SIZE: Final = 1200
NO_ID: Final = bytes(12)
_SEALED: Final = 4 + 32 + 24
_OVERHEAD: Final = _SEALED + 16
_PING, _PONG, _CALL_ME_MAYBE, _NO_SESSION = 1, 2, 3, 4
NO_SESSION_SIZE: Final = _OVERHEAD + 5
_ASK: Final = 1
_FILTERS_PORTS: Final = 2
_UDP_BLOCKED: Final = 4
_NESTED, _MTU_PROBE = 1, 2
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class CandidateKind(IntEnum):
    """Where an address to try comes from."""

    HOST = 1  # of an interface
    REFLEXIVE = 2  # as a STUN server saw it
    MAPPED = 3  # opened on a router by request
    IPV6 = 4  # of an interface, global IPv6
    GUESS = 5  # the next port of a sequential NAT
    TURN = 6  # on a TURN server
    NESTED = 7  # inside another program's tunnel


class Candidate(Struct, frozen=True):
    """An address at which a peer may be reached."""

    addr: SockAddr
    kind: CandidateKind


class Ping(Struct, frozen=True):
    """Asks for a pong on the same path. `tx_id` has 12 bytes; `epoch` is the newest network key the sender holds.

    `heard`: the own id of the last pong that came on this path, which proves to its sender that it did; zeros: none.
    `nested`: the sender knows that this path is inside another tunnel, and has no other left. `mtu_probe`: it asks for nothing but whether
    a datagram of this size gets through.
    """

    tx_id: bytes
    epoch: int = 0
    heard: bytes = NO_ID
    nested: bool = False
    mtu_probe: bool = False


class Pong(Struct, frozen=True):
    """Answers a ping; `observed` is where the ping came from. `own_id`: for the peer's next ping to confirm; zeros: not
    wanted. `nested`: for the sender this path is inside another tunnel, which the pinging side may not be able to see."""

    tx_id: bytes
    observed: SockAddr
    own_id: bytes = NO_ID
    nested: bool = False


class CallMeMaybe(Struct, frozen=True):
    """The sender's candidates, at most 32. `ask` wants the receiver's own in return.

    `filters_ports`: the sender's NAT is known to let in only what comes from an address and port that was sent to.
    `udp_blocked`: the sender's UDP doesn't get out.
    """

    candidates: tuple[Candidate, ...]
    ask: bool = False
    epoch: int = 0
    filters_ports: bool = False
    udp_blocked: bool = False


class NoSession(Struct, frozen=True):
    """The sender knows no session of this receiver index, which came in a transport packet (little-endian there)."""

    receiver_index: int


Message: TypeAlias = Ping | Pong | CallMeMaybe | NoSession


def is_disco(data: bytes) -> bool:
    """Whether a datagram has the header and the least size."""
    return data[:4] == HEADER and len(data) > _OVERHEAD


def sender(data: bytes) -> WireGuardPublicKey:
    """Who claims to have sent it. Costs no cryptography, proves nothing. Raises MalformedError."""
    if not is_disco(data):
        raise MalformedError("not a disco datagram")
    return WireGuardPublicKey(data[4:36])


def encode(message: Message) -> bytes:
    """A message as it goes into the box. Raises ValueError for what has no encoding."""
    match message:
        case Ping(tx_id, epoch, heard, nested, mtu_probe):
            flags = (_NESTED if nested else 0) | (_MTU_PROBE if mtu_probe else 0)
            return struct.pack(">B12sI12sB14x", _PING, _tx(tx_id), epoch, _tx(heard), flags)
        case Pong(tx_id, observed, own_id, nested):
            return struct.pack(">B12s18s12sB", _PONG, _tx(tx_id), _pack_address(observed), _tx(own_id), nested)
        case NoSession(receiver_index):
            return struct.pack(">BI", _NO_SESSION, receiver_index)
        case CallMeMaybe(candidates, ask, epoch, filters_ports, udp_blocked):
            if len(candidates) > MAX_CANDIDATES:
                raise ValueError(f"{len(candidates)} candidates, at most {MAX_CANDIDATES}")
            flags = (
                (_ASK if ask else 0) | (_FILTERS_PORTS if filters_ports else 0) | (_UDP_BLOCKED if udp_blocked else 0)
            )
            head = struct.pack(">BBIB", _CALL_ME_MAYBE, flags, epoch, len(candidates))
            return head + b"".join(bytes((c.kind,)) + _pack_address(c.addr) for c in candidates)


def decode(plaintext: bytes) -> Message:
    """The message of an opened box. Raises MalformedError."""
    try:
        match plaintext[:1]:
            case b"\x01":
                tx_id, epoch, heard, flags = struct.unpack_from(">12sI12sB14x", plaintext, 1)
                return Ping(tx_id, epoch, heard, bool(flags & _NESTED), bool(flags & _MTU_PROBE))
            case b"\x02":
                tx_id, observed, own_id, nested = struct.unpack_from(">12s18s12sB", plaintext, 1)
                return Pong(tx_id, _unpack_address(observed), own_id, bool(nested))
            case b"\x03":
                return _decode_call_me_maybe(plaintext)
            case b"\x04":
                return NoSession(*struct.unpack_from(">I", plaintext, 1))
    except struct.error as e:
        raise MalformedError("a disco message cut short") from e
    raise MalformedError("an unknown kind of disco message")


def _decode_call_me_maybe(plaintext: bytes) -> CallMeMaybe:
    flags, epoch, count = struct.unpack_from(">BIB", plaintext, 1)
    if count > MAX_CANDIDATES:
        raise MalformedError("too many candidates")
    candidates = []
    for i in range(count):
        kind, packed = struct.unpack_from(">B18s", plaintext, 7 + 19 * i)
        addr = _unpack_address(packed)
        if kind in _KINDS:
            candidates.append(Candidate(addr, CandidateKind(kind)))
    return CallMeMaybe(
        tuple(candidates), bool(flags & _ASK), epoch, bool(flags & _FILTERS_PORTS), bool(flags & _UDP_BLOCKED)
    )


_KINDS: Final = frozenset(CandidateKind)


class DiscoBox:
    """Seals and opens what goes between this node and one peer. The shared key is computed at first use and kept.

    It is the same both ways, so a bit of the nonce says which: what a node sent can't be turned round and sent back to it.
    """

    __slots__ = ("_box", "_larger", "_peer", "_primitives", "_private", "_public")

    def __init__(self, private: Secret, peer: WireGuardPublicKey, primitives: Primitives = REAL) -> None:
        self._private = private
        self._peer = peer
        self._primitives = primitives
        self._box: Box | None = None
        self._public = b""
        self._larger = 0

    def _ready(self) -> Box:
        if self._box is None:
            self._public = self._primitives.key_pair(self._private).public
            self._larger = int(self._public > self._peer)
            self._box = self._primitives.box(self._private, self._peer)
        return self._box

    def seal(self, message: Message, nonce: bytes | None = None, *, size: int = 0) -> bytes:
        """A whole datagram of at most 1,200 bytes, or padded to `size`. `nonce` has 24 bytes and is random when not given."""
        box = self._ready()
        nonce = os.urandom(24) if nonce is None else nonce
        nonce = bytes((nonce[0] & 0xFE | self._larger,)) + nonce[1:]
        return b"".join((HEADER, self._public, nonce, box.seal(nonce, encode(message).ljust(size - _OVERHEAD, b"\0"))))

    def open(self, data: bytes) -> Message:
        """Raises AuthFailure when it isn't sealed by the peer for this node, MalformedError when it is no disco message."""
        if not is_disco(data):
            raise MalformedError("not a disco datagram")
        if data[4:36] != self._peer:
            raise AuthFailure("a disco datagram of another sender")
        box = self._ready()
        if data[36] & 1 == self._larger:
            raise AuthFailure("a disco datagram of our own, sent back")
        return decode(box.open(data[36:60], data[60:]))


def _tx(tx_id: bytes) -> bytes:
    if len(tx_id) != 12:
        raise ValueError("a transaction id has 12 bytes")
    return tx_id


@lru_cache(4096)
def _pack_address(addr: SockAddr) -> bytes:
    ip = ipaddress.ip_address(addr.host)
    packed = ip.packed if ip.version == 6 else _V4_MAPPED + ip.packed
    return packed + addr.port.to_bytes(2, "big")


@lru_cache(4096)
def _unpack_address(packed: bytes) -> SockAddr:
    port = int.from_bytes(packed[16:18], "big")
    if port == 0:
        raise MalformedError("an address with port 0")
    if packed.startswith(_V4_MAPPED):
        return SockAddr(str(ipaddress.IPv4Address(packed[12:16])), port)
    return SockAddr(str(ipaddress.IPv6Address(packed[:16])), port)
