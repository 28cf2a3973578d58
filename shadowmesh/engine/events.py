"""What the Node tells its daemon, and the values it is made from."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TypeAlias

from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import RelayInfo
from shadowmesh.model.pump import NetIndex, Slot
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import NatStatus, PathKind
from shadowmesh.protocol.primitives import REAL, Primitives
from shadowmesh.protocol.signing import Signer

RECENT = 180.0  # seconds since the last data for which a peer is worth remembering; no session is older

# what goes in


@dataclass(frozen=True, slots=True)
class RecentPeer:
    """A peer with data in the last RECENT seconds, `at` the last (Unix time). `endpoints`: where it was heard, the path in
    use first; `home` and `standby`: its relays; `plain`: it speaks WireGuard alone."""

    network_id: NetworkID
    client_id: ClientID
    at: float
    endpoints: tuple[SockAddr, ...] = ()
    home: RelayID | None = None
    standby: RelayID | None = None
    plain: bool = False

    def is_recent(self, now: Now) -> bool:
        """A clock that went back says nothing."""
        return now.wall - self.at <= RECENT


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What a restarted node begins with, so that its peers hear it at once: whom it talked with, and where they were.
    Never part of it: session keys, counters, indices.

    `peers`: busiest first; `streams`: relays that were reached by a stream, as UDP didn't get through.
    """

    peers: tuple[RecentPeer, ...] = ()
    streams: tuple[RelayID, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this device is. `device` signs the challenges of relays."""

    device: Signer


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """`rng` gives transaction ids, indices and jitter: `random.SystemRandom()` in the field, a seeded one in tests.

    `timestamp_floor`: the last `Node.timestamp` kept on disk, so that handshakes succeed after a restart with a clock
    that went back. `warm_start`: what `Node.warm_start` gave before it. Without `p2p` this machine goes through relays alone,
    whatever its networks allow.
    """

    rng: random.Random = field(default_factory=random.SystemRandom)
    primitives: Primitives = REAL
    timestamp_floor: float = 0.0
    warm_start: WarmStart | None = None
    p2p: bool = True


@dataclass(frozen=True, slots=True)
class NetworkIdentity:
    """This device's place in one network. `net` is the pump's index, chosen by the daemon, as it makes the TUN."""

    net: NetIndex
    network_id: NetworkID
    client_id: ClientID
    private: Secret = field(repr=False)  # the network's own WireGuard key


# what comes out


@dataclass(frozen=True, slots=True)
class PeerOnline:
    """Presence of a member changed; None: not known while the controller is away."""

    network_id: NetworkID
    client_id: ClientID
    online: bool | None


@dataclass(frozen=True, slots=True)
class PeerActive:
    """A member is spoken to, or spoke, for the first time."""

    network_id: NetworkID
    client_id: ClientID


@dataclass(frozen=True, slots=True)
class PathChanged:
    """Where a peer's data goes changed, or why. `endpoint` of a direct path, `relay` (its name) of a relayed one."""

    at: float
    network_id: NetworkID
    client_id: ClientID
    name: str
    path: PathKind
    reason: Reason
    endpoint: SockAddr | None
    relay: str | None


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """A session stands. `epoch`: of the network key it rests on."""

    at: float
    network_id: NetworkID
    client_id: ClientID
    epoch: int
    initiator: bool


@dataclass(frozen=True, slots=True)
class NeedStream:
    """UDP doesn't reach this relay: open a WebSocket to `url` and add it (`AddStream` to the pump, then
    `Node.add_stream`). Told again after a minute while there is none."""

    relay: RelayInfo
    url: str


@dataclass(frozen=True, slots=True)
class DropStream:
    """UDP works (again), or no session uses it any more: close this stream."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class ReportPresence:
    """Tell the controller (`model.devicelink.Report`)."""

    network_id: NetworkID
    home: RelayID | None
    standby: RelayID | None
    endpoints: tuple[SockAddr, ...]


@dataclass(frozen=True, slots=True)
class ReportEpochHeld:
    """Tell the controller (`model.devicelink.EpochHeld`)."""

    network_id: NetworkID
    epoch: int


@dataclass(frozen=True, slots=True)
class WantGrant:
    """The relay token is past `renew_after` or refused, or no network key is shared with a peer: ask for the grant."""

    network_id: NetworkID
    why: str


@dataclass(frozen=True, slots=True)
class NatChanged:
    nat: NatStatus


@dataclass(frozen=True, slots=True)
class HostResumed:
    """The host slept for about `slept` seconds. Relays and paths are looked after already; whatever else was connected
    is to be taken for dead until it answers."""

    at: float
    slept: float


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """What was due raised an error, which no input should bring about: a fault of ours. All else goes on, and it has its
    next turn. `what` names its kind."""

    what: str
    error: Exception


@dataclass(frozen=True, slots=True)
class PingResult:
    """The end of one `Node.ping`. `latency` in seconds."""

    token: int
    network_id: NetworkID
    client_id: ClientID
    ok: bool
    latency: float | None
    path: PathKind
    endpoint: SockAddr | None
    relay: str | None
    reason: Reason


NodeEvent: TypeAlias = (
    PeerOnline | PeerActive | PathChanged | HandshakeDone | NeedStream | DropStream | ReportPresence | ReportEpochHeld | WantGrant
    | NatChanged | HostResumed | TurnFailed | PingResult
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WireGuardExport:
    """What a standard WireGuard needs to take this machine's place towards one peer."""

    private: Secret
    addresses: tuple[IPAddress, ...]
    peer: WireGuardPublicKey
    psk: Secret
    allowed: tuple[IPAddress, ...]
    endpoint: SockAddr | None  # None: nowhere that this machine could reach without disco or relay
