"""The mind of a client daemon: all networks, sockets and streams; hands each event to whom it concerns.

Over 500 lines because it is the one door: what a daemon may call, and where each event goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from shadowmesh.engine import report
from shadowmesh.engine.counterreader import CounterReader
from shadowmesh.engine.engine import Engine, PeerTable
from shadowmesh.engine.events import (
    DropStream,
    HostResumed,
    Identity,
    NatChanged,
    NetworkIdentity,
    NodeConfig,
    NodeEvent,
    RecentPeer,
    TurnFailed,
    WarmStart,
    WireGuardExport,
)
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.peer import Peer
from shadowmesh.engine.reconnects import Reconnects
from shadowmesh.engine.surroundings import Surroundings, Timestamps, stream_key
from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.model.netmap import NetworkMap, RelayInfo
from shadowmesh.model.pump import (
    Command,
    Confirmed,
    Datagram,
    DatagramKind,
    DescriptorGone,
    DescriptorKind,
    Edge,
    Event,
    Path,
    Slot,
    Source,
    Unclaimed,
    Wants,
)
from shadowmesh.model.status import NatStatus, PeerStatus, Why
from shadowmesh.paths.candidates import BoundSocket, Candidate, CandidateKind, HostView, gather
from shadowmesh.paths.stunclient import StunClient
from shadowmesh.protocol import disco, noise, stun
from shadowmesh.protocol import relay as relay_wire
from shadowmesh.protocol.cookies import LoadGauge, verify_mac1

SLEPT = 10.0  # seconds by which a deadline has to be missed for the host to count as having slept


class Node:
    """See the package's docstring for the way to drive it."""

    def __init__(self, identity: Identity, config: NodeConfig | None = None) -> None:
        config = config if config is not None else NodeConfig()
        self._warm_start = config.warm_start
        self._outbox = Outbox()
        self.timers = self._outbox.timers
        self._stun = StunClient(config.rng)
        self._timestamps = Timestamps(config.timestamp_floor)
        self._surroundings = Surroundings(
            config.rng, config.primitives, identity.device, self._timestamps, self._stun.rtt, config.p2p
        )
        self.engines: dict[NetworkID, Engine] = {}
        self.peers = PeerTable()
        self.nat = NatStatus()
        self.dropped = 0  # datagrams that nothing here had asked for, or that don't authenticate
        self.queued_at = inf  # as the STUN client's place in the timers
        self._reconnects = Reconnects(self._outbox, self._reconnect)
        self._recent: tuple[RecentPeer, ...] = ()  # of before our restart, or before their network was taken down
        self._host = HostAddresses()
        self._mapped: tuple[SockAddr, ...] = ()
        self._gauge = LoadGauge()
        self._handlers: dict[type, Callable[..., None]] = {
            Datagram: self._datagram,
            Wants: self._wants,
            Confirmed: self._confirmed,
            Edge: self._edge,
            Source: self._source,
            DescriptorGone: self._gone,
            Unclaimed: self._unclaimed,
        }
        self._kinds: dict[DatagramKind, Callable[[Datagram, Now], None]] = {
            DatagramKind.HANDSHAKE: self._handshake,
            DatagramKind.DISCO: self._disco,
            DatagramKind.STUN: self._stun_answer,
            DatagramKind.RELAY_CONTROL: self._relay_control,
        }

    # what comes out

    def pump_commands(self) -> list[Command]:
        """What the pump is to do since the last call, in order."""
        return self._outbox.take_commands()

    def events(self) -> list[NodeEvent]:
        """What happened since the last call, in order."""
        return self._outbox.take_events()

    def next_deadline(self) -> float | None:
        """CLOCK_BOOTTIME at which `tick` is wanted, None for never."""
        at = self.timers.next_deadline()
        return None if at == inf else at

    @property
    def timestamp(self) -> float:
        """The newest handshake timestamp used. Kept on disk now and then, it is the next start's `timestamp_floor`."""
        return self._timestamps.newest

    def limit_timestamps(self, limit: float) -> None:
        """Up to `limit` (Unix time) they follow the clock; as many as there may be beyond stay within a second of it.

        What is kept on disk ahead of their use, a second above the limit, so holds when the process is killed.
        """
        self._timestamps.limit = limit

    @property
    def indices_in_use(self) -> int:
        """How many receiver indices name a session or a handshake."""
        return len(self._surroundings.indices)

    @property
    def counters(self) -> CounterReader | None:
        """The pump's table; WireGuard's timers are read from it."""
        return self._surroundings.counters

    @counters.setter
    def counters(self, reader: CounterReader | None) -> None:
        self._surroundings.counters = reader

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
            self._outbox.publish(HostResumed(now.boot, now.boot - due))
            try:
                self.network_changed(now)
            except Exception as e:
                self._turn_failed(self, e)
        self.timers.run(now, self._turn_failed)

    def _turn_failed(self, item: object, error: Exception) -> None:
        self._outbox.publish(TurnFailed(type(item).__name__, error))

    # networks

    def add_network(self, identity: NetworkIdentity) -> None:
        """A network that this device is in; it comes to life with its map, keys and grant."""
        if identity.network_id not in self.engines:
            self.engines[identity.network_id] = Engine(identity, self.peers, self._surroundings, self._outbox, self)

    def remove_network(self, network: NetworkID, now: Now) -> None:
        """Ends a network here: leaves its relays, drops its peers and their sessions. Should it be added again, those it
        talked with lately hear of that at once; nothing else of it is left."""
        engine = self.engines.pop(network, None)
        if engine is not None:
            self._recent = tuple(self._recent_of([engine], now))
            self._reconnects.drop(network)
            engine.close(now)
            self._surroundings.wall_offsets.pop(network, None)
            self.servers_changed(now)

    def apply_map(self, network: NetworkID, netmap: NetworkMap, now: Now) -> None:
        """A map whose signature and order the daemon has checked. Removed members are cut off at once.

        Raises MalformedError if this device isn't a member in it, or an address in it is none of the network's.
        """
        engine = self._engine(network)
        first = not engine.living
        if first and self._warm_start is not None:
            self._take_up(self._warm_start)
        engine.apply_map(netmap, now)
        if first:
            recent = [peer for peer in self._recent if peer.network_id == network and peer.is_recent(now)]
            engine.remember(recent, now)
            self._reconnects.start(recent, now)

    def apply_keys(self, network: NetworkID, keys: Mapping[int, Secret], now: Now) -> None:
        """Unsealed network keys by epoch; gives ReportEpochHeld for each new one."""
        self._engine(network).apply_keys(keys, now)

    def apply_grant(self, network: NetworkID, relay_token: str, now: Now) -> None:
        """The relay token of a grant. Raises MalformedError."""
        if relay_token:
            self._engine(network).apply_token(relay_token, now)

    def apply_presence(self, network: NetworkID, changes: Iterable[Presence], now: Now) -> None:
        self._engine(network).apply_presence(changes, now)

    def controller_link(self, network: NetworkID, connected: bool, now: Now) -> None:
        """Whether the controller of this network is connected: presence is known only then. To be called for each new
        connection, which is told of this machine anew."""
        self._engine(network).controller_link(connected, now)

    def set_wall_offset(self, network: NetworkID, seconds: float) -> None:
        """How far the clock of this network's controller is ahead of `Now.wall`: expiry is judged by its time."""
        self._surroundings.wall_offsets[network] = seconds

    def set_stun_servers(self, network: NetworkID, servers: Sequence[SockAddr], now: Now) -> None:
        """STUN servers of the network's controller that its map can't name, as its URL has a host name."""
        engine = self._engine(network)
        if engine.named_stun != tuple(servers):
            engine.named_stun = tuple(servers)
            self.servers_changed(now)

    # restarts

    def warm_start(self, now: Now) -> WarmStart:
        """What the next node begins with, to be kept on disk: whom we talked with lately, the busiest first."""
        engines = self._living()
        recent = self._recent_of(engines, now)
        streams = {s.relay.relay_id: None for e in engines for s in e.relays.sessions.values() if s.on_stream}
        return WarmStart(tuple(p for p in recent if p.network_id in self.engines), tuple(streams))

    def _recent_of(self, engines: Iterable[Engine], now: Now) -> list[RecentPeer]:
        """Whom these engines talked with lately, the busiest first; then who is known of from before, and not met yet since."""
        found = sorted((peer for e in engines for peer in e.recent_peers(now)), key=lambda peer: -peer[0])
        peers = {(peer.network_id, peer.client_id): peer for _, peer in found}
        for peer in self._recent:
            if peer.is_recent(now):
                peers.setdefault((peer.network_id, peer.client_id), peer)
        return list(peers.values())

    def _take_up(self, warm_start: WarmStart) -> None:
        self._warm_start = None
        self._recent = warm_start.peers
        self._surroundings.stream_first = frozenset(warm_start.streams)

    def _reconnect(self, recent: RecentPeer, now: Now) -> None:
        engine = self._engine(recent.network_id)
        peer = engine.peers.get(recent.client_id)
        if peer is not None:
            peer.reconnect(recent, now)

    # the host

    def add_socket(self, slot: Slot, port: int, now: Now, *, ipv6: bool = False) -> None:
        """A UDP socket that the pump has, on local port `port`."""
        around = self._surroundings
        around.slots.add(slot)
        around.sockets = (*around.sockets, BoundSocket(slot, port, ipv6))
        self._transports_changed(now)

    def remove_socket(self, slot: Slot, now: Now) -> None:
        around = self._surroundings
        around.slots.discard(slot)
        around.sockets = tuple(s for s in around.sockets if s.slot != slot)
        self._transports_changed(now)

    def add_stream(self, slot: Slot, relay: RelayInfo, now: Now) -> None:
        """A stream to a relay that the pump has, after NeedStream. One that nobody needs any more is dropped at once."""
        self._surroundings.slots.add(slot)
        self._surroundings.streams[stream_key(relay)] = slot
        for engine in self._living():
            engine.relays.transport_changed(now)
        self.stream_unneeded(relay)

    def remove_stream(self, slot: Slot, now: Now) -> None:
        """A stream ended."""
        self._surroundings.slots.discard(slot)
        for key in [k for k, s in self._surroundings.streams.items() if s == slot]:
            del self._surroundings.streams[key]
        for engine in self._living():
            engine.relays.transport_changed(now)

    def set_host_addresses(self, addresses: HostAddresses, now: Now) -> None:
        """The host's addresses. Another real one is a move; what else changes is told to the peers."""
        if addresses == self._host:
            return
        before, self._host = self._host, addresses
        moved = bool(before.real) and addresses.real != before.real
        self._refresh(now, moved=moved, force=True)
        if moved:
            self._everything_anew(now)

    def set_mapped(self, mapped: tuple[SockAddr, ...], now: Now) -> None:
        """Addresses outside that lead to our socket, as routers opened them on request."""
        if mapped != self._mapped:
            self._mapped = mapped
            self._refresh(now, moved=False)

    def network_changed(self, now: Now) -> None:
        """The host woke from sleep, or its routes changed: nothing that was proven before is to be relied on."""
        self._everything_anew(now)
        for engine in self._living():
            engine.paths_in_doubt(now)

    def _everything_anew(self, now: Now) -> None:
        for engine in self._living():
            engine.relays.network_changed(now)
        self._stun.ask_all(now.boot)
        self._send_stun()

    def _transports_changed(self, now: Now) -> None:
        self._stun.configure(self._stun_servers(), self._surroundings.sockets, now.boot)
        self._send_stun()
        self._refresh(now, moved=False, force=True)
        for engine in self._living():
            engine.relays.transport_changed(now)

    # what people ask

    def status(self, network: NetworkID, now: Now, counters: CounterReader | None = None) -> list[PeerStatus]:
        """All peers of a network, in the map's order."""
        engine = self._engine(network)
        reader = counters if counters is not None else self.counters
        return [report.status(peer, now, reader) for peer in engine.peers.values()]

    def spoken_to(self, network: NetworkID, now: Now) -> list[PeerStatus]:
        """As `status`, of the peers alone that are or were spoken to."""
        return [report.status(peer, now, self.counters) for peer in self._engine(network).active_peers()]

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What gets out of this host's network, as far as is known: udp, ipv6, mapped_port."""
        kinds = {candidate.kind for candidate in self._surroundings.candidates}
        known = {
            "udp": self.nat.type not in ("udp_blocked", "unknown"),
            "ipv6": CandidateKind.IPV6 in kinds,
            "mapped_port": CandidateKind.MAPPED in kinds,
        }
        return tuple(name for name, there in known.items() if there)

    def why(self, network: NetworkID, client_id: ClientID, now: Now) -> Why:
        """Why a peer is where it is: what was tried, what comes next. Raises ShadowMeshError (NOT_FOUND)."""
        engine = self._engine(network)
        return report.why(engine, self._peer(engine, client_id), now, self.counters)

    def ping(self, network: NetworkID, client_id: ClientID, token: int, now: Now, timeout: float = 2.0) -> None:
        """Measures the way that data to a peer takes now; ends in one PingResult with this token within `timeout` s.

        It counts as traffic: a session and a direct path are sought. Raises ShadowMeshError (NOT_FOUND).
        """
        engine = self._engine(network)
        self._peer(engine, client_id).ping(token, now, timeout)

    def export_wireguard(self, network: NetworkID, client_id: ClientID, now: Now) -> WireGuardExport | None:
        """For `export wireguard`; None while no network key is held. Raises ShadowMeshError (NOT_FOUND)."""
        engine = self._engine(network)
        return report.export_wireguard(engine, self._peer(engine, client_id), self._surroundings, now)

    def is_member(self, address: IPAddress) -> bool:
        """Whether another member of a network here has this overlay address."""
        if address.version == 4:
            return any(address.packed in engine.by_ip for engine in self.engines.values())
        return any(peer.member.ip6 == address for engine in self.engines.values() for peer in engine.peers.values())

    def relay_name(self, network: NetworkID) -> str | None:
        """The home relay's name, None while there is no session."""
        engine = self._engine(network)
        if engine.relays.home is None:
            return None
        return engine.relays.sessions[engine.relays.home].relay.name

    def epoch(self, network: NetworkID, now: Now) -> int:
        """The newest valid epoch held."""
        network_keys = self._engine(network).membership.network_keys
        return network_keys.newest(self._surroundings.controller_wall(network, now))

    def _engine(self, network: NetworkID) -> Engine:
        engine = self.engines.get(network)
        if engine is None:
            raise ShadowMeshError("no_network", "this device is not in that network", kind=Kind.NOT_FOUND)
        return engine

    def _peer(self, engine: Engine, client_id: ClientID) -> Peer:
        peer = engine.peers.get(client_id)
        if peer is None:
            raise ShadowMeshError("no_peer", "there is no such peer in the network", kind=Kind.NOT_FOUND)
        return peer

    def _living(self) -> list[Engine]:
        return [e for e in self.engines.values() if e.living]

    # engine.EngineUser: what the networks share

    def stream_unneeded(self, relay: RelayInfo) -> None:
        """A session of this relay needs no stream: it goes when no other network's does."""
        key = stream_key(relay)
        slot = self._surroundings.streams.get(key)
        if slot is None:
            return
        sessions = [s for engine in self._living() for s in engine.relays.sessions.values()]
        if any(stream_key(s.relay) == key and s.needs_stream(slot) for s in sessions):
            return
        del self._surroundings.streams[key]
        self._surroundings.slots.discard(slot)
        self._outbox.publish(DropStream(slot))

    def stream_failed(self, relay: RelayInfo, now: Now) -> None:
        """Nothing comes through an open stream any more: closes it; who needs it asks for another."""
        slot = self._surroundings.streams.get(stream_key(relay))
        if slot is not None:
            self._outbox.publish(DropStream(slot))
            self.remove_stream(slot, now)

    def reflexive_seen(self, addr: SockAddr, now: Now) -> None:
        """A relay saw us at `addr` over UDP. If that is news, the NAT changed."""
        known, symmetric = self._stun.reflexive, self._surroundings.view.symmetric
        if known and addr not in known and (not symmetric or all(a.host != addr.host for a in known)):
            self._stun.ask_all(now.boot)
            self._send_stun()

    def relays_in_doubt(self, now: Now) -> None:
        """One relay knows us no more: the others are asked."""
        for engine in self._living():
            engine.relays.verify(now)

    def udp_in_doubt(self, now: Now) -> None:
        """A relay that UDP had reached fell silent: the STUN servers tell whether it is the relay or UDP."""
        self._stun.ask_all(now.boot, every=True)
        self._send_stun()

    def servers_changed(self, now: Now) -> None:
        """Relays and STUN servers of a network are others."""
        self._stun.configure(self._stun_servers(), self._surroundings.sockets, now.boot)
        self._send_stun()
        self._refresh(now, moved=False)

    # candidates, STUN

    def _stun_servers(self) -> list[SockAddr]:
        """Controllers' and relays'; relays answer on the port after theirs, too, which is asked last."""
        servers: list[SockAddr] = []
        second: list[SockAddr] = []
        for engine in self._living():
            assert engine.netmap is not None
            servers += dict.fromkeys((*engine.netmap.head.stun, *engine.named_stun))
            relays = [r.udp for r in engine.netmap.head.relays if r.udp is not None]
            servers += relays
            second += [follows for relay in relays if (follows := relay.next_port) is not None]
        return servers + second

    def _refresh(self, now: Now, *, moved: bool, force: bool = False) -> None:
        """Works out anew what this host's addresses are, and tells the peers if they changed."""
        bare = HostView(self._host, self._stun.reflexive)
        verdict = self._stun.verdict(bare, tcp_works=any(e.only_tcp_works for e in self._living()))
        filters_ports = verdict.type == "port_restricted"
        view = HostView(self._host, self._stun.reflexive, verdict.symmetric, filters_ports)
        around = self._surroundings
        candidates = gather(view, around.sockets, self._mapped)
        nat = NatStatus(
            type=verdict.type,
            mapping=verdict.mapping,
            public=str(verdict.public) if verdict.public else None,
            opened=str(self._mapped[0]) if self._mapped else None,
        )
        if nat != self.nat:
            self.nat = nat
            self._outbox.publish(NatChanged(nat))
            for engine in self._living():
                engine.nat_changed(udp_blocked=nat.type == "udp_blocked", now=now)
        news = _essence(candidates, view) != _essence(around.candidates, around.view)
        before = around.view
        around.view, around.candidates = view, candidates
        around.disco_candidates = tuple(disco.Candidate(c.addr, disco.CandidateKind(c.kind)) for c in candidates)
        judged = (view.symmetric, view.filters_ports) != (before.symmetric, before.filters_ports)
        if news or force or moved or judged:
            for engine in self._living():
                engine.host_changed(view, around.sockets, now, moved=moved)

    def deadline(self) -> float:
        return self._stun.deadline

    def on_timer(self, now: Now) -> None:
        if self._stun.tick(now.boot):
            self._refresh(now, moved=False)
        self._send_stun()

    def _send_stun(self) -> None:
        for ask in self._stun.take():
            self._outbox.send(Path(ask.slot, ask.server), stun.binding_request(ask.tx_id, change_port=ask.change_port))
        self._outbox.schedule(self)

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
                if verify_mac1(data, engine.membership.mac1_key):
                    engine.initiation(data, event.path, now, under_load=self._gauge.note(now))
                    return
            self.dropped += 1
            return
        peer = self.peers.get(self._surroundings.indices.owner(noise.receiver_index(data)))
        if peer is None or peer.handshake is None:
            self.dropped += 1
        elif kind == noise.COOKIE_REPLY:
            peer.handshake.cookie(data, now)
        elif kind == noise.RESPONSE:
            peer.response(data, event.path, now)

    def _disco(self, event: Datagram, now: Now) -> None:
        """For the peer of that key; where several networks have one, for the one whose box opens."""
        opened = False
        for engine in self.engines.values():
            peer = engine.by_key.get(event.data[4:36])
            if peer is not None:
                try:
                    peer.disco(event.data, event.path, now)
                    opened = True
                except MalformedError:
                    continue
        if not opened:
            self.dropped += 1

    def _stun_answer(self, event: Datagram, now: Now) -> None:
        answer = stun.parse_response(event.data)
        if not isinstance(answer, stun.BindingResponse):
            return
        host_before = {a.host for a in self._stun.reflexive}
        changed = self._stun.answered(answer.tx_id, answer.mapped, event.path.via, event.path.remote, now.boot)
        self._refresh(now, moved=changed and bool(host_before) and answer.mapped.host not in host_before)
        self._send_stun()

    def _relay_control(self, event: Datagram, now: Now) -> None:
        message = relay_wire.decode_control(event.data)
        path = Path(event.path.via, event.path.remote)
        echo: bytes | None = getattr(message, "echo", None)
        if echo is not None:
            logins = (engine.relays.find_login(echo) for engine in self._living())
            session = next((found for found in logins if found is not None), None)
            if session is not None:
                session.receive(message, path, now)
            return
        network: NetworkID | None = getattr(message, "network_id", None)
        engine = self.engines.get(network) if network is not None else None
        if engine is None or not engine.living:
            self.dropped += 1
            return
        session = engine.relays.find(path)
        if session is None:
            return
        if isinstance(message, relay_wire.NoPeer):
            if session.is_current(message.session):
                engine.no_peer(message, session, now)
        else:
            session.receive(message, path, now)

    def _wants(self, event: Wants, now: Now) -> None:
        peer = self.peers.get(event.peer)
        if peer is not None:
            peer.wants(now)

    def _confirmed(self, event: Confirmed, now: Now) -> None:
        peer = self.peers.get(event.peer)
        if peer is not None:
            peer.confirmed(event.local_index, now)

    def _edge(self, event: Edge, now: Now) -> None:
        peer = self.peers.get(event.peer)
        if peer is not None:
            peer.edge(event.which, now)

    def _source(self, event: Source, now: Now) -> None:
        peer = self.peers.get(event.peer)
        if peer is not None:
            peer.source(event.path, now)

    def _unclaimed(self, event: Unclaimed, now: Now) -> None:
        """A session's packet that nobody here has: if a member may have sent it, it is told so. Of several at one place,
        of whatever networks, one without a session, in turn."""
        found = (peer for engine in self._living() for peer in engine.senders_on(event.path, now) if not peer.plain)
        peer = min(found, key=lambda p: p.no_session_order(now), default=None)
        if peer is not None:
            peer.answer_unclaimed(event.receiver_index, event.size, event.path, now)

    def _gone(self, event: DescriptorGone, now: Now) -> None:
        if event.what is DescriptorKind.STREAM:
            self.remove_stream(Slot(event.index), now)
        elif event.what is DescriptorKind.SOCKET:
            self.remove_socket(Slot(event.index), now)


def _essence(candidates: Sequence[Candidate], view: HostView) -> set[object]:
    """What of the candidates is news to a peer: behind a symmetric NAT the ports are not."""
    return {(c.addr.host, c.kind) if view.symmetric and c.kind is CandidateKind.REFLEXIVE else c for c in candidates}
