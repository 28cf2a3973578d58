"""SimPump: a pump in virtual time. The same rules as the real ones, no descriptors, plain packets in and out.

    pump = SimPump(clock)                       # clock() -> Now; aead=FakeAead for big worlds
    pump.apply([AddTun(net, -1, 1376, (ip_network("10.7.0.1/32"),)), AddSocket(slot, -1), PutPeer(…), …])
    pump.inject_tun(net, packet)                # this host sends a packet into the network
    pump.receive(slot, remote, data)            # a datagram arrives from the underlay (local=… its destination)
    pump.receive_stream(slot, frame)            # a frame arrives on a stream
    for out in pump.take_outgoing(): …          # Outgoing(slot, remote, local, data); remote None: a frame to a stream
    for net, packet in pump.take_delivered(): … # packets for this host
    for event in pump.drain(): …
    pump.end(slot)                              # a stream's other end closes: DescriptorGone
    pump.fail(slot, errno.EMSGSIZE)             # sends on the slot fail so until fail(slot, 0)

Descriptors in commands are ignored. Sends on a slot that wasn't added are dropped and counted. Everything happens within the
call: outputs of `apply`, `inject_tun` and `receive` wait in order until taken. `now` may be given in place of the clock's.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane.aead import AeadFactory, Buffer, ChaCha20Poly1305, FakeAead
from shadowmesh.dataplane.pumpcore import PumpCore
from shadowmesh.dataplane.pumpstate import PeerState
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.clock import Now


class Outgoing(NamedTuple):
    """A datagram to the underlay; with `remote` None, a frame to a stream (without its length)."""

    slot: m.Slot
    remote: SockAddr | None
    local: IPAddress | None
    data: bytes


_QUICK = frozenset({m.Send, m.SetPath, m.Install, m.Keepalive, m.Arm, m.Unstage, m.PutPeer})  # the core's alone


class SimPump:
    """Implements `interface.Pump`; `fileno` is -1, as nothing ever blocks."""

    name = "sim"

    def __init__(
        self, clock: Callable[[], Now], *, aead: AeadFactory = ChaCha20Poly1305, max_peers: int = 1023
    ) -> None:
        """`max_peers`: how many have a record in the counter table; more work, uncounted."""
        self._clock = clock
        table = memoryview(bytearray(c.FIELDS * 8 * (max_peers + 1))).cast("Q")
        self.core = PumpCore(self, aead=aead, table=table)
        self._slots: set[int] = set()
        self._tuns: set[int] = set()
        self._failing: dict[int, int] = {}
        self._outgoing: list[Outgoing] = []
        self._delivered: list[tuple[m.NetIndex, bytes]] = []

    # interface.Pump

    def apply(self, commands: Sequence[m.Command]) -> None:
        now = self._clock().boot
        for command in commands:
            if type(command) in _QUICK:
                self.core.apply(command, now)
                continue
            match command:
                case m.AddSocket(slot=slot) | m.AddStream(slot=slot):
                    self._slots.add(slot)
                case m.RemoveSocket(slot=slot) | m.RemoveStream(slot=slot):
                    self._slots.discard(slot)
                case m.AddTun(net=net):
                    self._tuns.add(net)
                case m.RemoveTun(net=net):
                    self._tuns.discard(net)
                case _:
                    pass
            self.core.apply(command, now)

    def fileno(self) -> int:
        return -1

    def drain(self, limit: int = 256) -> list[m.Event]:
        return self.core.events.drain(limit, self._clock().boot)

    def counters(self) -> memoryview:
        return self.core.table.memory.toreadonly()

    def kill(self) -> None:
        self.close()

    def close(self) -> None:
        for peer in self.core.peers.values():
            peer.sessions.drop(None)
        self.core.by_index.clear()

    # the simulated world's side

    def inject_tun(self, net: m.NetIndex, packet: bytes, now: Now | None = None) -> None:
        """This host sends an IP packet into the network."""
        if net in self._tuns:
            self.core.outbound(net, packet, (now or self._clock()).boot)

    def receive(
        self, slot: m.Slot, remote: SockAddr, data: bytes, now: Now | None = None, local: IPAddress | None = None
    ) -> None:
        """A datagram from the underlay; without effect if the socket is not there."""
        if slot in self._slots:
            self.core.inbound(slot, remote, local, data, (now or self._clock()).boot)

    def receive_stream(self, slot: m.Slot, frame: bytes, now: Now | None = None) -> None:
        """A frame from a stream's task."""
        if slot in self._slots:
            self.core.inbound(slot, None, None, frame, (now or self._clock()).boot)

    def take_outgoing(self) -> list[Outgoing]:
        """What was sent since the last call, in order."""
        taken = self._outgoing
        if taken:
            self._outgoing = []
        return taken

    def take_delivered(self) -> list[tuple[m.NetIndex, bytes]]:
        """What was handed to interfaces since the last call, in order."""
        taken = self._delivered
        if taken:
            self._delivered = []
        return taken

    def fail(self, slot: m.Slot, error: int) -> None:
        """Lets every send on the slot fail with this errno; 0 ends it."""
        self._failing[slot] = error

    def end(self, slot: m.Slot) -> None:
        """The task at the other end of a stream goes away."""
        self._slots.discard(slot)
        self.core.gone(m.DescriptorKind.STREAM, slot, errno.EPIPE, self._clock().boot)

    # pumpcore.Output

    def send(self, path: m.Path, data: bytes) -> int:
        if path.via not in self._slots:
            return errno.EBADF
        failing = self._failing.get(path.via, 0) if self._failing else 0
        if not failing:
            self._outgoing.append(Outgoing(path.via, path.remote, path.local, data))
        return failing

    def deliver(self, net: m.NetIndex, packet: Buffer) -> int:
        if net not in self._tuns:
            return errno.EBADF
        self._delivered.append((net, bytes(packet)))
        return 0

    def transmit(self, peer: PeerState, packets: list[bytes], now: float) -> None:
        for packet in packets:
            self.core.transmit(peer, packet, now)


__all__ = ["FakeAead", "Outgoing", "SimPump"]
