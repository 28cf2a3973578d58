"""The messages of the WebSocket between a client daemon and its controller (`/api/v1/link`).

One JSON document per message, tagged by `type`. After the TLS handshake the controller sends `Challenge`;
the device answers `Hello` (its signature covers the nonce and the controller's identity key, so it can't be
passed on); then the controller sends, per network the device is in, a `MapUpdate` (snapshot or delta) and a
`Grant`, and from then on whatever changes. Signatures and sealing are made in `protocol.signing` and `protocol.sealing`.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from msgspec import Meta

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import UnixTime
from shadowmesh.model.codec import Struct, from_json
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey, WireGuardPublicKey
from shadowmesh.model.netmap import Epoch, MapDelta, MapSnapshot, NetworkMap

ALPN = "shadowmesh-link/1"
"""The name by which a device says in its ClientHello that it wants its link, and can wait for it (RFC 7301)."""


class LinkMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """Base of all link messages; `type` is the class's name in lower case."""


# controller → device


class Challenge(LinkMessage, frozen=True, kw_only=True):
    nonce: str  # hex, 32 bytes
    wall: UnixTime  # the controller's clock: the client keeps the offset


class Signature(Struct, frozen=True, kw_only=True):
    """Over (generation, serial, digest) of a map; `key` is a signing key vouched for by the identity document."""

    key: SigningPublicKey
    value: str  # base64


class MapUpdate(LinkMessage, frozen=True, kw_only=True):
    """A new state of one network's map: a snapshot or a delta, never both."""

    network_id: NetworkID
    client_id: ClientID  # who the receiver is in it
    snapshot: MapSnapshot | None = None
    delta: MapDelta | None = None
    signature: Signature

    def apply(self, held: NetworkMap | None) -> NetworkMap:
        """The map that results, from the one that is held. Raises MalformedError; the signature isn't looked at here."""
        if (self.snapshot is None) == (self.delta is None):
            raise MalformedError("a map update is a snapshot or a delta")
        if self.snapshot is not None:
            new = NetworkMap.read(self.snapshot)
        elif self.delta is not None and held is not None:
            new = self.delta.apply(held)
        else:
            raise MalformedError("a delta to a map that isn't held")
        if new.head.network_id != self.network_id:
            raise MalformedError("a map of another network")
        return new


class SealedKey(Struct, frozen=True, kw_only=True):
    """The network key of one epoch, sealed to the client's sealing key (base64)."""

    epoch: Epoch
    sealed: str


class Grant(LinkMessage, frozen=True, kw_only=True):
    """What is for this client alone. `held`: epochs whose keys it holds by its own hello, and goes on holding."""

    network_id: NetworkID
    keys: tuple[SealedKey, ...] = ()
    held: tuple[Epoch, ...] = ()
    relay_token: str = ""


class Presence(Struct, frozen=True, kw_only=True):
    """What is known of one member that moves: unsigned, volatile."""

    client_id: ClientID
    online: bool
    home: RelayID | None = None
    standby: RelayID | None = None
    endpoints: tuple[SockAddr, ...] = ()


class PresenceUpdate(LinkMessage, frozen=True, kw_only=True):
    """Gathered changes of presence, only of those that changed since the last message."""

    network_id: NetworkID
    changes: tuple[Presence, ...]


class Removed(LinkMessage, frozen=True, kw_only=True):
    """The client is no longer a member: forget the network.

    `reason` is one of removed, denied, deleted, expired, left; `at` says when it ended, by the controller's clock.
    """

    network_id: NetworkID
    reason: str
    at: UnixTime | None = None


class Pending(LinkMessage, frozen=True, kw_only=True):
    """The client still waits for approval in this network."""

    network_id: NetworkID
    client_id: ClientID


class LinkError(LinkMessage, frozen=True, kw_only=True):
    """The link can't go on; the connection closes after it. `code` is stable, for example client_duplicate."""

    code: str
    what: str


KEPT_CHECKPOINTS = 100


class AuditCheckpoint(LinkMessage, frozen=True, kw_only=True):
    """What the controller's audit log was, committed to and signed: see `protocol.checkpoints`.

    For the client to keep, the newest KEPT_CHECKPOINTS of each controller.
    """

    key: SigningPublicKey  # an audit key of the identity document
    commitment: str  # hex, 32 bytes
    at: UnixTime  # of the log's newest entry
    signature: str  # base64


class AuditQuery(LinkMessage, frozen=True, kw_only=True):
    """Which checkpoints of this controller are kept? Answered by `AuditTestimony`."""

    nonce: str


class Probe(LinkMessage, frozen=True, kw_only=True):
    """Is this boot still alive? Asked when another boot of the same device knocks; answered at once."""

    nonce: str


# device → controller


class KeyHeld(Struct, frozen=True, kw_only=True):
    """The network key of one epoch, which the device holds. `check`: see `protocol.sealing.key_check`."""

    epoch: Epoch
    check: str


class MapState(Struct, frozen=True, kw_only=True):
    """The newest map that the device holds of one network, and the keys, which aren't sealed to it again."""

    network_id: NetworkID
    generation: int
    serial: int
    keys: tuple[KeyHeld, ...] = ()


class Hello(LinkMessage, frozen=True, kw_only=True):
    """The device's answer to the challenge."""

    device_key: DevicePublicKey
    signature: str  # base64, by the device key: see protocol.signing.hello_message
    boot_id: str  # random per daemon start: two at once are a clone
    version: str
    maps: tuple[MapState, ...] = ()


class Report(LinkMessage, frozen=True, kw_only=True):
    """The device's own presence in one network, sent when it changes."""

    network_id: NetworkID
    home: RelayID | None = None
    standby: RelayID | None = None
    endpoints: tuple[SockAddr, ...] = ()


class EpochHeld(LinkMessage, frozen=True, kw_only=True):
    """The device has unsealed this epoch's key."""

    network_id: NetworkID
    epoch: Epoch


class RefreshGrant(LinkMessage, frozen=True, kw_only=True):
    """The relay token is past `renew_after`, or a peer refused all the epochs held: send the grant anew."""

    network_id: NetworkID


PRESENCE_OF_ALL = 500
"""In a network of more members a device hears of nobody's presence but of those that it watches."""


class Watch(LinkMessage, frozen=True, kw_only=True):
    """The peers of one network that the device talks to: from now on it hears of these only.

    A device that never says so hears of all, unless the network is large (PRESENCE_OF_ALL).
    """

    network_id: NetworkID
    peers: tuple[ClientID, ...]


Latency = Annotated[float, Meta(ge=0, le=60_000)]  # milliseconds
ReasonCode = Annotated[str, Meta(max_length=60, pattern=r"^(direct|relay|none)\.[a-z0-9_]+$")]
Word = Annotated[str, Meta(max_length=20, pattern=r"^[a-z0-9_]*$")]
Bytes = Annotated[int, Meta(ge=0, le=2**53)]


class PathChange(Struct, frozen=True, kw_only=True, array_like=True):
    """From then on the way to a peer was for another reason (`model.reasons`, which says the kind of way as well)."""

    ago: Annotated[int, Meta(ge=0, le=86_400)]  # seconds before the message
    reason: ReasonCode


class PeerHealth(Struct, frozen=True, kw_only=True, array_like=True):
    """How a peer is reached, and how that changed since the message before. An array, as there may be many of them."""

    peer: ClientID
    reason: ReasonCode  # before the changes
    changes: Annotated[tuple[PathChange, ...], Meta(max_length=32)] = ()  # oldest first
    latency_ms: Latency | None = None
    relay: Annotated[str, Meta(max_length=63)] = ""  # its name, of a relayed one
    rx_bytes: Bytes = 0  # since the message before; only where the network wants it
    tx_bytes: Bytes = 0

    @property
    def now(self) -> str:
        """The reason after the changes."""
        return self.changes[-1].reason if self.changes else self.reason


class Health(LinkMessage, frozen=True, kw_only=True):
    """How the device's connections in one network are: sent where the network's map asks for it (`MapHead.reports`).

    `peers`: those of which there is news. `whole`: what was told of others before is over.
    """

    network_id: NetworkID
    whole: bool = False
    nat: Word = ""  # its type, as `model.status.NatStatus` has it
    capabilities: Annotated[
        tuple[Word, ...], Meta(max_length=8)
    ] = ()  # udp, ipv6: what gets out of the device's network
    direct: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # peers in use, by the kind of way
    relayed: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    latency_ms: Latency | None = None  # the median of these
    peers: Annotated[tuple[PeerHealth, ...], Meta(max_length=500)] = ()


class ProbeReply(LinkMessage, frozen=True, kw_only=True):
    """The answer to `Probe`, with its nonce."""

    nonce: str


class AuditTestimony(LinkMessage, frozen=True, kw_only=True):
    """The answer to `AuditQuery`, with its nonce: all checkpoints of this controller that are kept."""

    nonce: str
    checkpoints: tuple[AuditCheckpoint, ...]


class Leave(LinkMessage, frozen=True, kw_only=True):
    """The device leaves the network for good; the controller answers `Removed` with the reason `left`.

    Only the membership with this key ends (None: whichever there is): told late, it must not end one made since.
    """

    network_id: NetworkID
    wg_key: WireGuardPublicKey | None = None


FromController = (
    Challenge
    | MapUpdate
    | Grant
    | PresenceUpdate
    | Removed
    | Pending
    | AuditCheckpoint
    | AuditQuery
    | Probe
    | LinkError
)
FromDevice = Hello | Report | EpochHeld | RefreshGrant | Watch | Health | AuditTestimony | ProbeReply | Leave


class _Tagged(Struct, frozen=True, kw_only=True):
    type: str


def read_message(text: str | bytes, union: Any) -> Any:
    """A message of this union of link messages; None for a type that a newer version added. Raises MalformedError."""
    try:
        return from_json(text, union)
    except MalformedError:
        known = {kind.__struct_config__.tag for kind in get_args(union)}
        if from_json(text, _Tagged).type in known:
            raise
        return None
