"""The pump's mind: what every command does and what happens to every packet. No sockets, no clock.

SimPump runs all packets through it. The python pump runs single packets and everything rare through it, and
handles batches of transport packets itself on the same state (`state`), with `authenticated` and
`sent` called once per batch.

`now` is CLOCK_BOOTTIME in seconds. What has to leave goes to an `Output`.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane import icmp, tcp
from shadowmesh.dataplane.aead import AeadFactory, Buffer, ChaCha20Poly1305, InvalidTag
from shadowmesh.dataplane.packets import (
    COOKIE_REPLY_SIZE,
    FRAME_HEADER,
    TRANSPORT_HEADER,
    Sort,
    addresses,
    answer_prefix,
    inner_size,
    is_group_address,
    mac1_valid,
    sort_of,
)
from shadowmesh.dataplane.prefixes import prefix_set
from shadowmesh.dataplane.pumpstate import NetState, PeerState, SessionState, is_relayed
from shadowmesh.dataplane.rings import EventRings
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import IPAddress, SockAddr

_TX_DATA, _RX_DATA, _RX_ANY, _TX_LONG = map(int, m.Edges)  # plain numbers: they are asked for with each packet
_TOLD_LIMIT: Final = 4096
_ASKED_LIMIT: Final = 4096

# what a send may fail with while the socket stays good: the network's weather
_GONE_ERRNOS: Final = frozenset(
    {errno.EBADF, errno.ENOTSOCK, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN}
)


class Output(Protocol):
    """Where the core's packets go. Errors come back as errno numbers, 0 for none."""

    def send(self, path: m.Path, data: bytes) -> int:
        """Sends a finished datagram (a frame header is already before it)."""

    def deliver(self, net: m.NetIndex, packet: Buffer) -> int:
        """Hands an inner packet to a network's interface."""

    def transmit(self, peer: PeerState, packets: list[bytes], now: float) -> None:
        """Sends what had been staged, in the form in which it was staged."""


class PumpCore:
    """State and rules of a pump (`docs/pump.md`)."""

    def __init__(
        self, output: Output, *, aead: AeadFactory = ChaCha20Poly1305, table: memoryview | None = None
    ) -> None:
        self.output = output
        self.aead = aead
        self.table = c.CounterTable(
            table if table is not None else memoryview(bytearray(c.FIELDS * 8 * 1024)).cast("Q")
        )
        self.nobody = self.table.nobody
        self.events = EventRings()
        self.nets: dict[int, NetState] = {}
        self.peers: dict[int, PeerState] = {}
        self.by_index: dict[int, SessionState] = {}
        self._mac1_keys: dict[int, bytes] = {}
        self._told: dict[object, float] = {}  # when a Source or TooBig was last told
        self._asked: OrderedDict[bytes, None] = OrderedDict()  # sender indices of our own handshake messages
        self._commands: dict[type, Callable[[Any, float], None]] = {
            m.AddTun: self._add_tun, m.SetLocal: self._set_local, m.SetMtu: self._set_mtu, m.RemoveTun: self._remove_tun,
            m.AddIdentity: self._add_identity, m.RemoveIdentity: self._remove_identity,
            m.PutPeer: self._put_peer, m.RemovePeer: self._remove_peer, m.SetPath: self._set_path,
            m.Install: self._install, m.DropSessions: self._drop_sessions, m.SetFilter: self._set_filter,
            m.Send: self._send, m.Keepalive: self._keepalive, m.Arm: self._arm, m.Unstage: self._unstage,
        }  # fmt: skip

    # commands

    def apply(self, command: m.Command, now: float) -> None:
        """Applies one command. What names an unknown peer is without effect: it may just have been removed.

        Descriptors (AddSocket, AddStream and their ends, the fd of AddTun) are the caller's part.
        """
        handler = self._commands.get(type(command))
        if handler is not None:
            handler(command, now)

    def net(self, index: m.NetIndex) -> NetState:
        """The network's state, made on first mention."""
        found = self.nets.get(index)
        if found is None:
            found = self.nets[index] = NetState(index)
        return found

    def _add_tun(self, command: m.AddTun, now: float) -> None:
        net = self.net(command.net)
        net.mtu = command.mtu
        net.local = prefix_set(command.local)

    def _set_local(self, command: m.SetLocal, now: float) -> None:
        self.net(command.net).local = prefix_set(command.local)

    def _set_mtu(self, command: m.SetMtu, now: float) -> None:
        self.net(command.net).mtu = command.mtu

    def _remove_tun(self, command: m.RemoveTun, now: float) -> None:
        self.net(command.net).local = prefix_set(())

    def _add_identity(self, command: m.AddIdentity, now: float) -> None:
        self._mac1_keys[command.net] = command.mac1_key

    def _remove_identity(self, command: m.RemoveIdentity, now: float) -> None:
        self._mac1_keys.pop(command.net, None)

    def _put_peer(self, command: m.PutPeer, now: float) -> None:
        peer = self.peers.get(command.peer)
        if peer is not None and peer.net.index != command.net:
            self._remove_peer(m.RemovePeer(command.peer), now)
            peer = None
        if peer is None:
            number, record = self.table.allocate(command.peer)
            peer = self.peers[command.peer] = PeerState(command.peer, self.net(command.net), number, record)
        for network in set(peer.allowed) - set(command.allowed):
            peer.net.routes.discard(network, peer)
        for network in command.allowed:
            peer.net.routes.put(network, peer)
        peer.allowed = command.allowed
        peer.roam = command.roam

    def _remove_peer(self, command: m.RemovePeer, now: float) -> None:
        peer = self.peers.pop(command.peer, None)
        if peer is None:
            return
        for network in peer.allowed:
            peer.net.routes.discard(network, peer)
        self._forget(peer.sessions.drop(None))
        peer.staged.take()
        self.table.release(peer.record_number)
        peer.record = memoryview(bytearray(c.FIELDS * 8)).cast("Q")

    def _set_path(self, command: m.SetPath, now: float) -> None:
        peer = self.peers.get(command.peer)
        if peer is None:
            return
        peer.set_primary(command.primary)
        peer.set_also(command.also)
        peer.mtu = command.mtu
        self.flush_staged(peer, now)

    def _install(self, command: m.Install, now: float) -> None:
        peer = self.peers.get(command.peer)
        if peer is None:
            return
        session = SessionState(command.session, peer, self.aead)
        self._forget(peer.sessions.install(session, command.session.initiator))
        self.by_index[session.local_index] = session
        peer.wants_told = False
        if command.session.initiator:
            self.flush_staged(peer, now)

    def _drop_sessions(self, command: m.DropSessions, now: float) -> None:
        peer = self.peers.get(command.peer)
        if peer is not None:
            self._forget(peer.sessions.drop(command.local_indices))

    def _set_filter(self, command: m.SetFilter, now: float) -> None:
        # No form of program is defined yet, so none can be obeyed: one that comes closes the network.
        self.net(command.net).closed = command.program is not None

    def _send(self, command: m.Send, now: float) -> None:
        if sort_of(command.data) in (Sort.INITIATION, Sort.RESPONSE):
            self._asked[bytes(command.data[4:8])] = None
            if len(self._asked) > _ASKED_LIMIT:
                self._asked.popitem(last=False)
        self.send_on(command.path, command.data, self.nobody, now)

    def _keepalive(self, command: m.Keepalive, now: float) -> None:
        peer = self.peers.get(command.peer)
        session = peer.sender(now) if peer is not None else None
        if peer is not None and session is not None:
            self._emit(peer, self.seal(session, b"", 0), now)

    def _arm(self, command: m.Arm, now: float) -> None:
        peer = self.peers.get(command.peer)
        if peer is not None:
            peer.edges |= int(command.edges)

    def _unstage(self, command: m.Unstage, now: float) -> None:
        peer = self.peers.get(command.peer)
        if peer is not None:
            peer.record[c.NO_SESSION] += len(peer.staged.take())
            peer.wants_told = False

    def _forget(self, sessions: list[SessionState]) -> None:
        for session in sessions:
            if self.by_index.get(session.local_index) is session:  # the index may have been given out again
                del self.by_index[session.local_index]

    # from an interface

    def route(self, net: NetState, source: bytes, destination: bytes) -> PeerState | None:
        """Whose a packet from the network's interface is; None, and counted, where it must not leave."""
        if is_group_address(destination):
            self.nobody[c.DESTINATION] += 1
            return None
        if net.local.lookup(source) is None:  # another network's packets, forwarded by this host
            self.nobody[c.SOURCE] += 1
            return None
        peer = net.routes.lookup(destination)
        if peer is None:
            self.nobody[c.DESTINATION] += 1
        elif net.closed:
            peer.record[c.FILTER] += 1
            return None
        return peer

    def outbound(self, index: m.NetIndex, packet: Buffer, now: float) -> None:
        """One packet from a network's interface."""
        net = self.nets.get(index)
        ends = addresses(packet)
        if net is None or ends is None:
            self.nobody[c.DESTINATION] += 1
            return
        peer = self.route(net, *ends)
        if peer is not None:
            self.transmit(peer, packet, now)

    def transmit(self, peer: PeerState, packet: Buffer, now: float) -> None:
        """Encrypts and sends one inner packet, or stages it."""
        session = peer.sender(now)
        if session is None or peer.primary is None:
            self.stage(peer, bytes(packet), now)
            return
        size = len(packet)
        if peer.mtu is not None and size > peer.mtu:
            for part in self.cut(peer, packet):
                self.transmit(peer, part, now)
            return
        self._emit(peer, self.seal(session, packet, peer.padded(size)), now)
        self.sent(peer, size, 1, now)

    def cut(self, peer: PeerState, packet: Buffer) -> list[bytes]:
        """A packet above the path's MTU as smaller segments if it is TCP's; else none, and this host's kernel is told."""
        assert peer.mtu is not None
        parts = tcp.split(packet, peer.mtu)
        if parts is None:
            self.refuse_too_big(peer, packet)
        return parts or []

    def refuse_too_big(self, peer: PeerState, packet: Buffer) -> None:
        """Drops a packet above the path's MTU and tells this host's kernel the size that fits."""
        peer.record[c.TOO_BIG] += 1
        assert peer.mtu is not None
        answer = icmp.too_big(packet, peer.mtu)
        if answer is not None:
            self.output.deliver(peer.net.index, answer)

    def stage(self, peer: PeerState, packet: bytes, now: float) -> None:
        """Keeps a packet until there are a session and a path; asks for the session, once."""
        peer.record[c.QUEUE] += peer.staged.push(packet)
        if not peer.wants_told and peer.sender(now) is None:
            peer.wants_told = True
            self.events.notice(m.Wants(now, peer.index))

    def flush_staged(self, peer: PeerState, now: float) -> None:
        """Sends what waited, if it can go now."""
        if peer.staged and peer.primary is not None and peer.sender(now) is not None:
            self.output.transmit(peer, peer.staged.take(), now)

    def seal(self, session: SessionState, packet: Buffer, padded: int) -> bytes:
        """The transport datagram of a packet (paper, section 5.4.6)."""
        counter = session.take(1).to_bytes(8, "little")
        plain = bytes(packet) + bytes(padded - len(packet))
        return session.header + counter + session.tx.encrypt(b"\0\0\0\0" + counter, plain, None)

    def sent(self, peer: PeerState, size: int, packets: int, now: float) -> None:
        """Books data packets that went out: `size` inner bytes in all."""
        record = peer.record
        assert peer.primary is not None
        at = c.TX_RELAY if is_relayed(peer.primary) else c.TX_DIRECT
        record[at] += size
        record[at + 1] += packets
        record[c.LAST_TX_DATA] = int(now * 1e9)
        if peer.edges & _TX_DATA:
            self._edge(peer, m.Edges.TX_DATA, now)
        if peer.edges & _TX_LONG and size >= m.LONG * packets:
            self._edge(peer, m.Edges.TX_LONG, now)

    def _emit(self, peer: PeerState, datagram: bytes, now: float) -> None:
        for path in (peer.primary, peer.also):
            if path is not None:
                self.send_on(path, datagram, peer.record, now)

    def send_on(self, path: m.Path, datagram: bytes, record: memoryview, now: float) -> None:
        """Sends a datagram on a path; what fails is counted in `record` and told where it says something."""
        data = path.prefix + datagram
        failed = self.output.send(path, data)
        if failed:
            self.send_failed(path, len(data), failed, record, 1, now)

    def send_failed(self, path: m.Path, size: int, error: int, record: memoryview, packets: int, now: float) -> None:
        """Books a failed send of `packets` datagrams of `size` bytes. No errno of the network's closes a socket."""
        if error == errno.EMSGSIZE:
            record[c.TOO_BIG] += packets
            if self._tell(("big", path.via, path.remote, size), now):
                self.events.notice(m.TooBig(now, path, size))
        else:
            record[c.QUEUE] += packets

    # from a socket or stream

    def inbound(self, via: m.Slot, remote: SockAddr | None, local: IPAddress | None, data: Buffer, now: float) -> None:
        """One datagram from a socket, or one frame from a stream (`remote` None)."""
        sort = sort_of(data)
        prefix = b""
        if sort is Sort.FRAME and len(data) > FRAME_HEADER:
            prefix = answer_prefix(bytes(data[:FRAME_HEADER]))
            data = memoryview(data)[FRAME_HEADER:]
            sort = sort_of(data)
            if sort > Sort.DISCO:  # a relay carries what peers say to each other, nothing else
                sort = Sort.UNKNOWN
        if sort is Sort.TRANSPORT:
            self._transport(m.Path(via, remote, local, prefix), data, now)
        elif sort in (Sort.INITIATION, Sort.RESPONSE):
            if any(mac1_valid(data, key) for key in self._mac1_keys.values()):
                self._up(via, remote, local, prefix, m.DatagramKind.HANDSHAKE, data, now)
            else:
                self.nobody[c.AUTH] += 1
        elif sort is Sort.COOKIE_REPLY:  # carries no mac1; it answers a message of ours or is nothing
            if bytes(data[4:8]) in self._asked:
                self._up(via, remote, local, prefix, m.DatagramKind.HANDSHAKE, data, now)
            else:
                self.nobody[c.AUTH] += 1
        elif sort is Sort.DISCO:
            self._up(via, remote, local, prefix, m.DatagramKind.DISCO, data, now)
        elif sort is Sort.STUN:
            self._up(via, remote, local, prefix, m.DatagramKind.STUN, data, now)
        elif sort is Sort.RELAY_CONTROL:
            self._up(via, remote, local, prefix, m.DatagramKind.RELAY_CONTROL, data, now)
        else:
            self.nobody[c.AUTH] += 1

    def _up(
        self, via: m.Slot, remote: SockAddr | None, local: IPAddress | None, prefix: bytes,
        kind: m.DatagramKind, data: Buffer, now: float,
    ) -> None:  # fmt: skip
        self.events.datagram(m.Datagram(now, m.Path(via, remote, local, prefix), kind, bytes(data)))

    def _transport(self, path: m.Path, data: Buffer, now: float) -> None:
        index = int.from_bytes(data[4:8], "little")
        session = self.by_index.get(index)
        if session is None:
            self.nobody[c.NO_SESSION] += 1
            self.events.unclaimed(m.Unclaimed(now, path, index, len(data)))
            return
        peer = session.peer
        if now >= session.dies:
            peer.record[c.NO_SESSION] += 1
            return
        try:
            nonce = b"\0\0\0\0" + bytes(data[8:16])
            packet = session.rx.decrypt(nonce, memoryview(data)[TRANSPORT_HEADER:], None)
        except InvalidTag:
            peer.record[c.AUTH] += 1
            return
        if not session.window.accept(int.from_bytes(nonce[4:], "little")):
            peer.record[c.DUPLICATE] += 1
            return
        self.authenticated(session, path, now)
        if not packet:  # a keepalive
            return
        checked = self.check_inner(peer, packet)
        if checked is None:
            return
        self.received(peer, path, len(checked), 1, now)
        if self.output.deliver(peer.net.index, checked):
            peer.record[c.QUEUE] += 1

    def check_inner(self, peer: PeerState, packet: bytes) -> memoryview | None:
        """The inner packet without its padding, None (counted) where it may not enter this host."""
        size = inner_size(packet)
        ends = addresses(packet) if size else None
        if ends is None or not self.may_enter(peer, *ends, 1):
            if ends is None:
                peer.record[c.SOURCE] += 1
            return None
        return memoryview(packet)[:size]

    def may_enter(self, peer: PeerState, source: bytes, destination: bytes, packets: int) -> bool:
        """Source is the peer's, destination is this host's and the network is not closed; else False and counted."""
        net = peer.net
        if net.routes.lookup(source) is not peer:
            peer.record[c.SOURCE] += packets
        elif is_group_address(destination) or net.local.lookup(destination) is None:
            peer.record[c.DESTINATION] += packets
        elif net.closed:
            peer.record[c.FILTER] += packets
        else:
            return True
        return False

    def authenticated(self, session: SessionState, path: m.Path, now: float) -> None:
        """A packet (or a batch from one path) authenticated and was new: promotion, edges, where it came from."""
        peer = session.peer
        if peer.sessions.next is session:
            self._forget(peer.sessions.promote())
            self.events.notice(m.Confirmed(now, peer.index, session.local_index))
        peer.record[c.LAST_RX_ANY] = int(now * 1e9)
        if peer.edges & _RX_ANY:
            self._edge(peer, m.Edges.RX_ANY, now)
        key = (path.via, path.remote, path.prefix)
        if key not in (peer.primary_key, peer.also_key):
            if self._tell((peer.index, key), now):
                self.events.notice(m.Source(now, peer.index, path))
            if peer.roam:
                peer.set_primary(path)
        if peer.staged:
            self.flush_staged(peer, now)

    def received(self, peer: PeerState, path: m.Path, size: int, packets: int, now: float) -> None:
        """Books inner packets that enter this host: `size` bytes in all."""
        record = peer.record
        at = c.RX_RELAY if is_relayed(path) else c.RX_DIRECT
        record[at] += size
        record[at + 1] += packets
        record[c.LAST_RX_DATA] = int(now * 1e9)
        if peer.edges & _RX_DATA:
            self._edge(peer, m.Edges.RX_DATA, now)

    # notices

    def _edge(self, peer: PeerState, which: m.Edges, now: float) -> None:
        peer.edges &= ~int(which)
        self.events.notice(m.Edge(now, peer.index, which))

    def gone(self, what: m.DescriptorKind, index: int, error: int, now: float) -> None:
        """A descriptor died."""
        self.events.notice(m.DescriptorGone(now, what, index, error))

    def _tell(self, about: object, now: float) -> bool:
        """At most once a second for each thing."""
        if now - self._told.get(about, -1.0) < 1.0:
            return False
        if len(self._told) >= _TOLD_LIMIT:
            self._told = {k: t for k, t in self._told.items() if now - t < 1.0}
            if len(self._told) >= _TOLD_LIMIT:
                return False
        self._told[about] = now
        return True


def closes(error: int) -> bool:
    """Whether an errno means that the descriptor itself is of no use any more."""
    return error in _GONE_ERRNOS


__all__ = ["COOKIE_REPLY_SIZE", "Output", "PumpCore", "closes"]
