"""One peer: its handshake, its path, its pulse. A peer that nobody speaks to is little more than its entry in the map."""

from __future__ import annotations

import ipaddress
from collections import deque
from math import floor, inf
from typing import TYPE_CHECKING

from shadowmesh.engine.events import HandshakeDone, PathChanged
from shadowmesh.engine.handshake import KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, Handshake
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.model.addresses import IPNetwork, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import WireGuardPublicKey
from shadowmesh.model.netmap import Member
from shadowmesh.model.pump import Arm, Edges, Keepalive, Path, PeerIndex, PutPeer, SetPath
from shadowmesh.model.reasons import Reason
from shadowmesh.model.status import PathKind
from shadowmesh.paths.candidates import Candidate, CandidateKind, PathKey, is_site_local, parse_ip
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import Call, Moved, Ping, Route
from shadowmesh.protocol import disco

if TYPE_CHECKING:
    from shadowmesh.engine.engine import Engine

PULSE = 3.0
PULSE_SHIFTS = 16  # pulses of very many peers are spread over so many moments …
SHARE_A_PULSE = 256  # … of so many peers each; else a node's peers share one turn
QUIET = 10.0  # seconds without data after which a peer's pulse stops until the pump tells of new data
NO_ANSWER = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
ABSENT = 5.0  # seconds for which a relay that said "not here" is asked last
DISCO_SILENT = 6.5  # seconds without disco after which a peer heard by WireGuard alone is taken for a plain one
NOWHERE = SockAddr("0.0.0.0", 1)  # the observed address in a pong through a relay
HISTORY = 16


class Peer:
    """Times inside are CLOCK_BOOTTIME seconds."""

    __slots__ = (
        "_armed", "_box", "_last_rx", "_last_tx", "_pulse_at", "_rx_since", "_tx_since", "_view", "absent",
        "disco_at", "engine", "handshake", "history", "home", "index", "key", "member", "online", "path",
        "plain_hint", "queued_at", "relay", "sent_paths", "standby",
    )  # fmt: skip

    def __init__(self, engine: Engine, member: Member, index: PeerIndex) -> None:
        self.engine = engine
        self.member = member
        self.key: WireGuardPublicKey = member.wg_key
        self.index = index
        self.handshake: Handshake | None = None
        self.path: PeerPath | None = None
        self.relay: RelaySession | None = None
        self.online: bool | None = None
        self.home: RelayID | None = None
        self.standby: RelayID | None = None
        self.absent: dict[RelayID, float] = {}
        self.disco_at = -inf  # last authenticated disco message
        self.plain_hint: tuple[PathKey, float] | None = None  # WireGuard came directly from there, unknown to disco
        self.sent_paths: tuple[Path | None, Path | None] = (None, None)
        self.history: deque[PathChanged] | None = None
        self.queued_at = inf
        self._box: disco.DiscoBox | None = None
        self._view: tuple[PathKind, Reason, SockAddr | None, str | None] = ("none", Reason.NONE_IDLE, None, None)
        self._armed = False
        self._pulse_at = inf
        self._last_tx = -inf
        self._last_rx = -inf
        self._rx_since = inf  # data came and nothing was sent since
        self._tx_since = inf  # data was sent and nothing came since

    # what it is

    @property
    def allowed(self) -> tuple[IPNetwork, ...]:
        own: list[IPNetwork] = [ipaddress.IPv4Network(self.member.ip)]
        if self.member.ip6 is not None:
            own.append(ipaddress.IPv6Network(self.member.ip6))
        return tuple(own)

    @property
    def plain(self) -> bool:
        """Whether it speaks WireGuard and nothing else, as far as is known."""
        return self.path is not None and self.path.plain is not None

    @property
    def box(self) -> disco.DiscoBox:
        if self._box is None:
            engine = self.engine
            self._box = disco.DiscoBox(engine.identity.private, self.key, engine.node.config.primitives)
        return self._box

    def put(self) -> None:
        """Tells the pump of the peer."""
        self.engine.node.emit(PutPeer(self.index, self.engine.identity.net, self.allowed, self.plain))

    def awake(self, now: Now) -> tuple[Handshake, PeerPath]:
        """The parts that only a peer that is spoken to has."""
        if self.handshake is None or self.path is None:
            node = self.engine.node
            self.handshake = Handshake(self)
            self.path = PeerPath(node.rng, node.view, node.sockets, self.engine.policy)
            self.path.endpoints_known(endpoint_candidates(self.engine.endpoints_of(self)))
            self.engine.awake[self] = None
            self.choose_relay(now)
            self._arm()
        return self.handshake, self.path

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self.engine.node.emit(Arm(self.index, Edges.TX_DATA | Edges.RX_DATA))

    # what happens to it

    def wants(self, now: Now) -> None:
        """Packets wait for a session."""
        handshake, path = self.awake(now)
        if self.relay is None:
            self.choose_relay(now)
        path.traffic(now.boot)
        self._pulse_from(now.boot)
        self.after(now)  # the route first, so that the handshake finds one
        handshake.wants(now)
        self.after(now)

    def edge(self, which: Edges, now: Now) -> None:
        """The first data after a silence."""
        self._armed = False
        if which & Edges.TX_DATA:
            self._last_tx = max(self._last_tx, now.boot)
        if which & Edges.RX_DATA:
            self._last_rx = max(self._last_rx, now.boot)
        self._pulse(now)
        self.after(now)

    def handshake_message(self, path: Path, now: Now) -> None:
        """An authenticated handshake message came on `path`."""
        if not path.prefix and path.remote is not None:
            self._heard_plainly(PathKey(path.via, path.remote), now)

    def source(self, path: Path, now: Now) -> None:
        """The pump authenticated a packet from a path that is not in use."""
        if path.prefix or path.remote is None:
            return
        key = PathKey(path.via, path.remote)
        _, own = self.awake(now)
        if not self._heard_plainly(key, now) and key not in own.probes:
            own.ping_received(key, now.boot)
        self.after(now)

    def _heard_plainly(self, key: PathKey, now: Now) -> bool:
        """WireGuard from `key`. A peer whose disco is silent there and everywhere is a plain one; returns whether."""
        _, path = self.awake(now)
        if not path.policy.p2p:
            return False
        probe = path.probes.get(key)
        answers = probe is not None and probe.pong_at > probe.lost_at  # there is disco, or was when last looked at
        if path.plain is None and (answers or now.boot - self.disco_at < DISCO_SILENT):
            self.plain_hint = (key, now.boot)
            return False
        if path.plain is None and path.trusted(now.boot):
            return False
        self.plain_hint = None
        was = path.plain
        path.wireguard_proven(key, now.boot)
        if was is None:
            self.put()
        return True

    def disco(self, message: disco.Message, path: Path, now: Now) -> None:
        """An authenticated disco message."""
        handshake, own = self.awake(now)
        boot = now.boot
        was_plain = own.plain is not None
        self.disco_at = boot
        direct = None if path.prefix or path.remote is None else PathKey(path.via, path.remote)
        match message:
            case disco.Ping(tx_id=tx_id, epoch=epoch, heard=heard):
                handshake.known_epoch = epoch
                if direct is not None:
                    own.ping_received(direct, boot, heard)
                    answer = disco.Pong(tx_id, direct.remote, own.pong_id(direct, boot))
                else:
                    answer = disco.Pong(tx_id, NOWHERE)
                self.engine.node.emit_send(path, self.box.seal(answer))
            case disco.Pong(tx_id=tx_id, own_id=own_id):
                rtt = own.pong_received(direct, tx_id, boot, own_id)
                if rtt is not None:
                    self.engine.node.pong(self, tx_id, rtt, direct, now)
            case disco.CallMeMaybe(candidates=candidates, ask=ask, epoch=epoch, filters_ports=filters_ports):
                handshake.known_epoch = epoch
                known = tuple(Candidate(c.addr, CandidateKind(c.kind)) for c in candidates)
                own.call_received(known, ask, boot, filters_ports=filters_ports)
        if was_plain and own.plain is None:
            self.put()
        self.after(now)

    def set_presence(
        self,
        online: bool | None,
        home: RelayID | None,
        standby: RelayID | None,
        endpoints: tuple[SockAddr, ...],
        now: Now,
    ) -> None:
        self.online = online
        if (home, standby) != (self.home, self.standby):
            was_missing = self.missing
            self.home, self.standby = home, standby
            self.absent.clear()
            if self.path is not None:
                self.choose_relay(now)
            if was_missing and self.handshake is not None:
                self.handshake.again(now)
        if self.path is not None and endpoints:
            self.path.endpoints_known(endpoint_candidates(endpoints))
        if self.path is not None:
            self.after(now)

    def choose_relay(self, now: Now) -> None:
        """Chooses the relay to this peer anew."""
        relay = self.engine.relays.choose((self.home, self.standby), self.absent, now)
        changed = relay is not self.relay
        appeared = relay is not None and self.relay is None
        self.relay = relay
        if self.path is not None:
            self.path.set_relay(relay is not None, now.boot)
            if changed:
                self._set_route(self.path.route)
            if appeared and self.handshake is not None:
                self.handshake.again(now)

    def not_at_relay(self, relay_id: RelayID, now: Now) -> None:
        """A relay said that the peer is not there."""
        self.absent[relay_id] = now.boot + ABSENT
        if self.path is not None:
            self.choose_relay(now)
            self.after(now)

    @property
    def missing(self) -> bool:
        """Whether each relay that was tried said that the peer isn't there."""
        return bool(self.absent) and self.relay is not None and self.relay.relay.relay_id in self.absent

    def handshake_paths(self, now: Now) -> list[Path]:
        """Where handshake messages go: the ways that data takes."""
        assert self.path is not None
        primary, also = self.sent_paths
        ways = [p for p in (primary, also) if p is not None]
        if not ways and self.path.policy.relay_fallback and self.relay is None:
            self.choose_relay(now)
            ways = [p for p in self.sent_paths if p is not None]
        return ways

    def handshake_done(self, epoch: int, initiator: bool, now: Now) -> None:
        self._tx_since = inf
        client = self.member.client_id
        self.engine.node.tell(HandshakeDone(now.boot, self.engine.network_id, client, epoch, initiator))
        if self.path is not None:
            self._pulse_from(now.boot)
            self.engine.node.handshake_answered(self, now)

    def handshake_failed(self, now: Now) -> None:
        """Ninety seconds of trying led to nothing."""
        self._tx_since = inf

    # the pulse: data flowing, WireGuard's timers

    def _pulse_from(self, now: float) -> None:
        if self._pulse_at == inf:
            self._pulse_at = self._next_pulse(now)

    def _next_pulse(self, now: float) -> float:
        """The next moment on a grid that is one for all peers of a node: waking once for all costs least."""
        shift = PULSE / PULSE_SHIFTS * (self.index // SHARE_A_PULSE % PULSE_SHIFTS) + self.engine.node.pulse_shift
        return (floor((now - shift) / PULSE + 0.001) + 1) * PULSE + shift

    def _pulse(self, now: Now) -> None:
        assert self.handshake is not None
        assert self.path is not None
        boot = now.boot
        counters = self.engine.node.counters
        rx_any = -inf
        if counters is not None:
            times = counters.times(self.index)
            if times is not None:
                tx, rx, any_ = times
                if tx:
                    self._last_tx = max(self._last_tx, tx / 1e9)
                if rx:
                    self._last_rx = max(self._last_rx, rx / 1e9)
                rx_any = any_ / 1e9 if any_ else -inf
        last_tx, last_rx = self._last_tx, self._last_rx
        rx_any = max(rx_any, last_rx)
        self._keepalive(last_tx, last_rx, boot)
        self._no_answer(last_tx, rx_any, now)
        if self.handshake.rekey_due(last_tx, last_rx):
            self.handshake.initiate(now)
        last = max(last_tx, last_rx)
        if boot - last < PULSE + 0.5:
            self.path.traffic(boot)
        if boot - last < QUIET or self._rx_since < inf or self._tx_since < inf or not self._armed:
            if boot - last >= QUIET:
                self._arm()  # and one more pulse, for what came between reading and arming
            self._pulse_at = self._next_pulse(boot)
        else:
            self._pulse_at = inf
        self._consider_plain(rx_any, now)
        relay = self.relay
        if relay is not None and "relay" in self.path.route and boot - last < QUIET:
            self.engine.relays.busy(relay, boot)

    def _consider_plain(self, rx_any: float, now: Now) -> None:
        """Disco fell silent and the direct path with it, but WireGuard is heard: the peer speaks that alone now."""
        assert self.path is not None
        hint, boot = self.plain_hint, now.boot
        if hint is None or self.path.best is not None or boot - rx_any > PULSE + 1.0:
            return
        if min(hint[1], rx_any) > self.disco_at and boot - self.disco_at >= DISCO_SILENT:
            self._heard_plainly(hint[0], now)

    def _keepalive(self, last_tx: float, last_rx: float, now: float) -> None:
        """Paper, section 6.5: data came and nothing was sent for ten seconds."""
        if last_tx >= self._rx_since:
            self._rx_since = inf
        if self._rx_since == inf and last_rx > last_tx and now - last_rx < PULSE:
            self._rx_since = last_rx
        if now >= self._rx_since + KEEPALIVE_TIMEOUT:
            self._rx_since = inf
            self.engine.node.emit(Keepalive(self.index))

    def _no_answer(self, last_tx: float, rx_any: float, now: Now) -> None:
        """Paper, section 6.4: data was sent and nothing came for fifteen seconds."""
        assert self.handshake is not None
        if rx_any >= self._tx_since:
            self._tx_since = inf
        if self._tx_since == inf and last_tx > rx_any and now.boot - last_tx < PULSE:
            self._tx_since = last_tx
        if now.boot >= self._tx_since + NO_ANSWER:
            self._tx_since = inf
            self.handshake.initiate(now)

    # time

    def deadline(self) -> float:
        if self.path is None or self.handshake is None:
            return inf
        # Comparisons instead of min(): this is asked for with each datagram.
        at = self.handshake.deadline()
        at = min(at, self._pulse_at)
        at = min(at, self.path.deadline)
        if self._rx_since < at - KEEPALIVE_TIMEOUT:
            at = self._rx_since + KEEPALIVE_TIMEOUT
        if self._tx_since < at - NO_ANSWER:
            at = self._tx_since + NO_ANSWER
        return at

    def on_timer(self, now: Now) -> None:
        assert self.path is not None
        assert self.handshake is not None
        boot = now.boot
        due = min(self._pulse_at, self._rx_since + KEEPALIVE_TIMEOUT, self._tx_since + NO_ANSWER)
        if boot >= due:
            self._pulse(now)
            self.path.beat_along(boot)
        if boot >= self.path.deadline:
            self.path.tick(boot)
        if boot >= self.handshake.deadline():
            self.handshake.on_timer(now)
        self._act(now)

    def after(self, now: Now) -> None:
        """To be called after anything happened: does what the path wants, and sets the timer."""
        self._act(now)
        self.engine.node.timers.schedule(self)

    def _act(self, now: Now) -> None:
        assert self.path is not None
        moved = False
        for action in self.path.take():
            if type(action) is Ping:
                self._send_ping(action, now)
            elif type(action) is Route:
                moved = self._set_route(action) or moved
                if action.primary is not None and self.handshake is not None:
                    self.handshake.again(now)
            elif type(action) is Call:
                self._send_call(action.ask, now)
            elif type(action) is Moved:
                moved = True
        if moved:
            self.tell_path(now)

    def _send_ping(self, ping: Ping, now: Now) -> None:
        node = self.engine.node
        if ping.path is not None:
            path = Path(ping.path.slot, ping.path.remote)
        else:
            relayed = self.relay_path()
            if relayed is None:
                return
            path = relayed
        message = disco.Ping(ping.tx_id, self.engine.keyring.newest(node.controller_wall(now)), ping.heard)
        node.emit_send(path, self.box.seal(message))

    def _send_call(self, ask: bool, now: Now) -> None:
        node = self.engine.node
        path = self.relay_path()
        if path is not None:
            epoch = self.engine.keyring.newest(node.controller_wall(now))
            call = disco.CallMeMaybe(node.disco_candidates, ask, epoch, node.view.filters_ports)
            node.emit_send(path, self.box.seal(call))

    def relay_path(self) -> Path | None:
        relay = self.relay
        if relay is None or relay.path is None:
            return None
        return Path(relay.path.via, relay.path.remote, None, self.engine.relays.prefix(self.member.ip))

    def _set_route(self, route: Route) -> bool:
        paths = (self._resolve(route.primary), self._resolve(route.also))
        if paths == self.sent_paths:
            return False
        self.sent_paths = paths
        self.engine.node.emit(SetPath(self.index, *paths))
        return True

    def _resolve(self, way: PathKey | str | None) -> Path | None:
        if way is None:
            return None
        if isinstance(way, PathKey):
            return Path(way.slot, way.remote)
        return self.relay_path()

    # what people see

    def tell_path(self, now: Now) -> None:
        """Raises PathChanged if what people see changed."""
        view = self.engine.view_of(self, now)
        if view != self._view:
            self._view = view
            kind, reason, endpoint, relay = view
            event = PathChanged(
                now.boot, self.engine.network_id, self.member.client_id, self.member.name, kind, reason, endpoint, relay
            )
            if self.history is None:
                self.history = deque(maxlen=HISTORY)
            self.history.append(event)
            self.engine.node.tell(event)


def endpoint_candidates(endpoints: tuple[SockAddr, ...]) -> tuple[Candidate, ...]:
    """Addresses from presence, which doesn't say how they were learnt."""
    return tuple(
        Candidate(e, CandidateKind.HOST if is_site_local(parse_ip(e.host)) else CandidateKind.REFLEXIVE)
        for e in endpoints
    )
