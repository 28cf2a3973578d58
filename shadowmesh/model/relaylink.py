"""The messages between a relay and its controller: registering (REST), and the WebSocket `/api/v1/relay-link`.

A relay registers once: `POST /api/v1/enroll/challenge` gives a nonce, `POST /api/v1/relays/register` takes a
`RelayRegistration` and answers a `RelayRegistered`. The same key may register again (its answer was lost): it gets
the same id back. From then on the relay holds the link: the controller sends `Challenge`, the relay answers
`RelayHello`, the controller sends `TokenKeys` and all `Revocations`, then changes of both as they happen and `Alive`
every 15 s. The relay sends `Load` at least every 10 s. One JSON document per message, tagged by `type`.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import UnixTime
from shadowmesh.model.codec import Struct
from shadowmesh.model.devicelink import Challenge, LinkError, LinkMessage
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey

ALIVE_SECONDS = 15.0
LOAD_SECONDS = 10.0
USAGE_SECONDS = 30.0
USAGE_ENTRIES = 5000  # clients of one message
HEARD_SECONDS = 60.0  # a relay that heard nothing for so long serves cut off from its controller


Told = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Capacity = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]  # Mbit/s


def is_relay_url(url: str) -> bool:
    """Whether it is a ws:// or wss:// URL that a client can connect to: with a host, and a port that is one."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    return good and not any(c.isspace() for c in url)


# registering, over REST


class RelayRegistration(Struct, frozen=True, kw_only=True):
    """What a relay asks for. `token` is the one of `shadowmesh relay token`.

    `signature` (base64) is by `key` in the context RELAY_REGISTRATION over
    `protocol.signing.hello_message(nonce, controller identity, token)`.
    """

    token: str
    nonce: str  # hex, from /enroll/challenge
    key: SigningPublicKey
    signature: str
    name: str  # a wish: a number is added if it is taken
    url: str | None = None  # ws:// or wss://, None without WebSocket
    udp: SockAddr | None = None
    region: str = ""
    capacity_mbit: Capacity | None = None
    version: str = ""
    csr: str | None = None  # PEM: from now on it is linked only by TLS with a certificate of this key


class RelayRegistered(Struct, frozen=True, kw_only=True):
    """The relay's id and name from now on, and the keys that sign client tokens."""

    relay_id: RelayID
    name: str
    token_keys: tuple[SigningPublicKey, ...]
    controller_urls: tuple[str, ...]
    certificate: str | None = None  # PEM, where one was asked for


class RelayCertificateRequest(Struct, frozen=True, kw_only=True):
    """What a relay asks for that shows its certificate: one that is good for longer."""

    csr: str


class RelayCertificate(Struct, frozen=True, kw_only=True):
    certificate: str  # PEM


# controller → relay


class TokenKeys(LinkMessage, frozen=True, kw_only=True):
    """The public keys that sign client tokens: all that count from now on, newest first."""

    keys: tuple[SigningPublicKey, ...]
    wall: UnixTime  # the controller's clock


class Revocation(Struct, frozen=True, kw_only=True):
    """Tokens issued before `before` (Unix time) are void.

    For a device in one network; for a whole network where `device_key` is None; for a device everywhere where
    `network_id` is None. Where `client_id` is given, a membership has ended: all tokens of that client are void, whenever
    they were issued, and no others. Sessions that live by such a token end at once. It may be forgotten after `until`,
    when the last such token has run out.
    """

    client_id: ClientID | None = None
    device_key: DevicePublicKey | None = None
    network_id: NetworkID | None = None
    before: UnixTime
    until: UnixTime


class Revocations(LinkMessage, frozen=True, kw_only=True):
    """`complete`: these replace all known ones (sent at the start of each link); otherwise they are added."""

    complete: bool
    entries: tuple[Revocation, ...]


class Serves(LinkMessage, frozen=True, kw_only=True):
    """The networks that this relay is for: it takes no clients of others. None: all."""

    networks: tuple[NetworkID, ...] | None


class Alive(LinkMessage, frozen=True, kw_only=True):
    """Nothing but that the controller is there, and what time it has. Any message counts as hearing from it."""

    wall: UnixTime


class Drain(LinkMessage, frozen=True, kw_only=True):
    """Take no new sessions (True), or take them again. Running ones go on; clients learn it from their map."""

    draining: bool


class UsageTaken(LinkMessage, frozen=True, kw_only=True):
    """This number of the ledger is in the database."""

    ledger: str
    number: int


# relay → controller


class RelayHello(LinkMessage, frozen=True, kw_only=True):
    """The relay's answer to the challenge; what it says of itself goes into the maps.

    `signature` (base64) is by the relay's key in the context RELAY_HELLO over
    `protocol.signing.hello_message(nonce, controller identity, boot_id)`.
    """

    relay_id: RelayID
    key: SigningPublicKey
    signature: str
    boot_id: str  # random per start
    version: str
    url: str | None = None
    udp: SockAddr | None = None
    region: str = ""
    capacity_mbit: Capacity | None = None


class Load(LinkMessage, frozen=True, kw_only=True):
    """How the relay is doing. Counters run since its start."""

    sessions: Told
    networks: Told
    forwarded_frames: Told
    forwarded_bytes: Told
    dropped_frames: Told
    cpu: Annotated[float, msgspec.Meta(ge=0, le=100_000)]  # of one core, 0..1, over the last interval
    overloaded: bool = False


class ClientUsage(Struct, frozen=True, kw_only=True, array_like=True):
    """Bytes of inner IP packets that went through the relay: what the client sent, and what it was sent."""

    client_id: ClientID
    sent: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    received: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Usage(LinkMessage, frozen=True, kw_only=True):
    """What clients used since the message before; each 30 s where there was traffic.

    `ledger` is of the relay's directory, `number` counts its messages. One that wasn't answered by `UsageTaken` is sent
    again as it was, also by a relay that was killed since: the controller takes each number of a ledger once.
    """

    ledger: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    at: UnixTime  # the end of what is told, by the controller's clock
    entries: Annotated[tuple[ClientUsage, ...], msgspec.Meta(max_length=USAGE_ENTRIES)]


FromController = Challenge | Serves | TokenKeys | Revocations | Alive | Drain | UsageTaken | LinkError
FromRelay = RelayHello | Load | Usage
