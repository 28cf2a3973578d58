"""The mind of a client daemon: all networks, sockets and streams; hands each event to whom it concerns.

Over 500 lines because it is the one door: what a daemon may call, and where each event goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from shadowmesh.engine import report
from shadowmesh.engine.counters import CounterReader
from shadowmesh.engine.engine import Engine
from shadowmesh.engine.events import (
    DropStream,
    Identity,
    NatChanged,
    NeedStream,
    NetworkIdentity,
    NodeConfig,
    NodeEvent,
    WireGuardExport,
    Woke,
)
from shadowmesh.engine.peer import Peer
from shadowmesh.engine.pings import Pings
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.engine.timers import Timers
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import Kind as ErrorKind
from shadowmesh.model.errors import MalformedError, ShadowMeshError
from shadowmesh.model.ids import ClientID, RelayID
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.link import Presence
from shadowmesh.model.netmap import NetworkMap, RelayInfo
from shadowmesh.model.pump import (
    Command,
    Confirmed,
    Datagram,
    Edge,
    Event,
    Gone,
    GoneEvent,
    Kind,
    Path,
    PeerIndex,
    Send,
    Slot,
    Source,
    Wants,
)
from shadowmesh.model.status import NatStatus, PeerStatus, Why
from shadowmesh.paths.candidates import Candidate, CandidateKind, HostInterface, HostView, LocalSocket, gather
from shadowmesh.paths.stunclient import StunClient
from shadowmesh.protocol import disco, noise, stun
from shadowmesh.protocol import relay as relay_wire
from shadowmesh.protocol.cookies import LoadGauge, verify_mac1

SLEPT = 10.0  # seconds by which a deadline has to be missed for the host to count as having slept
TIMESTAMP_STEP = 1e-6


class Node:
    """See the package's docstring for the way to drive it."""

    def __init__(self, identity: Identity, config: NodeConfig | None = None) -> None:
        self.identity = identity
        self.config = config if config is not None else NodeConfig()
        self.rng = self.config.rng
        self.counters: CounterReader | None = None
        self.wall_offset = 0.0
        self.pulse_shift = self.rng.uniform(0.0, 3.0)  # so that the daemons of a network don't beat in step
        self.timers = Timers()
        self.engines: dict[NetworkID, Engine] = {}
        self.by_key: dict[bytes, Peer] = {}
        self.sockets: tuple[LocalSocket, ...] = ()
        self.slots: set[Slot] = set()
        self.streams: dict[RelayID, Slot] = {}
        self.view = HostView()
        self.candidates: tuple[Candidate, ...] = ()
        self.disco_candidates: tuple[disco.Candidate, ...] = ()
        self.stun = StunClient(self.rng)
        self.nat = NatStatus()
        self.pings = Pings(self)
        self.echoes: dict[bytes, RelaySession] = {}
        self.dropped = 0  # datagrams that nothing here had asked for, or that don't authenticate
        self.queued_at = inf  # as the STUN client's place in the timers
        self._peers: dict[PeerIndex, Peer] = {}
        self._next_peer = 0
        self._indices: dict[int, Peer] = {}
        self._commands: list[Command] = []
        self._events: list[NodeEvent] = []
        self._interfaces: tuple[HostInterface, ...] = ()
        self._gauge = LoadGauge()
        self._timestamp = self.config.timestamp_floor
        self._handlers: dict[type, Callable[..., None]] = {
            Datagram: self._datagram,
            Wants: self._wants,
            Confirmed: self._confirmed,
            Edge: self._edge,
            Source: self._source,
            GoneEvent: self._gone,
        }
        self._kinds: dict[Kind, Callable[[Datagram, Now], None]] = {
            Kind.HANDSHAKE: self._handshake,
            Kind.DISCO: self._disco,
            Kind.STUN: self._stun,
            Kind.RELAY_CONTROL: self._relay_control,
        }

    # what comes out

    def pump_commands(self) -> list[Command]:
        """What the pump is to do since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands

    def events(self) -> list[NodeEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def next_deadline(self) -> float | None:
        """CLOCK_BOOTTIME at which `tick` is wanted, None for never."""
        at = self.timers.next_deadline()
        return None if at == inf else at

    @property
    def timestamp(self) -> float:
        """The newest handshake timestamp used. Kept on disk now and then, it is the next start's `timestamp_floor`."""
        return self._timestamp

    # time and packets

    def receive(self, event: Event, now: Now) -> None:
        """One event of the pump. Nothing raises on bytes from outside."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, now)

    def tick(self, now: Now) -> None:
        """Does what is due."""
        due = self.timers.next_deadline()
        if now.boot - due > SLEPT:
            self.tell(Woke(now.boot, now.boot - due))
            self.network_changed(now)
        self.timers.run(now)

    # networks

    def add_network(self, identity: NetworkIdentity) -> None:
        """A network that this device is in; it comes to life with its map, keys and grant."""
        if identity.network_id not in self.engines:
            self.engines[identity.network_id] = Engine(self, identity)

    def remove_network(self, network: NetworkID, now: Now) -> None:
        """Ends a network here: leaves its relays, drops its peers and their sessions."""
        engine = self.engines.pop(network, None)
        if engine is not None:
            engine.close(now)
            self.servers_changed(now)

    def apply_map(self, network: NetworkID, netmap: NetworkMap, now: Now) -> None:
        """A map whose signature and order the daemon has checked. Removed members are cut off at once.

        Raises MalformedError if this device isn't a member in it.
        """
        self._engine(network).apply_map(netmap, now)

    def apply_keys(self, network: NetworkID, keys: Mapping[int, Secret], now: Now) -> None:
        """Unsealed network keys by epoch; gives EpochHeld for each new one."""
        self._engine(network).apply_keys(keys, now)

    def apply_grant(self, network: NetworkID, relay_token: str, now: Now) -> None:
        """The relay token of a grant. Raises MalformedError."""
        if relay_token:
            self._engine(network).apply_token(relay_token, now)

    def apply_presence(self, network: NetworkID, changes: Iterable[Presence], now: Now) -> None:
        self._engine(network).apply_presence(changes, now)

    def controller_link(self, network: NetworkID, connected: bool, now: Now) -> None:
        """Whether the controller of this network is connected: presence is known only then."""
        self._engine(network).controller_link(connected, now)

    def set_wall_offset(self, seconds: float) -> None:
        """How far the controller's clock is ahead of `Now.wall`: expiry is judged by its time."""
        self.wall_offset = seconds

    def controller_wall(self, now: Now) -> float:
        return now.wall + self.wall_offset

    # the host

    def add_socket(self, slot: Slot, port: int, now: Now, *, ipv6: bool = False) -> None:
        """A UDP socket that the pump has, on local port `port`."""
        self.slots.add(slot)
        self.sockets = (*self.sockets, LocalSocket(slot, port, ipv6))
        self._transports_changed(now)

    def remove_socket(self, slot: Slot, now: Now) -> None:
        self.slots.discard(slot)
        self.sockets = tuple(s for s in self.sockets if s.slot != slot)
        self._transports_changed(now)

    def add_stream(self, slot: Slot, relay_id: RelayID, now: Now) -> None:
        """A stream to a relay that the pump has, after NeedStream."""
        self.slots.add(slot)
        self.streams[relay_id] = slot
        for engine in self._living():
            engine.relays.transport_changed(now)

    def remove_stream(self, slot: Slot, now: Now) -> None:
        """A stream ended."""
        self.slots.discard(slot)
        self.streams = {r: s for r, s in self.streams.items() if s != slot}
        for engine in self._living():
            engine.relays.transport_changed(now)

    def set_host_addresses(self, addresses: Sequence[HostInterface], now: Now) -> None:
        """The host's addresses with their prefixes, those of overlay interfaces left out. A change is a move."""
        new = tuple(addresses)
        if new == self._interfaces:
            return
        moved = bool(self._interfaces)
        self._interfaces = new
        self._refresh(now, moved=moved)
        if moved:
            self._everything_anew(now)

    def network_changed(self, now: Now) -> None:
        """The host woke from sleep, or its routes changed: nothing that was proven before is to be relied on."""
        self._everything_anew(now)
        for engine in self._living():
            for peer in list(engine.awake):
                if peer.path is not None:
                    peer.path.network_changed(now.boot)
                    peer.after(now)

    def _everything_anew(self, now: Now) -> None:
        for engine in self._living():
            engine.relays.network_changed(now)
        self.stun.ask_all(now.boot)
        self._send_stun()

    def _transports_changed(self, now: Now) -> None:
        self.stun.configure(self._stun_servers(), self.sockets, now.boot)
        self._send_stun()
        self._refresh(now, moved=False, force=True)
        for engine in self._living():
            engine.relays.transport_changed(now)

    def socket_for(self, remote: SockAddr) -> LocalSocket | None:
        """The socket from which a server is spoken to."""
        return next((s for s in self.sockets if s.ipv6 == remote.is_ipv6), None)

    # what people ask

    def status(self, network: NetworkID, now: Now, counters: CounterReader | None = None) -> list[PeerStatus]:
        """All peers of a network, in the map's order."""
        engine = self._engine(network)
        reader = counters if counters is not None else self.counters
        return [report.status(engine, peer, now, reader) for peer in engine.peers.values()]

    def why(self, network: NetworkID, client_id: ClientID, now: Now) -> Why:
        """Why a peer is where it is: what was tried, what comes next. Raises ShadowMeshError (NOT_FOUND)."""
        engine = self._engine(network)
        return report.why(engine, self._peer(engine, client_id), now, self.counters)

    def ping(self, network: NetworkID, client_id: ClientID, token: int, now: Now, timeout: float = 2.0) -> None:
        """Measures the way that data to a peer takes now; ends in one PingResult with this token within `timeout` s.

        It counts as traffic: a session and a direct path are sought. Raises ShadowMeshError (NOT_FOUND).
        """
        engine = self._engine(network)
        self.pings.start(self._peer(engine, client_id), token, now, timeout)

    def export_wireguard(self, network: NetworkID, client_id: ClientID, now: Now) -> WireGuardExport | None:
        """For `export wireguard`; None while no network key is held. Raises ShadowMeshError (NOT_FOUND)."""
        engine = self._engine(network)
        return report.export_wireguard(engine, self._peer(engine, client_id), now)

    def relay_name(self, network: NetworkID) -> str | None:
        """The home relay's name, None while there is no session."""
        engine = self._engine(network)
        if engine.me is None or engine.relays.home is None:
            return None
        return engine.relays.sessions[engine.relays.home].relay.name

    def epoch(self, network: NetworkID, now: Now) -> int:
        """The newest valid epoch held."""
        return self._engine(network).keyring.newest(self.controller_wall(now))

    def _engine(self, network: NetworkID) -> Engine:
        engine = self.engines.get(network)
        if engine is None:
            raise ShadowMeshError("no_network", "this device is not in that network", kind=ErrorKind.NOT_FOUND)
        return engine

    def _peer(self, engine: Engine, client_id: ClientID) -> Peer:
        peer = engine.peers.get(client_id)
        if peer is None:
            raise ShadowMeshError("no_peer", "there is no such peer in the network", kind=ErrorKind.NOT_FOUND)
        return peer

    def _living(self) -> list[Engine]:
        return [e for e in self.engines.values() if e.me is not None]

    # for the engines

    def emit(self, command: Command) -> None:
        self._commands.append(command)

    def emit_send(self, path: Path, data: bytes) -> None:
        self._commands.append(Send(path, data))

    send = emit_send

    def tell(self, event: NodeEvent) -> None:
        self._events.append(event)

    def timestamp_bytes(self, now: Now) -> bytes:
        """TAI64N for an initiation, always later than the one before, whatever the clock does."""
        self._timestamp = max(now.wall, self._timestamp + TIMESTAMP_STEP)
        return noise.tai64n(self._timestamp)

    def new_index(self, peer: Peer) -> int:
        """A receiver index, unique in this daemon."""
        while True:
            index = self.rng.getrandbits(32)
            if index not in self._indices:
                self._indices[index] = peer
                return index

    def free_index(self, index: int) -> None:
        self._indices.pop(index, None)

    def new_peer_index(self) -> PeerIndex:
        self._next_peer += 1
        return PeerIndex(self._next_peer)

    def peer_added(self, peer: Peer) -> None:
        self._peers[peer.index] = peer
        self.by_key[peer.key] = peer

    def peer_removed(self, peer: Peer) -> None:
        self._peers.pop(peer.index, None)
        if self.by_key.get(peer.key) is peer:
            del self.by_key[peer.key]
        self._indices = {i: p for i, p in self._indices.items() if p is not peer}

    def need_stream(self, relay_id: RelayID, url: str) -> None:
        self.tell(NeedStream(relay_id, url))

    def stream_unneeded(self, relay_id: RelayID) -> None:
        """A session of this relay stands on UDP: the stream goes when no other network uses it."""
        slot = self.streams.get(relay_id)
        if slot is None:
            return
        for engine in self._living():
            session = engine.relays.sessions.get(relay_id)
            if session is not None and session.path is not None and session.path.via == slot:
                return
        del self.streams[relay_id]
        self.slots.discard(slot)
        self.tell(DropStream(relay_id, slot))

    def stream_failed(self, relay_id: RelayID, now: Now) -> None:
        """Nothing comes through an open stream any more: closes it; who needs it asks for another."""
        slot = self.streams.get(relay_id)
        if slot is not None:
            self.tell(DropStream(relay_id, slot))
            self.remove_stream(slot, now)

    def observed(self, relay: RelayInfo, addr: SockAddr, now: Now) -> None:
        """A relay saw us at `addr` over UDP. If that is news, the NAT changed."""
        known = self.stun.reflexive
        if known and addr not in known and (not self.view.symmetric or all(a.host != addr.host for a in known)):
            self.stun.ask_all(now.boot)
            self._send_stun()

    def relays_in_doubt(self, now: Now) -> None:
        for engine in self._living():
            engine.relays.verify(now)

    def pong(self, peer: Peer, tx_id: bytes, rtt: float, direct: object, now: Now) -> None:
        self.pings.pong(peer, tx_id, rtt, direct is not None, now)

    def handshake_answered(self, peer: Peer, now: Now) -> None:
        self.pings.handshake_answered(peer, now)

    # candidates, STUN

    def servers_changed(self, now: Now) -> None:
        self.stun.configure(self._stun_servers(), self.sockets, now.boot)
        self._send_stun()
        self._refresh(now, moved=False)

    def _stun_servers(self) -> list[SockAddr]:
        servers: list[SockAddr] = []
        for engine in self._living():
            assert engine.netmap is not None
            servers += engine.netmap.head.stun
            servers += [r.udp for r in engine.netmap.head.relays if r.udp is not None]
        return servers

    def _refresh(self, now: Now, *, moved: bool, force: bool = False) -> None:
        """Works out anew what this host's addresses are, and tells the peers if they changed."""
        overlay = tuple(
            net
            for engine in self._living()
            if engine.netmap is not None
            for net in (engine.netmap.head.subnet, engine.netmap.head.subnet6)
            if net is not None
        )
        bare = HostView(self._interfaces, overlay, self.stun.reflexive)
        verdict = self.stun.verdict(bare)
        filters_ports = verdict.type == "port_restricted"
        view = HostView(self._interfaces, overlay, self.stun.reflexive, verdict.symmetric, filters_ports)
        candidates = gather(view, self.sockets)
        nat = NatStatus(
            type=verdict.type, mapping=verdict.mapping, public=str(verdict.public) if verdict.public else None
        )
        if nat != self.nat:
            self.nat = nat
            self.tell(NatChanged(nat))
            for engine in self._living():
                engine.nat_changed(now)
        news = _essence(candidates, view) != _essence(self.candidates, self.view)
        before = self.view
        self.view, self.candidates = view, candidates
        self.disco_candidates = tuple(disco.Candidate(c.addr, disco.CandidateKind(c.kind)) for c in candidates)
        judged = (view.symmetric, view.filters_ports) != (before.symmetric, before.filters_ports)
        if news or force or moved or judged:
            for engine in self._living():
                engine.report_presence()
                for peer in list(engine.awake):
                    if peer.path is not None:
                        peer.path.local_changed(view, self.sockets, now.boot, moved=moved)
                        peer.after(now)

    def deadline(self) -> float:
        return self.stun.deadline

    def on_timer(self, now: Now) -> None:
        if self.stun.tick(now.boot):
            self._refresh(now, moved=False)
        self._send_stun()

    def _send_stun(self) -> None:
        for ask in self.stun.take():
            self.emit_send(Path(ask.slot, ask.server), stun.binding_request(ask.tx_id, change_port=ask.change_port))
        self.timers.schedule(self)

    # events of the pump

    def _datagram(self, event: Datagram, now: Now) -> None:
        try:
            self._kinds[event.kind](event, now)
        except MalformedError:
            self.dropped += 1

    def _handshake(self, event: Datagram, now: Now) -> None:
        data = event.data
        kind = noise.message_type(data)
        if kind == noise.INITIATION:
            for engine in self.engines.values():
                if verify_mac1(data, engine.mac1_key):
                    engine.initiation(data, event.path, now, under_load=self._gauge.note(now))
                    return
            self.dropped += 1
            return
        peer = self._indices.get(noise.receiver_index(data))
        if peer is None or peer.handshake is None:
            self.dropped += 1
        elif kind == noise.COOKIE_REPLY:
            peer.handshake.cookie(data, now)
        elif kind == noise.RESPONSE and verify_mac1(data, peer.engine.mac1_key):
            peer.engine.response(data, peer, event.path, now)

    def _disco(self, event: Datagram, now: Now) -> None:
        peer = self.by_key.get(event.data[4:36])
        if peer is None:
            self.dropped += 1
            return
        peer.engine.disco(event.data, peer, event.path, now)

    def _stun(self, event: Datagram, now: Now) -> None:
        answer = stun.parse_response(event.data)
        if not isinstance(answer, stun.BindingResponse):
            return
        host_before = {a.host for a in self.stun.reflexive}
        changed = self.stun.answered(answer.tx_id, answer.mapped, event.path.via, event.path.remote, now.boot)
        self._refresh(now, moved=changed and bool(host_before) and answer.mapped.host not in host_before)
        self._send_stun()

    def _relay_control(self, event: Datagram, now: Now) -> None:
        message = relay_wire.decode_control(event.data)
        path = Path(event.path.via, event.path.remote)
        echo: bytes | None = getattr(message, "echo", None)
        if echo is not None:
            session = self.echoes.get(echo)
            if session is not None:
                session.receive(message, path, now)
            return
        network: NetworkID | None = getattr(message, "network_id", None)
        engine = self.engines.get(network) if network is not None else None
        if engine is None or engine.me is None:
            self.dropped += 1
            return
        session = engine.relays.find(path)
        if session is None:
            return
        if isinstance(message, relay_wire.NoPeer):
            engine.no_peer(message, session, now)
        else:
            session.receive(message, path, now)

    def _wants(self, event: Wants, now: Now) -> None:
        peer = self._peers.get(event.peer)
        if peer is not None:
            peer.wants(now)

    def _confirmed(self, event: Confirmed, now: Now) -> None:
        peer = self._peers.get(event.peer)
        if peer is not None and peer.handshake is not None:
            peer.handshake.confirmed(event.local_index, now)
            peer.tell_path(now)
            peer.after(now)

    def _edge(self, event: Edge, now: Now) -> None:
        peer = self._peers.get(event.peer)
        if peer is not None and peer.path is not None:
            peer.edge(event.which, now)

    def _source(self, event: Source, now: Now) -> None:
        peer = self._peers.get(event.peer)
        if peer is not None:
            peer.source(event.path, now)

    def _gone(self, event: GoneEvent, now: Now) -> None:
        if event.what is Gone.STREAM:
            self.remove_stream(Slot(event.index), now)
        elif event.what is Gone.SOCKET:
            self.remove_socket(Slot(event.index), now)


def _essence(candidates: Sequence[Candidate], view: HostView) -> set[object]:
    """What of the candidates is news to a peer: behind a symmetric NAT the ports are not."""
    return {(c.addr.host, c.kind) if view.symmetric and c.kind is CandidateKind.REFLEXIVE else c for c in candidates}
