"""One peer: its handshake, its path, its data's timers. A peer that nobody speaks to is little more than its entry in
the map; it becomes *active* with the first packet either way.

Over 500 lines because here everything that can happen to a peer meets its parts, which are modules of their own.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable
from math import inf

from shadowmesh.engine.datatimers import POLL, QUIET, DataTimers
from shadowmesh.engine.events import RECENT, HandshakeDone, PathChanged, PeerActive, PingResult, RecentPeer
from shadowmesh.engine.handshake import Handshake
from shadowmesh.engine.lifesigns import LifeSigns
from shadowmesh.engine.membership import Membership
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.peerview import PeerView, active_view, idle_view, relayed_view
from shadowmesh.engine.pings import Finished, Pings
from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.engine.relayset import RelaySet
from shadowmesh.engine.route import PeerRoute
from shadowmesh.engine.surroundings import Surroundings
from shadowmesh.model.addresses import IPNetwork, SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import WireGuardPublicKey
from shadowmesh.model.netmap import Member
from shadowmesh.model.pump import (
    DATAGRAM_OVERHEAD,
    Arm,
    DropSessions,
    Edges,
    Path,
    PeerIndex,
    PutPeer,
    RemovePeer,
    SetPath,
)
from shadowmesh.model.reasons import Reason
from shadowmesh.paths.candidates import (
    BoundSocket,
    Candidate,
    CandidateKind,
    HostView,
    PathKey,
    is_site_local,
    parse_ip,
)
from shadowmesh.paths.peerpath import PeerPath
from shadowmesh.paths.values import PathMoved, PathRoute, Policy, Resized, SendCallMeMaybe, SendPing
from shadowmesh.protocol import disco
from shadowmesh.protocol.cookies import verify_mac1
from shadowmesh.protocol.noise import ReceivedInitiation

LONG_INTERVAL = 1.0  # seconds between two looks at whether long packets get through, while they are sent
DISCO_SILENT = 6.5  # seconds without disco after which a peer heard by WireGuard alone is taken for a plain one
NO_SESSION_INTERVAL = 1.0
MAX_ENDPOINTS = 4  # of a recent peer that are remembered over a restart
NOWHERE = SockAddr("0.0.0.0", 1)  # the observed address in a pong through a relay
HISTORY = 16


class Peer:
    """Times inside are CLOCK_BOOTTIME seconds."""

    __slots__ = (
        "_box", "_life", "_membership", "_no_session_at", "_outbox", "_pings", "_relays", "_surroundings", "_view", "_watch_long_at", "disco_at", "handshake", "history",
        "index", "key", "member", "online", "path", "plain_hint", "presence", "queued_at", "route", "timers",
    )  # fmt: skip

    def __init__(
        self,
        member: Member,
        index: PeerIndex,
        membership: Membership,
        relays: RelaySet,
        surroundings: Surroundings,
        outbox: Outbox,
    ) -> None:
        self.member = member
        self.key: WireGuardPublicKey = member.wg_key
        self.index = index
        self._membership = membership
        self._relays = relays
        self._surroundings = surroundings
        self._outbox = outbox
        self.handshake: Handshake | None = None  # these five belong to an active peer alone
        self.path: PeerPath | None = None
        self.route: PeerRoute | None = None
        self.timers: DataTimers | None = None
        self._life: LifeSigns | None = None
        self.presence: Presence | None = None  # what the controller said last
        self.online: bool | None = None  # None: not known while the controller is away
        self.disco_at = -inf  # last authenticated disco message
        self.plain_hint: tuple[PathKey, float] | None = None  # WireGuard came directly from there, unknown to disco
        self.history: deque[PathChanged] | None = None
        self.queued_at = inf
        self._no_session_at = -inf  # when it was last told that we don't have its session
        self._pings: Pings | None = None
        self._watch_long_at = inf  # when the pump is to be asked for long packets again
        self._box: disco.DiscoBox | None = None
        self._view = PeerView("none", Reason.NONE_IDLE)
        self._put()

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
    def active(self) -> bool:
        """Whether anything was ever sent to it or came from it."""
        return self.path is not None

    @property
    def relay(self) -> RelaySession | None:
        """The relay session through which it is reached, or would be."""
        return self.route.relay if self.route is not None else None

    @property
    def box(self) -> disco.DiscoBox:
        if self._box is None:
            self._box = disco.DiscoBox(self._membership.private, self.key, self._surroundings.primitives)
        return self._box

    def _put(self) -> None:
        """Tells the pump of the peer."""
        self._outbox.emit(PutPeer(self.index, self._membership.net, self.allowed, self.plain))

    def activate(self, now: Now) -> tuple[Handshake, PeerPath, PeerRoute]:
        """The parts that only an active peer has."""
        if self.handshake is None or self.path is None or self.route is None:
            around = self._surroundings
            self.path = PeerPath(around.rng, around.view, around.sockets, self._membership.policy)
            self.route = PeerRoute(self.index, self.member.ip, self.path, self._relays, self._outbox)
            self._life = LifeSigns()
            self._life.offline = self.online is False
            self.handshake = Handshake(
                self.key, self.index, self.route, self._membership, around, self._outbox, self._life
            )
            if self.presence is not None:
                self.route.set_relays(self.presence.home, self.presence.standby)
                self.path.endpoints_known(endpoint_candidates(self.presence.endpoints))
            self.timers = DataTimers(self.index, around, self._outbox)
            self.choose_relay(now)
            self.timers.arm()
            self._outbox.publish(PeerActive(self._membership.network_id, self.member.client_id))
        return self.handshake, self.path, self.route

    def set_member(self, member: Member, now: Now) -> None:
        """Another name, address or tag, the same key: sessions stay."""
        moved = member.ip != self.member.ip
        self.member = member
        self._put()
        if self.route is not None and moved:
            self.route.ip = member.ip
            self.route.apply(self.route.path.route)
            self.after(now)

    def close(self, now: Now) -> None:
        """Out at once: nothing more goes to the peer, nothing of it is taken, nothing waits."""
        if self._pings is not None:
            self._publish_pings(self._pings.close(), now)
        if self.handshake is not None:
            self.handshake.close()
        self.handshake = self.path = self.route = self.timers = self._life = self._pings = None
        self._watch_long_at = inf
        self._outbox.timers.cancel(self)
        self._outbox.emit(SetPath(self.index, None))
        self._outbox.emit(DropSessions(self.index))
        self._outbox.emit(RemovePeer(self.index))

    # what happens to it

    def wants(self, now: Now) -> None:
        """Packets wait for a session."""
        handshake, path, route = self.activate(now)
        if route.relay is None:
            self.choose_relay(now)
        path.traffic(now.boot)
        if self.timers is not None:
            self.timers.start_polling(now.boot)
        self.after(now)  # the route first, so that the handshake finds one
        handshake.wants(now)
        self.after(now)

    def edge(self, which: Edges, now: Now) -> None:
        """The first data after a silence, or long packets."""
        if which & Edges.TX_LONG and self.path is not None:
            self.path.bulk(now.boot)
            self._watch_long_at = now.boot + LONG_INTERVAL
            self.after(now)
        if which & (Edges.TX_DATA | Edges.RX_DATA) and self.timers is not None:
            self.timers.edge(which, now.boot)
            if self.relay is None:
                self.choose_relay(now)
            self._poll(now)
            self.after(now)

    def initiation(self, received: ReceivedInitiation, path: Path, now: Now) -> bool:
        """Message 1, authenticated; returns whether it counts."""
        handshake, _, route = self.activate(now)
        if route.relay is None:
            self.choose_relay(now)
        if not handshake.accept(received, path, now):
            return False
        if path.prefix:
            route.found()
        self._answered(now)
        self.after(now)
        return True

    def response(self, data: bytes, path: Path, now: Now) -> None:
        """Message 2 to one of our initiations."""
        handshake = self.handshake
        if handshake is None or not verify_mac1(data, self._membership.mac1_key):
            return
        if self._relays.is_from(self.member.ip, path) and handshake.response(data, path, now):
            self._handshake_done(now)
            self._handshake_message(path, now)
        self._report_path(now)
        self.after(now)

    def confirmed(self, local_index: int, now: Now) -> None:
        """The pump heard on a session that we answered with."""
        if self.handshake is None:
            return
        if self.handshake.confirmed(local_index, now):
            self._handshake_done(now)
            session = self.handshake.current
            if session is not None and session.answered_on is not None:
                self._handshake_message(session.answered_on, now)
        self._report_path(now)
        self.after(now)

    def _handshake_message(self, path: Path, now: Now) -> None:
        """A handshake stands whose message came on `path`: what it was made with is no replay."""
        if not path.prefix and path.remote is not None:
            self._heard_plainly(PathKey(path.via, path.remote), now)

    def source(self, path: Path, now: Now) -> None:
        """The pump authenticated a packet from a path that is not in use."""
        if path.prefix or path.remote is None:
            return
        key = PathKey(path.via, path.remote)
        _, own, _ = self.activate(now)
        if not self._heard_plainly(key, now) and key not in own.probes:
            own.ping_received(key, now.boot)
        self.after(now)

    def _heard_plainly(self, key: PathKey, now: Now) -> bool:
        """WireGuard from `key`. A peer whose disco is silent there and everywhere is a plain one; returns whether."""
        _, path, _ = self.activate(now)
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
            self._put()
        return True

    def disco(self, data: bytes, path: Path, now: Now) -> None:
        """A disco datagram that names this peer. Raises MalformedError (AuthFailure) for what doesn't open."""
        if not self._relays.is_from(self.member.ip, path):
            return
        message = self.box.open(data)
        if isinstance(message, disco.NoSession):
            if self.handshake is not None:
                self.handshake.unknown_to_peer(message.receiver_index, now)
                self.after(now)
            return
        handshake, own, _ = self.activate(now)
        boot = now.boot
        was_plain = own.plain is not None
        self.disco_at = boot
        if path.prefix and self.route is not None:
            self.route.found()
        direct = None if path.prefix or path.remote is None else PathKey(path.via, path.remote)
        match message:
            case disco.Ping(tx_id=tx_id, mtu_probe=True):
                self._outbox.send(path, self.box.seal(disco.Pong(tx_id, direct.remote if direct else NOWHERE)))
            case disco.Ping(tx_id=tx_id, epoch=epoch, heard=heard, nested=nested):
                handshake.peer_holds(epoch)
                if direct is not None and not own.policy.p2p:
                    return  # an answer would let the peer send here directly
                if direct is not None:
                    own.ping_received(direct, boot, heard, nested=nested)
                    answer = disco.Pong(tx_id, direct.remote, own.pong_id(direct, boot), own.is_nested(direct))
                else:
                    answer = disco.Pong(tx_id, NOWHERE)
                self._outbox.send(path, self.box.seal(answer))
            case disco.Pong(tx_id=tx_id, own_id=own_id, nested=nested):
                rtt = own.pong_received(direct, tx_id, boot, own_id, nested=nested)
                if rtt is not None:
                    self._answered(now)
                if rtt is not None and self._pings is not None:
                    self._publish_pings(self._pings.pong(tx_id, rtt, direct=direct is not None), now)
            case disco.CallMeMaybe() as call:
                handshake.peer_holds(call.epoch)
                known = tuple(Candidate(c.addr, CandidateKind(c.kind)) for c in call.candidates)
                own.call_received(known, call.ask, boot, filters_ports=call.filters_ports, udp_blocked=call.udp_blocked)
        if was_plain and own.plain is None:
            self._put()
        handshake.peer_heard(now)
        self.after(now)

    def _answered(self, now: Now) -> None:
        """It lives: something came of it that is no replay."""
        assert self._life is not None
        was_silent = self._life.silent(now.boot)
        self._life.heard(now.boot)
        if was_silent:
            self._report_path(now)

    # restarts, its and ours

    def remember(self, recent: RecentPeer, now: Now) -> None:
        """Where it was before our restart; until its presence is known, that is where it is looked for."""
        if recent.plain:
            self._no_session_at = now.boot + RECENT  # it wouldn't understand; the handshake from here will do
        if self.presence is None:
            self.presence = Presence(
                client_id=recent.client_id,
                online=True,
                home=recent.home,
                standby=recent.standby,
                endpoints=recent.endpoints,
            )

    def reconnect(self, recent: RecentPeer, now: Now) -> None:
        """A handshake with one that we talked with before our restart, directly and by relay."""
        handshake, path, route = self.activate(now)
        if handshake.current is None and handshake.pending is None:
            if path.policy.p2p:
                ways = (self._surroundings.udp_path(addr) for addr in recent.endpoints)
                route.last_known = tuple(way for way in ways if way is not None)
            if not recent.plain:
                self.disco_at = now.boot  # it spoke it before, so that WireGuard heard first makes no plain peer of it
                path.traffic(now.boot)
            self.after(now)
            handshake.initiate(now)
            self.after(now)

    def recent(self, now: Now) -> RecentPeer | None:
        """For `reconnect` after our next restart; None if there was no data lately."""
        path, route, timers = self.path, self.route, self.timers
        if path is None or route is None or timers is None:
            return None
        age = now.boot - timers.read()
        if age > RECENT:
            return None
        plain = (path.plain.remote,) if path.plain is not None else ()
        heard = tuple(dict.fromkeys((*plain, *path.heard_from())))[:MAX_ENDPOINTS]
        client, network = self.member.client_id, self._membership.network_id
        return RecentPeer(network, client, now.wall - age, heard, route.home, route.standby, bool(plain))

    def known_at(self) -> set[SockAddr]:
        """The addresses at which it may be, as far as is known."""
        known = set(self.presence.endpoints) if self.presence is not None else set()
        if self.path is not None:
            known |= self.path.addresses()
        return known

    def no_session_order(self, now: Now) -> tuple[bool, float]:
        """Whom a packet of an unknown session is likely of: first those without one, then those told longest ago."""
        return self.handshake is not None and self.handshake.live(now.boot), self._no_session_at

    def answer_unclaimed(self, receiver_index: int, size: int, path: Path, now: Now) -> None:
        """It sent a transport packet of `size` bytes on a session that we don't have: tells it so, by no more bytes
        than came, at most once a second."""
        if self.plain or size < disco.NO_SESSION_SIZE or now.boot - self._no_session_at < NO_SESSION_INTERVAL:
            return
        self._no_session_at = now.boot
        self._outbox.send(path, self.box.seal(disco.NoSession(receiver_index)))

    # what changes around it

    def set_online(self, online: bool | None, now: Now) -> None:
        """Whether the controller sees it. One that it sees no more may live all the same, so it is asked."""
        self.online = online
        life, path, route, handshake = self._life, self.path, self.route, self.handshake
        if life is None or path is None or route is None or handshake is None:
            return
        life.offline = online is False
        if online:
            route.found()
            life.reset()
        elif online is False and (handshake.live(now.boot) or path.best is not None):
            if route.relay is None:
                self.choose_relay(now)
            life.went_offline(now.boot)
        self.after(now)
        self._report_path(now)

    def set_presence(self, presence: Presence, now: Now) -> None:
        """What the controller says of it."""
        self.presence = presence
        if self.path is None or self.route is None or self.handshake is None:
            return
        was_missing = self.route.missing
        if self.route.set_relays(presence.home, presence.standby):
            self.choose_relay(now)
            if was_missing:
                self.handshake.again(now)
        if presence.endpoints:
            self.path.endpoints_known(endpoint_candidates(presence.endpoints))
        self.after(now)

    def relays_changed(self, now: Now) -> None:
        """A relay came or went."""
        if self.path is None or self.route is None or self.handshake is None:
            return
        if self.route.relay is not None or self.handshake.connecting or self.path.active(now.boot):
            self.choose_relay(now)
            self.after(now)
        self._report_path(now)

    def relay_unused(self, session: RelaySession, now: Now) -> None:
        """A session was left, as nobody had needed it for long."""
        if self.route is not None and self.route.relay is session:
            self.route.leave_relay(now)
            self.after(now)

    def relay_welcomed(self, session: RelaySession, now: Now, *, own: bool) -> None:
        """A session stands anew: what was sent through it a moment before may be lost. `own`: it is one of those by which
        we are reached, so that a peer may have tried in vain."""
        if self.path is None or self.handshake is None or not (own or self.relay is session):
            return
        self._ways_renewed()
        self.path.relay_renewed(now.boot)
        if self.relay is session:
            self.handshake.again(now)
        self.after(now)

    def choose_relay(self, now: Now) -> None:
        """Chooses the relay to this peer anew."""
        if self.route is not None and self.route.choose_relay(now) and self.handshake is not None:
            self.handshake.way_opened(now)

    def not_at_relay(self, relay_id: RelayID, now: Now) -> None:
        """A relay said that the peer is not there."""
        if self.route is not None:
            self.route.absent_at(relay_id, now)
            self.choose_relay(now)
            self.after(now)
            self._report_path(now)

    def policy_changed(self, policy: Policy, now: Now) -> None:
        if self.path is not None and self.route is not None:
            was_plain = self.plain
            self.path.set_policy(policy, now.boot)
            if self.plain != was_plain:
                self._put()
            self.route.policy_changed()
            self.after(now)

    def keys_changed(self, now: Now) -> None:
        """A network key came: perhaps one that is shared with the peer."""
        if self.handshake is not None and self.handshake.stale:
            self.handshake.stale = False
            self._report_path(now)

    def host_changed(self, view: HostView, sockets: tuple[BoundSocket, ...], now: Now, *, moved: bool) -> None:
        """The host's addresses or sockets changed."""
        if self.path is not None:
            if moved:
                self._ways_renewed()
            self.path.local_changed(view, sockets, now.boot, moved=moved)
            self.after(now)

    def network_changed(self, now: Now) -> None:
        """The host slept, or its routes changed."""
        if self.path is not None:
            self._ways_renewed()
            self.path.network_changed(now.boot)
            self.after(now)

    def _ways_renewed(self) -> None:
        """What went unanswered may have failed on our side."""
        if self._life is not None:
            self._life.reset()

    def _handshake_done(self, now: Now) -> None:
        assert self.handshake is not None
        assert self.timers is not None
        assert self.route is not None
        self.route.last_known = ()
        self._answered(now)
        self.timers.forgive()
        session = self.handshake.current
        if session is not None:
            client, network = self.member.client_id, self._membership.network_id
            self._outbox.publish(HandshakeDone(now.boot, network, client, session.epoch, session.initiator))
        self.timers.start_polling(now.boot)
        if self.path is not None and self.path.session_up(now.boot):
            self._watch_long_at = now.boot
        if self._pings is not None:
            self._publish_pings(self._pings.handshake_answered(now), now)

    # data flowing

    def _poll(self, now: Now) -> None:
        """Looks at the data that went and came."""
        assert self.handshake is not None
        assert self.path is not None
        assert self.route is not None
        timers, boot = self.timers, now.boot
        assert timers is not None
        assert self._life is not None
        handshake_due = timers.poll(boot)
        self._life.heard(timers.last_rx_any)
        if handshake_due or self.handshake.rekey_due(timers.last_tx, timers.last_rx):
            self.handshake.initiate(now)
        last = timers.last
        if boot - last < POLL + 0.5:
            self.path.traffic(boot)
        if self.plain_hint is not None:
            self._consider_plain(timers.last_rx_any, now)
        relay = self.route.relay
        if relay is not None and boot - last < QUIET:
            self._relays.use(relay, boot)
            if "relay" in self.path.route:
                self._relays.busy(relay, boot)

    def _consider_plain(self, rx_any: float, now: Now) -> None:
        """Disco fell silent and the direct path with it, but WireGuard is heard: the peer speaks that alone now."""
        assert self.path is not None
        hint, boot = self.plain_hint, now.boot
        if hint is None or self.path.best is not None or boot - rx_any > POLL + 1.0:
            return
        if min(hint[1], rx_any) > self.disco_at and boot - self.disco_at >= DISCO_SILENT:
            self._heard_plainly(hint[0], now)

    # time

    def deadline(self) -> float:
        if self.path is None or self.handshake is None or self.timers is None or self._life is None:
            return inf
        # Comparisons instead of min(): this is asked for with each datagram.
        at = self.handshake.deadline()
        at = min(at, self.timers.deadline)
        at = min(at, self.path.deadline)
        at = min(at, self._life.deadline)
        if self._pings is not None and self._pings.deadline < at:
            at = self._pings.deadline
        return at if at < self._watch_long_at else self._watch_long_at

    def on_timer(self, now: Now) -> None:
        assert self.path is not None
        assert self.handshake is not None
        assert self.timers is not None
        boot = now.boot
        if boot >= self.timers.deadline:
            self._poll(now)
            self.path.beat_along(boot)
        if boot >= self.path.deadline:
            self.path.tick(boot)
        if self._life is not None and boot >= self._life.deadline:
            self._look_for_life(now)
        if boot >= self._watch_long_at:
            self._watch_long_at = inf
            self._outbox.emit(Arm(self.index, Edges.TX_LONG))
        if boot >= self.handshake.deadline() and self.handshake.on_timer(now):
            self.timers.forgive()
        if self._pings is not None and boot >= self._pings.deadline:
            self._publish_pings(self._pings.on_timer(now), now)
        self._act(now)

    def _look_for_life(self, now: Now) -> None:
        assert self.path is not None
        assert self.timers is not None
        assert self._life is not None
        self.timers.read()
        self._life.heard(self.timers.last_rx_any)
        if self._life.question_due(now.boot):
            self.path.ask(now.boot)
            self._act(now)
        self._life.looked(now.boot)
        self._report_path(now)

    def after(self, now: Now) -> None:
        """To be called after anything happened: does what the path wants, and sets the timer."""
        self._act(now)
        self._outbox.schedule(self)

    def _act(self, now: Now) -> None:
        assert self.path is not None
        assert self.route is not None
        moved = False
        for action in self.path.take():
            if type(action) is SendPing:
                self._send_ping(action, now)
            elif type(action) is PathRoute:
                moved = self.route.apply(action) or moved
                if action.primary is not None and self.handshake is not None:
                    self.handshake.way_opened(now)
            elif type(action) is SendCallMeMaybe:
                self._send_call(action.ask, now)
            elif type(action) is PathMoved:
                moved = True
            elif type(action) is Resized:
                self.route.apply(self.path.route)
        if moved:
            self._report_path(now)

    def _send_ping(self, ping: SendPing, now: Now) -> None:
        assert self.route is not None
        path = self.route.relay_path() if ping.path is None else Path(ping.path.slot, ping.path.remote)
        if path is not None:
            leads = ping.path is None or (self.path is not None and self.path.carries(ping.path))
            if leads and not ping.mtu and self._life is not None:
                self._life.asked(now.boot)
            message = disco.Ping(ping.tx_id, self._newest_epoch(now), ping.heard, ping.nested, bool(ping.mtu))
            size = ping.mtu + DATAGRAM_OVERHEAD if ping.mtu else 0
            self._outbox.send(path, self.box.seal(message, size=size))

    def _send_call(self, ask: bool, now: Now) -> None:
        assert self.route is not None
        path, around = self.route.relay_path(), self._surroundings
        if path is not None:
            epoch = self._newest_epoch(now)
            blocked = not self._membership.policy.udp
            call = disco.CallMeMaybe(around.disco_candidates, ask, epoch, around.view.filters_ports, blocked)
            self._outbox.send(path, self.box.seal(call))

    def _newest_epoch(self, now: Now) -> int:
        return self._membership.network_keys.newest(
            self._surroundings.controller_wall(self._membership.network_id, now)
        )

    # what people see

    def ping(self, token: int, now: Now, timeout: float) -> None:
        """Measures the way that data takes now; ends in one PingResult within `timeout` seconds."""
        handshake, path, route = self.activate(now)
        if self._pings is None:
            self._pings = Pings(handshake, path)
        if route.relay is None:
            self.choose_relay(now)
        path.traffic(now.boot)
        self.after(now)
        self._pings.start(token, now, timeout)
        self.after(now)

    def _publish_pings(self, pings: Iterable[Finished], now: Now) -> None:
        for finished in pings:
            view = self.view(now)
            if finished.latency is not None and not finished.direct:
                view = relayed_view(self.path, self.relay)
            self._outbox.publish(
                PingResult(
                    finished.token,
                    self._membership.network_id,
                    self.member.client_id,
                    finished.latency is not None,
                    finished.latency,
                    view.path,
                    view.endpoint,
                    view.relay,
                    view.reason,
                )
            )

    def view(self, now: Now) -> PeerView:
        """Where its data goes, and why."""
        if self.path is None or self.handshake is None or self.route is None:
            return idle_view(self.online)
        relays_up = self._relays.any_up
        silent = self._life is not None and self._life.silent(now.boot)
        return active_view(
            self.path, self.handshake, self.route, self.online, now.boot, relays_up=relays_up, silent=silent
        )

    def _report_path(self, now: Now) -> None:
        """Raises PathChanged if what people see changed."""
        view = self.view(now)
        if view != self._view:
            self._view = view
            event = PathChanged(now.boot, self._membership.network_id, self.member.client_id, self.member.name, *view)
            if self.history is None:
                self.history = deque(maxlen=HISTORY)
            self.history.append(event)
            self._outbox.publish(event)


def endpoint_candidates(endpoints: tuple[SockAddr, ...]) -> tuple[Candidate, ...]:
    """Addresses from presence, which doesn't say how they were learnt."""
    return tuple(
        Candidate(e, CandidateKind.HOST if is_site_local(parse_ip(e.host)) else CandidateKind.REFLEXIVE)
        for e in endpoints
    )
