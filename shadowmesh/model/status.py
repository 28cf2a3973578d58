"""What the daemon tells over its local socket: the shapes of `status`, `peers`, `ping`, `why`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from shadowmesh.model.codec import Struct

PathKind = Literal["direct", "relay", "none"]
NetworkState = Literal["up", "pending-approval", "down", "error", "removed", "refused", "expired", "duplicate"]
"""`removed`, `refused`, `expired`: the membership has ended, by an administrator's hand, a denied join or its time; kept
until `leave`. `duplicate`: another machine with this identity is connected."""


class PeerStatus(Struct, frozen=True, kw_only=True):
    name: str
    client_id: str
    ip: str
    online: bool | None = None  # presence of the last 30 s; None while the controller is away
    path: PathKind = "none"
    idle: bool = False
    endpoint: str | None = None
    relay: str | None = None
    latency_ms: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    last_handshake: str | None = None  # RFC 3339, UTC
    reason: str = "none.idle"
    explanation: str = ""
    mtu: int | None = None  # of inner packets, where the path carries less than the interface's MTU


SILENT = 5.0  # seconds: a connected controller's longer silence is worth a word, as who looks makes the daemon ask it


class NetworkStatus(Struct, frozen=True, kw_only=True):
    name: str
    network_id: str
    ip: str
    interface: str
    state: NetworkState
    controller: Literal["connected", "offline"]
    netns: str | None = None  # the network namespace that it is put into; None: where the daemon is
    map_serial: int = 0
    epoch: int = 0
    client_id: str = ""
    client_name: str = ""  # what this machine is called in it
    subnet: str = ""
    home_relay: str | None = None
    error: str | None = None
    controller_error: str | None = None  # why it is offline, as far as that is known
    controller_silent_s: float | None = None  # while connected: since when nothing was heard of it
    clock_offset_s: float | None = None  # the controller's clock minus this machine's
    network_ref: str | None = None  # net_…, as the controller's verbs and REST name it; None before its first map
    peers: tuple[PeerStatus, ...] = ()


class NatStatus(Struct, frozen=True, kw_only=True):
    type: Literal["none", "full_cone", "restricted", "port_restricted", "symmetric", "udp_blocked", "unknown"] = (
        "unknown"
    )
    mapping: str = "unknown"  # endpoint-independent | address-and-port-dependent | unknown
    public: str | None = None
    opened: str | None = None  # an address outside that the router opened on request, and that leads here


class Status(Struct, frozen=True, kw_only=True):
    schema: str = "shadowmesh.status/1"
    version: str
    pump: Literal["native", "python"]
    networks: tuple[NetworkStatus, ...] = ()
    nat: NatStatus = NatStatus()
    warnings: tuple[str, ...] = ()
    drops: Mapping[str, int] = {}  # packets that belong to no peer and were dropped, by cause


class JoinResult(Struct, frozen=True, kw_only=True):
    schema: str = "shadowmesh.join/1"
    network: str
    network_id: str
    client_id: str
    name: str = ""  # what this machine is called in it
    ip: str
    interface: str
    state: str  # up | pending-approval | handed-over
    network_ref: str | None = None  # as in NetworkStatus


class PingTry(Struct, frozen=True, kw_only=True):
    """One line of `ping`: an echo through the tunnel. `path` is the one that data takes, `reason` says why that.

    `outer_ms`: the peer's daemon answered outside the tunnel; with `ok` false the tunnel itself is dead.
    """

    seq: int
    ok: bool
    latency_ms: float | None = None
    outer_ms: float | None = None
    path: PathKind = "none"
    endpoint: str | None = None
    relay: str | None = None
    reason: str = ""


class PathAttempt(Struct, frozen=True, kw_only=True):
    """One candidate that was tried towards a peer, for `why`."""

    candidate: str
    kind: str  # lan | host | reflexive | mapped | ipv6 | triggered
    result: str  # answered | silent | lost | not-tried
    latency_ms: float | None = None
    age_s: float | None = None
    mtu: int | None = None  # the largest inner packet that got through, where it was tried


class Why(Struct, frozen=True, kw_only=True):
    schema: str = "shadowmesh.why/1"
    network: str
    peer: PeerStatus
    attempts: tuple[PathAttempt, ...] = ()
    next_try_s: float | None = None
    history: tuple[str, ...] = ()  # newest last: "12:03:04Z relay → direct (direct.punched)"
    drops: Mapping[str, int] = {}  # packets of this peer that were dropped, by cause (`model.pump.COUNTER_FIELDS`)
