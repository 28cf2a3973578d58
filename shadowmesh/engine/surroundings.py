"""What the parts of the engine see of the host and of the daemon: randomness, sockets, addresses, the controller's time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import inf
from typing import Protocol, TypeAlias

from shadowmesh.engine.counterreader import CounterReader
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import NetworkID, SigningPublicKey
from shadowmesh.model.netmap import RelayInfo
from shadowmesh.model.pump import Path, PeerIndex, Slot
from shadowmesh.paths.candidates import BoundSocket, Candidate, HostView
from shadowmesh.protocol import disco, noise
from shadowmesh.protocol.primitives import Primitives
from shadowmesh.protocol.signing import Signer

TIMESTAMP_STEP = 1e-6


StreamKey: TypeAlias = tuple[str | None, SigningPublicKey]


def stream_key(relay: RelayInfo) -> StreamKey:
    """What a stream leads to. An id is one controller's word only: another's could take away a stream, or lead it elsewhere."""
    return relay.url, relay.key


class SharedTransports(Protocol):
    """What the relay sessions of all networks do with the host's sockets and streams together."""

    def stream_failed(self, relay: RelayInfo, now: Now) -> None:
        """Nothing comes through an open stream any more: it is closed; who needs one asks for another."""

    def stream_unneeded(self, relay: RelayInfo) -> None:
        """A session needs the stream to this relay no longer: it is closed when no other session does."""

    def reflexive_seen(self, addr: SockAddr, now: Now) -> None:
        """A relay saw this host at `addr` over UDP."""

    def udp_in_doubt(self, now: Now) -> None:
        """A relay that UDP had reached fell silent."""

    def relays_in_doubt(self, now: Now) -> None:
        """A relay knows us no more. Perhaps our NAT restarted: the others are asked whether they still do."""


class Timestamps:
    """Handshake timestamps: each later than all before, whatever the clock does.

    Beyond `limit` they don't follow the clock but go on in the smallest steps, so that a floor which is kept a second
    above it holds for a million more.
    """

    def __init__(self, floor: float) -> None:
        self.newest = floor  # Unix seconds
        self.limit = inf

    def next(self, wall: float) -> bytes:
        """TAI64N for an initiation (WireGuard paper, section 5.1)."""
        self.newest = max(min(wall, self.limit), self.newest + TIMESTAMP_STEP)
        return noise.tai64n(self.newest)


class ReceiverIndices:
    """WireGuard's receiver indices, unique in the daemon: whose a response or a cookie reply is."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._owners: dict[int, PeerIndex] = {}

    def allocate(self, owner: PeerIndex) -> int:
        while True:
            index = self._rng.getrandbits(32)
            if index not in self._owners:
                self._owners[index] = owner
                return index

    def free(self, index: int) -> None:
        self._owners.pop(index, None)

    def owner(self, index: int) -> PeerIndex | None:
        return self._owners.get(index)

    def __len__(self) -> int:
        return len(self._owners)


class Surroundings:
    """One for a whole node. The Node keeps it up to date; its parts read it."""

    def __init__(
        self,
        rng: random.Random,
        primitives: Primitives,
        device: Signer,
        timestamps: Timestamps,
        server_rtt: Mapping[SockAddr, float],
        p2p: bool = True,
    ) -> None:
        self.rng = rng
        self.primitives = primitives
        self.device = device
        self.timestamps = timestamps
        self.server_rtt = server_rtt  # seconds, by STUN
        self.p2p = p2p  # whether this machine goes direct at all
        self.indices = ReceiverIndices(rng)
        self.counters: CounterReader | None = None
        self.wall_offsets: dict[NetworkID, float] = {}  # how far each network's controller is ahead of `Now.wall`
        self.poll_offset = rng.uniform(0.0, 3.0)  # so that the daemons of a network don't poll in step
        self.sockets: tuple[BoundSocket, ...] = ()
        self.slots: set[Slot] = set()
        self.streams: dict[StreamKey, Slot] = {}
        self.stream_first: frozenset[RelayID] = frozenset()  # relays that UDP didn't reach before our restart
        self.view = HostView()
        self.candidates: tuple[Candidate, ...] = ()
        self.disco_candidates: tuple[disco.Candidate, ...] = ()

    def controller_wall(self, network: NetworkID, now: Now) -> float:
        """Now, by the clock of a network's controller."""
        return now.wall + self.wall_offsets.get(network, 0.0)

    def socket_for(self, remote: SockAddr) -> BoundSocket | None:
        """The socket from which a server is spoken to."""
        return next((s for s in self.sockets if s.ipv6 == remote.is_ipv6), None)

    def udp_path(self, server: SockAddr | None) -> Path | None:
        """The way to a server over UDP; None without an address of it or a socket of its family."""
        sock = None if server is None else self.socket_for(server)
        return None if sock is None else Path(sock.slot, server)

    def stream_path(self, relay: RelayInfo) -> Path | None:
        """The open stream to a relay."""
        slot = self.streams.get(stream_key(relay))
        return None if slot is None else Path(slot)
