"""The values of the one interface between deciding and moving: commands, events, counters.

The engine emits commands; a pump applies them in order, returns nothing, and reports events, each with
its time. Both are plain values, of a kind that is quickly made, as each datagram takes some: they cross a process, can be recorded, and be replayed. The interface itself
is `dataplane.interface.Pump`; its rules are in `docs/pump.md`.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NewType, TypeAlias

from msgspec import Struct

from shadowmesh.model.addresses import IPAddress, IPNetwork, SockAddr

INNER_MTU = 1376
"""Of an overlay's interface: 1500 − IPv6 40 − UDP 8 − relay 44 − WireGuard 32."""

DATAGRAM_OVERHEAD = 32  # that WireGuard adds to an inner packet: header 16, tag 16

NetIndex = NewType("NetIndex", int)  # a network within this daemon
PeerIndex = NewType("PeerIndex", int)  # a peer within this daemon, unique over its networks
Slot = NewType("Slot", int)  # a socket or a stream


class Path(Struct, frozen=True, gc=False):
    """A way to send datagrams. Direct: `prefix` is empty. By relay: the constant 44-byte frame header."""

    via: Slot
    remote: SockAddr | None = None  # None on a stream
    local: IPAddress | None = None  # source address to send from
    prefix: bytes = b""


class Session(Struct, frozen=True, gc=False):
    """Transport keys of one WireGuard session. Times are CLOCK_BOOTTIME seconds; `dies` = `born` + 180."""

    local_index: int
    remote_index: int
    send_key: bytes
    recv_key: bytes
    initiator: bool
    born: float
    dies: float

    def __repr__(self) -> str:  # keys never reach a log
        return f"Session({self.local_index:#x}, {self.remote_index:#x}, ***, initiator={self.initiator})"


LONG = 600  # bytes of an inner packet that a narrow path may not carry


class Edges(IntFlag):
    """One-shot notices to arm for a peer."""

    TX_DATA = 1
    RX_DATA = 2
    RX_ANY = 4
    TX_LONG = 8  # data of LONG bytes a packet or more


class DatagramKind(IntEnum):
    """Kinds of datagrams that go up to the engine, each with a bounded ring of its own."""

    HANDSHAKE = 1
    DISCO = 2
    STUN = 3
    RELAY_CONTROL = 4


RING_SIZES = {
    DatagramKind.HANDSHAKE: 256,
    DatagramKind.DISCO: 1024,
    DatagramKind.STUN: 64,
    DatagramKind.RELAY_CONTROL: 256,
}
UNCLAIMED_RING = 64
STAGED_PACKETS = 256
STAGED_BYTES = 512 * 1024
REPLAY_WINDOW = 65536


# commands


class AddTun(Struct, frozen=True, gc=False):
    """`local` holds the addresses and prefixes that are this host's inside the network. `fd` travels by SCM_RIGHTS."""

    net: NetIndex
    fd: int
    mtu: int
    local: tuple[IPNetwork, ...]


class SetLocal(Struct, frozen=True, gc=False):
    net: NetIndex
    local: tuple[IPNetwork, ...]


class SetMtu(Struct, frozen=True, gc=False):
    net: NetIndex
    mtu: int


class RemoveTun(Struct, frozen=True, gc=False):
    net: NetIndex


class AddIdentity(Struct, frozen=True, gc=False):
    """`mac1_key` = BLAKE2s("mac1----" ‖ own public key): a handshake that verifies under none never goes up."""

    net: NetIndex
    mac1_key: bytes


class RemoveIdentity(Struct, frozen=True, gc=False):
    net: NetIndex


class AddSocket(Struct, frozen=True, gc=False):
    slot: Slot
    fd: int


class RemoveSocket(Struct, frozen=True, gc=False):
    slot: Slot


class AddStream(Struct, frozen=True, gc=False):
    """One end of a SOCK_STREAM socketpair to a WebSocket or TURN task: u16be length, frame; many per read."""

    slot: Slot
    fd: int


class RemoveStream(Struct, frozen=True, gc=False):
    slot: Slot


class PutPeer(Struct, frozen=True, gc=False):
    """Adds or replaces a peer (its sessions stay). `roam`: a plain WireGuard peer, whose path follows its packets."""

    peer: PeerIndex
    net: NetIndex
    allowed: tuple[IPNetwork, ...]
    roam: bool = False


class RemovePeer(Struct, frozen=True, gc=False):
    peer: PeerIndex


class SetPath(Struct, frozen=True, gc=False):
    """`also`: the same ciphertext is sent a second time there. `mtu`: inner MTU on this path, None for the TUN's."""

    peer: PeerIndex
    primary: Path | None
    also: Path | None = None
    mtu: int | None = None


class Install(Struct, frozen=True, gc=False):
    peer: PeerIndex
    session: Session


class DropSessions(Struct, frozen=True, gc=False):
    """None: all of the peer's sessions."""

    peer: PeerIndex
    local_indices: tuple[int, ...] | None = None


class SetFilter(Struct, frozen=True, gc=False):
    """Access policy of a network; None lets everything pass. The program's form comes with the policy."""

    net: NetIndex
    program: bytes | None = None


class Send(Struct, frozen=True, gc=False):
    path: Path
    data: bytes


class Keepalive(Struct, frozen=True, gc=False):
    """An empty transport packet on the current session."""

    peer: PeerIndex


class Arm(Struct, frozen=True, gc=False):
    peer: PeerIndex
    edges: Edges


class Unstage(Struct, frozen=True, gc=False):
    """Drops what waits for a session."""

    peer: PeerIndex


Command: TypeAlias = (
    AddTun | SetLocal | SetMtu | RemoveTun | AddIdentity | RemoveIdentity
    | AddSocket | RemoveSocket | AddStream | RemoveStream
    | PutPeer | RemovePeer | SetPath | Install | DropSessions | SetFilter
    | Send | Keepalive | Arm | Unstage
)  # fmt: skip


# events; `at` is CLOCK_BOOTTIME


class Datagram(Struct, frozen=True, gc=False):
    """`path` is where it came from, ready to answer on (a relayed one has the answer's frame header as prefix)."""

    at: float
    path: Path
    kind: DatagramKind
    data: bytes


class Wants(Struct, frozen=True, gc=False):
    """Packets wait and there is no usable session; told once until Install or Unstage."""

    at: float
    peer: PeerIndex


class Confirmed(Struct, frozen=True, gc=False):
    """The first authenticated packet on `next`: it is current now."""

    at: float
    peer: PeerIndex
    local_index: int


class Edge(Struct, frozen=True, gc=False):
    at: float
    peer: PeerIndex
    which: Edges


class Source(Struct, frozen=True, gc=False):
    """An authenticated packet came on a path that is neither primary nor also; at most one per second and path."""

    at: float
    peer: PeerIndex
    path: Path


class TooBig(Struct, frozen=True, gc=False):
    """A send failed with EMSGSIZE; `size` is the datagram's UDP payload."""

    at: float
    path: Path
    size: int


class Unclaimed(Struct, frozen=True, gc=False):
    """A transport packet of `size` bytes came whose receiver index names no session: perhaps one from before a restart.

    At most one a second for each place (transport, address, frame header); as many as find room in a bounded ring.
    """

    at: float
    path: Path  # ready to answer on
    receiver_index: int
    size: int


class DescriptorKind(IntEnum):
    SOCKET = 1
    STREAM = 2
    TUN = 3


class DescriptorGone(Struct, frozen=True, gc=False):
    """A descriptor died; `index` is its slot or network."""

    at: float
    what: DescriptorKind
    index: int
    errno: int


class Lost(Struct, frozen=True, gc=False):
    """`n` datagrams of this kind found their ring full since the last notice."""

    at: float
    kind: DatagramKind
    n: int


Event: TypeAlias = Datagram | Wants | Confirmed | Edge | Source | TooBig | DescriptorGone | Lost | Unclaimed


# counters: one record of u64 per peer, in shared memory, in this order

COUNTER_FIELDS = (
    "peer",  # index + 1; 0: the record is free
    "tx_bytes_direct", "tx_packets_direct", "rx_bytes_direct", "rx_packets_direct",
    "tx_bytes_relay", "tx_packets_relay", "rx_bytes_relay", "rx_packets_relay",
    "last_tx_data_ns", "last_rx_data_ns", "last_rx_any_ns",  # CLOCK_BOOTTIME nanoseconds, 0: never
    "drop_no_session", "drop_auth", "drop_duplicate", "drop_source", "drop_destination", "drop_filter",
    "drop_too_big", "drop_queue",
)  # fmt: skip
"""Bytes are of inner packets. Record 0 counts what belongs to no peer. A duplicate is a packet whose number was received
before, or is below the replay window: the second of two that were sent on two paths, or a replay; nobody can tell which."""
