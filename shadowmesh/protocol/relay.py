"""The relay's wire: the frame that carries two peers' message, and the control messages of a session.

A frame is `53 4D 01 02` ‖ NetworkID 32 ‖ SourceIP 4 ‖ DestIP 4 ‖ message: the addresses are the nodes' IPv4 overlay
addresses, the message is the peers' own and opaque. A control message is `53 4D 01 03` ‖ type u8 ‖ fields, big endian,
of exactly the length that its type has. On UDP each is one datagram; on a WebSocket or a pump's stream each has a u16be
length before it.

    client                                   relay
    Hello(echo, token)               →       keeps nothing
                                     ←       Challenge(echo, cookie)      shorter than the Hello
    Proof(echo, cookie, signature, token) →  checks cookie, token, signature
                                     ←       Welcome(…, signature of the relay) or Refuse(echo, code)
    frames both ways; Ping → Pong every 20 to 25 s; NoSession, NoPeer when something is not there; Bye at the end

The cookie is an HMAC over the client's transport address, its echo and its token, so a Hello from a forged address
costs no state; the device key named in the token signs it, so a token alone is worth nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address
from typing import ClassVar, Self, TypeAlias

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import NetworkID, SigningPublicKey
from shadowmesh.protocol.signing import SIGNATURE_SIZE, Context, Signer, verify

VERSION = 1
FRAME_HEADER = b"SM\x01\x02"
CONTROL_HEADER = b"SM\x01\x03"
PREFIX_SIZE = 44
MIN_FRAME = PREFIX_SIZE + 16  # every message of the peers ends in a MAC
MAX_TOKEN = 1000  # Hello and Proof fit one unfragmented datagram of 1,200 bytes
ECHO_SIZE = 8
SESSION_SIZE = 8

KEEPALIVE = 22.0  # seconds between a client's pings
IDLE_TIMEOUT = 60.0  # seconds of silence after which a UDP session is gone


# frames


def frame_prefix(network_id: NetworkID, source: IPv4Address, dest: IPv4Address) -> bytes:
    """The constant 44 bytes before each message from `source` to `dest`."""
    return FRAME_HEADER + network_id + source.packed + dest.packed


def answer_prefix(prefix: bytes) -> bytes:
    """The prefix of frames in the opposite direction."""
    return prefix[:36] + prefix[40:44] + prefix[36:40]


def is_frame(data: bytes | memoryview) -> bool:
    return len(data) >= MIN_FRAME and bytes(data[:4]) == FRAME_HEADER


def is_control(data: bytes | memoryview) -> bool:
    return len(data) > 4 and bytes(data[:4]) == CONTROL_HEADER


# codes


class Refusal(IntEnum):
    """Why a relay lets a client not in, or no longer."""

    EXPIRED = 1  # past valid_until
    STALE_TOKEN = 2  # the relay hears its controller and wants a token that is not past renew_after
    REVOKED = 3
    BAD_SIGNATURE = 4  # of the token by its controller, or of the proof by the device
    FULL = 5
    WRONG_VERSION = 6
    SUPERSEDED = 7  # another device holds a newer token for this address
    BAD_COOKIE = 8  # too old, or made for another address: say Hello again
    MALFORMED = 9
    DRAINING = 10  # the relay takes no new sessions: use another


class ByeReason(IntEnum):
    LEAVING = 1  # the client goes, or moves to another relay
    REPLACED = 2  # by a newer session of the same address
    REVOKED = 3
    STALE_TOKEN = 4
    EXPIRED = 5
    DRAINING = 6  # the relay is going down or wants fewer clients: use another
    IDLE = 7


class WelcomeFlags(IntFlag):
    NONE = 0
    FRESH = 1  # the relay has heard its controller within 60 s: it wants fresh tokens and knows revocations


# control messages


def _pack_addr(addr: SockAddr) -> bytes:
    ip = addr.ip
    return struct.pack(">BH", ip.version, addr.port) + ip.packed


def _unpack_addr(data: bytes) -> SockAddr:
    if len(data) < 3:
        raise MalformedError("an address is cut off")
    version, port = struct.unpack_from(">BH", data)
    size = {4: 4, 6: 16}.get(version)
    if size is None or len(data) != 3 + size:
        raise MalformedError("an address is damaged")
    return SockAddr(str(ipaddress.ip_address(data[3:])), port)


def _exact(data: bytes, layout: struct.Struct) -> tuple[bytes, ...]:
    if len(data) != layout.size:
        raise MalformedError(f"a control message has {len(data)} bytes where {layout.size} belong")
    return layout.unpack(data)


def _enum(kind: type[IntEnum], value: int) -> int:
    """The member; a number that a newer side invented stays a plain number."""
    try:
        return kind(value)
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class Control:
    """Base of the control messages. `encode` gives the whole message, header and all."""

    TYPE: ClassVar[int] = 0

    def encode(self) -> bytes:
        return CONTROL_HEADER + bytes((self.TYPE,)) + self._body()

    def _body(self) -> bytes:
        raise NotImplementedError

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        raise NotImplementedError


def _check_token(token: str) -> bytes:
    raw = token.encode("ascii", "strict")
    if len(raw) > MAX_TOKEN:
        raise MalformedError(f"a relay token has at most {MAX_TOKEN} characters")
    return raw


def _parse_token(raw: bytes) -> str:
    if not 0 < len(raw) <= MAX_TOKEN or not raw.isascii():
        raise MalformedError("a relay token is damaged")
    return raw.decode("ascii")


@dataclass(frozen=True, slots=True)
class Hello(Control):
    """Client → relay: asks for a challenge. `echo`: 8 random bytes that name this attempt."""

    TYPE: ClassVar[int] = 1
    echo: bytes
    token: str
    version: int = VERSION

    def _body(self) -> bytes:
        return struct.pack(">B8s", self.version, self.echo) + _check_token(self.token)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        if len(body) < 9:
            raise MalformedError("a Hello is cut off")
        return cls(version=body[0], echo=body[1:9], token=_parse_token(body[9:]))


@dataclass(frozen=True, slots=True)
class Challenge(Control):
    """Relay → client. The cookie (u64 milliseconds of the relay's clock ‖ HMAC) is opaque to the client."""

    TYPE: ClassVar[int] = 2
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">8s24s")
    echo: bytes
    cookie: bytes

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.echo, self.cookie)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        return cls(*_exact(body, cls._LAYOUT))


@dataclass(frozen=True, slots=True)
class Proof(Control):
    """Client → relay: the same echo and token, the cookie, and the device's signature over `proof_message`."""

    TYPE: ClassVar[int] = 3
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">B8s24s64s")
    echo: bytes
    cookie: bytes
    signature: bytes
    token: str
    version: int = VERSION

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.version, self.echo, self.cookie, self.signature) + _check_token(self.token)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        fixed = cls._LAYOUT.size
        if len(body) < fixed:
            raise MalformedError("a Proof is cut off")
        version, echo, cookie, signature = cls._LAYOUT.unpack_from(body)
        return cls(version=version, echo=echo, cookie=cookie, signature=signature, token=_parse_token(body[fixed:]))


@dataclass(frozen=True, slots=True)
class Welcome(Control):
    """Relay → client: the session stands. `observed` is where the relay sees the client; `idle` seconds of silence end
    the session; `kbit` is the session's rate limit, 0 for none. `signature`: the relay's, see `check_welcome`."""

    TYPE: ClassVar[int] = 4
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">8s8s32s4sBHI")
    echo: bytes
    session: bytes
    network_id: NetworkID
    ip: IPv4Address
    flags: WelcomeFlags
    idle: int
    kbit: int
    observed: SockAddr
    signature: bytes = bytes(SIGNATURE_SIZE)

    @property
    def fresh(self) -> bool:
        return bool(self.flags & WelcomeFlags.FRESH)

    def signed_part(self) -> bytes:
        fixed = self._LAYOUT.pack(
            self.echo, self.session, self.network_id, self.ip.packed, self.flags, self.idle, self.kbit
        )
        return fixed + _pack_addr(self.observed)

    def _body(self) -> bytes:
        return self.signed_part() + self.signature

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        fixed = cls._LAYOUT.size
        if len(body) < fixed + SIGNATURE_SIZE:
            raise MalformedError("a Welcome is cut off")
        echo, session, network_id, ip, flags, idle, kbit = cls._LAYOUT.unpack_from(body)
        return cls(
            echo=echo,
            session=session,
            network_id=NetworkID(network_id),
            ip=IPv4Address(ip),
            flags=WelcomeFlags(flags),
            idle=idle,
            kbit=kbit,
            observed=_unpack_addr(body[fixed:-SIGNATURE_SIZE]),
            signature=body[-SIGNATURE_SIZE:],
        )


@dataclass(frozen=True, slots=True)
class Refuse(Control):
    """Relay → client: no session for the attempt `echo`; worth another try in `retry_after` seconds (0: not as it is).

    Unsigned: whoever sees the echo can forge it, so it may cost a client this attempt and nothing else.
    """

    TYPE: ClassVar[int] = 5
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">8sBH")
    echo: bytes
    code: int  # Refusal
    retry_after: int = 0

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.echo, self.code, self.retry_after)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        if len(body) != cls._LAYOUT.size:
            raise MalformedError("a Refuse has the wrong length")
        echo, code, retry_after = cls._LAYOUT.unpack(body)
        return cls(echo, _enum(Refusal, code), retry_after)


@dataclass(frozen=True, slots=True)
class NoSession(Control):
    """Relay → whoever sent a frame or Ping from an address that has no session as (network_id, ip).

    `tx_id` is the Ping's, which only who sees the client's packets knows: then say Hello. In answer to a frame it is
    zeros, and anybody may have sent it: a Ping finds out.
    """

    TYPE: ClassVar[int] = 6
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">32s4s8s")
    network_id: NetworkID
    ip: IPv4Address
    tx_id: bytes = bytes(8)

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.network_id, self.ip.packed, self.tx_id)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        network_id, ip, tx_id = _exact(body, cls._LAYOUT)
        return cls(NetworkID(network_id), IPv4Address(ip), tx_id)


@dataclass(frozen=True, slots=True)
class NoPeer(Control):
    """Relay → client with a session: `dest` is not here, try its standby. Counts only with the session's own number."""

    TYPE: ClassVar[int] = 7
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">32s4s8s")
    network_id: NetworkID
    dest: IPv4Address
    session: bytes

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.network_id, self.dest.packed, self.session)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        network_id, dest, session = _exact(body, cls._LAYOUT)
        return cls(NetworkID(network_id), IPv4Address(dest), session)


@dataclass(frozen=True, slots=True)
class Ping(Control):
    """Client → relay: keeps the session and the NAT's mapping, measures the round trip. Answered by Pong or NoSession."""

    TYPE: ClassVar[int] = 8
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">32s4s8s")
    network_id: NetworkID
    ip: IPv4Address
    tx_id: bytes

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.network_id, self.ip.packed, self.tx_id)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        network_id, ip, tx_id = _exact(body, cls._LAYOUT)
        return cls(NetworkID(network_id), IPv4Address(ip), tx_id)


@dataclass(frozen=True, slots=True)
class Pong(Ping):
    """Relay → client: the Ping's fields."""

    TYPE: ClassVar[int] = 9


@dataclass(frozen=True, slots=True)
class Bye(Control):
    """Either way: this session is over. Counts only with the session's own number, which outsiders don't know."""

    TYPE: ClassVar[int] = 10
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">32s4s8sB")
    network_id: NetworkID
    ip: IPv4Address
    session: bytes
    reason: int  # ByeReason

    def _body(self) -> bytes:
        return self._LAYOUT.pack(self.network_id, self.ip.packed, self.session, self.reason)

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        if len(body) != cls._LAYOUT.size:
            raise MalformedError("a Bye has the wrong length")
        network_id, ip, session, reason = cls._LAYOUT.unpack(body)
        return cls(NetworkID(network_id), IPv4Address(ip), session, _enum(ByeReason, reason))


ControlMessage: TypeAlias = Hello | Challenge | Proof | Welcome | Refuse | NoSession | NoPeer | Ping | Pong | Bye

_TYPES: dict[int, type[ControlMessage]] = {
    kind.TYPE: kind for kind in (Hello, Challenge, Proof, Welcome, Refuse, NoSession, NoPeer, Ping, Pong, Bye)
}


def decode_control(data: bytes | memoryview) -> ControlMessage:
    """Raises MalformedError, also for a type that this version doesn't know."""
    raw = bytes(data)
    if not is_control(raw):
        raise MalformedError("not a relay control message")
    kind = _TYPES.get(raw[4])
    if kind is None:
        raise MalformedError(f"unknown relay control message {raw[4]}")
    return kind._parse(raw[5:])


# proofs


def new_echo() -> bytes:
    return os.urandom(ECHO_SIZE)


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii", "replace")).digest()


def proof_message(relay_key: SigningPublicKey, echo: bytes, cookie: bytes, token: str) -> bytes:
    """What the device signs (context RELAY_PROOF): bound to one relay, one attempt and one token."""
    return relay_key + echo + cookie + token_hash(token)


def make_proof(challenge: Challenge, token: str, relay_key: SigningPublicKey, device: Signer) -> Proof:
    """The answer to a challenge. `relay_key` is the one that the map names, so another relay can't pass it on."""
    message = proof_message(relay_key, challenge.echo, challenge.cookie, token)
    return Proof(
        echo=challenge.echo,
        cookie=challenge.cookie,
        signature=device.sign(Context.RELAY_PROOF, message),
        token=token,
    )


def sign_welcome(welcome: Welcome, cookie: bytes, relay: Signer) -> Welcome:
    """The same with the relay's signature (context RELAY_WELCOME) over its fields and the cookie that was proven."""
    signature = relay.sign(Context.RELAY_WELCOME, welcome.signed_part() + cookie)
    return Welcome(
        echo=welcome.echo,
        session=welcome.session,
        network_id=welcome.network_id,
        ip=welcome.ip,
        flags=welcome.flags,
        idle=welcome.idle,
        kbit=welcome.kbit,
        observed=welcome.observed,
        signature=signature,
    )


def check_welcome(welcome: Welcome, cookie: bytes, relay_key: SigningPublicKey) -> bool:
    """Whether the relay with this key signed the welcome for the attempt with this cookie."""
    return verify(relay_key, Context.RELAY_WELCOME, welcome.signed_part() + cookie, welcome.signature)


class LoginAttempt:
    """One attempt of a client to get a session: feed it what comes, send what it gives.

    No timers inside: who drives it sends `hello()` again (or makes a new attempt) when nothing came for a while. A
    message may arrive twice or late; what belongs to another attempt is ignored.

    `refused` is set once the relay refused, `welcome` once a signed welcome arrived.
    """

    def __init__(self, token: str, relay_key: SigningPublicKey, device: Signer, *, echo: bytes | None = None) -> None:
        self.token = token
        self.relay_key = relay_key
        self.echo = new_echo() if echo is None else echo
        self.welcome: Welcome | None = None
        self.refused: Refuse | None = None
        self._device = device
        self._cookies: dict[bytes, bytes] = {}  # cookie → the proof made for it

    @property
    def done(self) -> bool:
        return self.welcome is not None or self.refused is not None

    def hello(self) -> bytes:
        return Hello(self.echo, self.token).encode()

    def receive(self, message: ControlMessage) -> bytes | None:
        """What to send in answer, if anything."""
        if self.done or getattr(message, "echo", None) != self.echo:
            return None
        match message:
            case Challenge(cookie=cookie):
                if cookie not in self._cookies:
                    if len(self._cookies) >= 8:  # more than Hellos were sent: somebody plays
                        return None
                    proof = make_proof(message, self.token, self.relay_key, self._device)
                    self._cookies[cookie] = proof.encode()
                return self._cookies[cookie]
            case Welcome():
                if any(check_welcome(message, cookie, self.relay_key) for cookie in self._cookies):
                    self.welcome = message
            case Refuse():
                self.refused = message
        return None


# streams


def pack_stream(frames: Iterable[bytes | memoryview]) -> bytes:
    """u16be length and frame, for each. Raises ValueError for a frame over 65,535 bytes."""
    out: list[bytes | memoryview] = []
    for frame in frames:
        if not 0 < len(frame) <= 0xFFFF:
            raise ValueError(f"a frame of {len(frame)} bytes does not fit a stream")
        out += (len(frame).to_bytes(2, "big"), frame)
    return b"".join(out)


def unpack_message(data: bytes | memoryview) -> list[memoryview]:
    """The frames of one WebSocket message, which holds whole ones only. Raises MalformedError."""
    view = memoryview(data)
    frames: list[memoryview] = []
    at, end = 0, len(view)
    while at < end:
        if at + 2 > end:
            raise MalformedError("a message ends within a frame's length")
        size = view[at] << 8 | view[at + 1]
        at += 2
        if not size or at + size > end:
            raise MalformedError("a message ends within a frame")
        frames.append(view[at : at + size])
        at += size
    return frames
