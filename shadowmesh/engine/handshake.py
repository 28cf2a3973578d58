"""WireGuard's handshake and session bookkeeping towards one peer (WireGuard paper, sections 5.4 and 6), with epochs.

Times are those of the paper, with one addition: towards a ShadowMesh peer and without a usable session, the first
initiations follow each other after 1 and 2 s instead of 5, since over a relay a lost message would cost the promise
that the first packet is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from shadowmesh.engine.events import WantGrant
from shadowmesh.engine.lifesigns import LifeSigns
from shadowmesh.engine.membership import Membership
from shadowmesh.engine.networkkeys import RETRY_WINDOW
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.route import PeerRoute
from shadowmesh.engine.surroundings import Surroundings
from shadowmesh.model.clock import Now
from shadowmesh.model.keys import WireGuardPublicKey
from shadowmesh.model.pump import DropSessions, Install, Keepalive, Path, PeerIndex, Session, Unstage
from shadowmesh.protocol.cookies import CookieJar
from shadowmesh.protocol.noise import AuthFailure, Initiation, ReceivedInitiation, TransportKeys

REKEY_AFTER = 120.0
REJECT_AFTER = 180.0
REKEY_TIMEOUT = 5.0
REKEY_JITTER = 0.333
REKEY_ATTEMPT = 90.0
KEEPALIVE_TIMEOUT = 10.0
EARLY_REPEATS = (1.0, 2.0)
RESEND_AFTER = 0.1  # seconds without an answer, after which a sign of life of the peer has the message sent once more
MIN_INTERVAL = 0.02  # between two initiations of one peer
WANT_PATIENCE = 1.0  # after answering an initiation: how long its confirmation is waited for before initiating
RENEW_INTERVAL = 5.0  # between two handshakes that a peer causes by saying that it doesn't know our session
STALE_REPORT = 60.0  # seconds between two requests for the grant, for want of a common network key


@dataclass(slots=True, eq=False)
class SessionInfo:
    """What is known here of a session in the pump. `answered_on`: where the initiation came that made it."""

    local_index: int
    remote_index: int
    epoch: int
    initiator: bool
    born: float
    answered_on: Path | None = None
    confirmed: bool = False

    @property
    def dies(self) -> float:
        return self.born + REJECT_AFTER


class Handshake:
    """One peer's handshakes and sessions."""

    __slots__ = (
        "_attempt_since",
        "_epochs_tried",
        "_expires",
        "_index",
        "_jar",
        "_last_initiation",
        "_last_responded",
        "_last_timestamp",
        "_life",
        "_membership",
        "_outbox",
        "_renewed_at",
        "_repeats",
        "_resent",
        "_route",
        "_sent_message",
        "_sent_on",
        "_stale_reported_at",
        "_surroundings",
        "_unknown_there",
        "_want_at",
        "current",
        "done_at",
        "initiation",
        "key",
        "known_epoch",
        "next_at",
        "pending",
        "previous",
        "sent_at",
        "stale", "unanswered",
    )  # fmt: skip

    def __init__(
        self,
        key: WireGuardPublicKey,
        index: PeerIndex,
        route: PeerRoute,
        membership: Membership,
        surroundings: Surroundings,
        outbox: Outbox,
        life: LifeSigns,
    ) -> None:
        self.key = key
        self._index = index
        self._route = route
        self._membership = membership
        self._surroundings = surroundings
        self._outbox = outbox
        self._life = life
        self._jar = CookieJar(key)
        self.initiation: Initiation | None = None
        self.sent_at = -inf
        self.next_at = inf
        self.current: SessionInfo | None = None
        self.previous: SessionInfo | None = None
        self.pending: SessionInfo | None = None  # answered, not confirmed
        self.known_epoch: int | None = None  # newest that the peer is known to hold
        self.stale = False  # the last handshake failed for want of a common network key
        self.unanswered = False  # the last attempt ended without an answer
        self.done_at = -inf
        self._sent_message = b""
        self._resent = False
        self._sent_on: list[Path] = []
        self._unknown_there: SessionInfo | None = None  # the one in use, if the peer says that it doesn't know it
        self._renewed_at = -inf
        self._attempt_since = -inf
        self._repeats = 0
        self._want_at = inf
        self._expires = inf  # when the first of the sessions dies
        self._last_timestamp = b""
        self._last_initiation = -inf
        self._last_responded = -inf
        self._epochs_tried: tuple[int, ...] = ()
        self._stale_reported_at = -inf

    # questions

    def live(self, now: float) -> bool:
        """Whether there is a session to send on."""
        return self.current is not None and now < self.current.dies

    @property
    def connecting(self) -> bool:
        return self.initiation is not None

    def rekey_due(self, last_tx: float, last_rx: float) -> bool:
        """Paper, section 6.2: the initiator renews a session that it sends on after 120 s, or hears on after 165 s."""
        s = self.current
        if s is None or not s.initiator:
            return False
        return last_tx >= s.born + REKEY_AFTER or last_rx >= s.born + REJECT_AFTER - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT

    # as initiator

    def wants(self, now: Now) -> None:
        """Packets wait for a session."""
        if self.pending is not None and now.boot - self._last_responded < WANT_PATIENCE:
            self._want_at = self._last_responded + WANT_PATIENCE
        else:
            self.initiate(now)

    def initiate(self, now: Now) -> None:
        """Starts a handshake unless one is under way."""
        if self.initiation is None:
            self._attempt_since = now.boot
            self._repeats = 0
            self._transmit(now)

    def way_opened(self, now: Now) -> None:
        """Data goes another way from now on: the message under way is sent there, too. Being the same, it is answered once."""
        if self.initiation is None:
            return
        ways = [path for path in self._route.handshake_paths(now) if path not in self._sent_on]
        if ways:
            self._send_on(ways, now)
            self._attempt_since = now.boot
            self._repeats = 0
            self._set_repeat(now)

    def peer_holds(self, epoch: int) -> None:
        """The peer says that it holds the network key of this epoch. What says less is old, or replayed to have an older
        key used."""
        if self.known_epoch is None or epoch > self.known_epoch:
            self.known_epoch = epoch

    def peer_heard(self, now: Now) -> None:
        """A sign of life of the peer: if our message has waited for its answer for a while, it may have come to nobody.
        Sent once more, it counts if it is the first to arrive, and does no harm if it isn't."""
        if self.initiation is not None and not self._resent and now.boot - self.sent_at > RESEND_AFTER:
            self._resent = True  # once, as whatever is heard may be replayed
            self._send_on(self._route.handshake_paths(now), now)

    def again(self, now: Now) -> None:
        """What was sent a moment ago went nowhere."""
        if self.initiation is not None and self.next_at - now.boot > 0.1 and now.boot - self.sent_at > 0.1:
            self._attempt_since = now.boot
            self._repeats = 0
            self._transmit(now)

    def unknown_to_peer(self, receiver_index: int, now: Now) -> None:
        """The peer says that it has no session of this index. If that is the session in use, a new one is made, which
        takes its place when it stands; nothing is given up before. At most one handshake each RENEW_INTERVAL."""
        session = self.current
        if session is None or session.remote_index != receiver_index or now.boot - self._renewed_at < RENEW_INTERVAL:
            return
        self._renewed_at = now.boot
        self._unknown_there = session
        self._attempt_since = now.boot
        self._repeats = 0
        self._transmit(now)

    def _transmit(self, now: Now) -> None:
        surroundings = self._surroundings
        self._abandon()
        index = surroundings.indices.allocate(self._index)
        timestamp = surroundings.timestamps.next(now.wall)
        try:
            initiation = Initiation.create(self._membership.static, self.key, index, timestamp)
        except AuthFailure:  # a key that is no key: the controller's map is at fault, nothing can be sent
            surroundings.indices.free(index)
            return
        self.initiation = initiation
        self._sent_message = self._jar.add_macs(initiation.message, now)
        self._sent_on = []
        self._resent = False
        self._send_on(self._route.handshake_paths(now), now)
        self._set_repeat(now)

    def _send_on(self, paths: list[Path], now: Now) -> None:
        self.sent_at = now.boot
        self._sent_on += paths
        if paths:
            self._life.asked(now.boot)
        for path in paths:
            self._outbox.send(path, self._sent_message)

    def _set_repeat(self, now: Now) -> None:
        usable = self.live(now.boot) and self.current is not self._unknown_there
        early = not usable and not self._plain and self._repeats < len(EARLY_REPEATS)
        wait = EARLY_REPEATS[self._repeats] if early else REKEY_TIMEOUT
        self._repeats += 1
        self.next_at = now.boot + wait + self._surroundings.rng.uniform(0, REKEY_JITTER)

    @property
    def _plain(self) -> bool:
        """Whether the peer speaks WireGuard and nothing else, as far as is known."""
        return self._route.path.plain is not None

    def _abandon(self) -> None:
        if self.initiation is not None:
            self._surroundings.indices.free(self.initiation.local_index)
            self.initiation = None
            self.next_at = inf

    def give_up(self) -> None:
        """Ends the present attempt, and what waited for it."""
        self._abandon()
        self.unanswered = True
        self._want_at = inf
        self._outbox.emit(Unstage(self._index))

    def response(self, message: bytes, path: Path, now: Now) -> bool:
        """Message 2. Returns whether it made a session."""
        initiation, network_keys = self.initiation, self._membership.network_keys
        if initiation is None:
            return False
        for epoch in network_keys.valid(self._surroundings.controller_wall(self._membership.network_id, now)):
            try:
                keys = initiation.consume_response(message, network_keys.psk(self.key, epoch))
            except AuthFailure:
                continue
            self.initiation = None
            self.next_at = self._want_at = inf
            session = SessionInfo(keys.local_index, keys.remote_index, epoch, True, now.boot, confirmed=True)
            self._route.open_on(path)
            self._outbox.emit(Install(self._index, _pump_session(keys, now)))
            self._outbox.emit(Keepalive(self._index))  # confirms the session even if nothing waits
            self._placed(session)
            self._done(epoch, now)
            return True
        self._no_common_key(now)  # or it isn't the peer's at all
        return False

    def _no_common_key(self, now: Now) -> None:
        self.stale = True
        if now.boot - self._stale_reported_at >= STALE_REPORT:
            self._stale_reported_at = now.boot
            self._outbox.publish(WantGrant(self._membership.network_id, "stale_key"))

    def cookie(self, message: bytes, now: Now) -> None:
        """Message 3: the next initiation will carry the cookie. Raises AuthFailure."""
        self._jar.consume_reply(message, now)

    # as responder

    def accept(self, received: ReceivedInitiation, path: Path, now: Now) -> bool:
        """Message 1, authenticated. Answers it unless it is a replay or comes too fast. Returns whether it counts."""
        if received.timestamp <= self._last_timestamp or now.boot - self._last_initiation < MIN_INTERVAL:
            return False
        self._last_timestamp = received.timestamp  # whatever comes of it: what was heard once is a replay from now on
        membership, indices = self._membership, self._surroundings.indices
        crossed = self.initiation is not None and now.boot - self.sent_at < WANT_PATIENCE
        if crossed and not self._plain and membership.static.public > self.key:
            # Both began at once; ours goes on, so that one session comes of it and none falls out unused.
            if path not in self._sent_on:  # but by the way that is known to be open
                self._send_on([path], now)
            return True
        if now.boot - self._last_initiation > RETRY_WINDOW or self.pending is None:
            self._epochs_tried = ()
        self._last_initiation = now.boot
        wall = self._surroundings.controller_wall(self._membership.network_id, now)
        epoch = membership.network_keys.choose(self.known_epoch, self._epochs_tried, wall)
        if epoch is None:
            self._no_common_key(now)
            return True
        self._epochs_tried = (*(e for e in self._epochs_tried if e != epoch), epoch)
        index = indices.allocate(self._index)
        try:
            message, keys = received.respond(index, membership.network_keys.psk(self.key, epoch))
        except AuthFailure:
            indices.free(index)
            return False
        if self.pending is not None:
            indices.free(self.pending.local_index)
        self.pending = SessionInfo(index, keys.remote_index, epoch, False, now.boot, path)
        self._sessions_changed()
        self._last_responded = now.boot
        if self.initiation is not None:  # the peer's goes on; ours may start again if no session comes of it
            self._abandon()
            self._want_at = now.boot + WANT_PATIENCE
        self._route.open_on(path)
        self._outbox.emit(Install(self._index, _pump_session(keys, now)))
        self._outbox.send(path, self._jar.add_macs(message, now))
        return True

    def confirmed(self, local_index: int, now: Now) -> bool:
        """The pump heard on a session that we answered with; returns whether it is the one that waited for that."""
        session = self.pending
        if session is None or session.local_index != local_index:
            return False
        self.pending = None
        session.confirmed = True
        self._want_at = inf
        if self._route.open:
            # What waited has gone out with the promotion. If the pump asked for a session after our answer, it would
            # not ask again when this one ends: this lets it.
            self._outbox.emit(Unstage(self._index))
        self._shift(session)
        self._done(session.epoch, now)
        return True

    # sessions

    def _placed(self, session: SessionInfo) -> None:
        """As the pump's Install of an initiator's session does: the old next, else current, becomes previous."""
        if self.pending is not None:
            self._free(self.previous)
            self._free(self.current)
            self.previous, self.pending = self.pending, None
        else:
            self._free(self.previous)
            self.previous = self.current
        self.current = session
        self._sessions_changed()

    def _shift(self, session: SessionInfo) -> None:
        self._free(self.previous)
        self.previous, self.current = self.current, session
        self._sessions_changed()

    def _free(self, session: SessionInfo | None) -> None:
        if session is not None:
            self._surroundings.indices.free(session.local_index)

    def _done(self, epoch: int, now: Now) -> None:
        self.stale = self.unanswered = False
        self._unknown_there = None
        self.done_at = now.boot
        self._epochs_tried = ()
        self.peer_holds(epoch)

    def close(self) -> None:
        """Ends everything: the peer was removed."""
        self._abandon()
        self._want_at = inf
        for session in (self.previous, self.current, self.pending):
            self._free(session)
        self.previous = self.current = self.pending = None
        self._sessions_changed()

    # time

    def deadline(self) -> float:
        at = self.next_at if self.next_at < self._expires else self._expires
        return at if at < self._want_at else self._want_at

    def _sessions_changed(self) -> None:
        sessions = (self.previous, self.current, self.pending)
        self._expires = min((s.dies for s in sessions if s is not None), default=inf)

    def on_timer(self, now: Now) -> bool:
        """Does what is due; returns whether it gave up: ninety seconds of trying led to nothing."""
        boot = now.boot
        gave_up = False
        if boot >= self._want_at:
            self._want_at = inf
            self.initiate(now)
        if boot >= self.next_at:
            if boot - self._attempt_since >= REKEY_ATTEMPT:
                self.give_up()
                gave_up = True
            else:
                self._transmit(now)
        dead = [s for s in (self.previous, self.current, self.pending) if s is not None and boot >= s.dies]
        if dead:
            self._outbox.emit(DropSessions(self._index, tuple(s.local_index for s in dead)))
            for session in dead:
                self._free(session)
            self.previous = None if self.previous in dead else self.previous
            self.current = None if self.current in dead else self.current
            self.pending = None if self.pending in dead else self.pending
            self._sessions_changed()
        return gave_up


def _pump_session(keys: TransportKeys, now: Now) -> Session:
    return Session(
        local_index=keys.local_index,
        remote_index=keys.remote_index,
        send_key=keys.send,
        recv_key=keys.recv,
        initiator=keys.initiator,
        born=now.boot,
        dies=now.boot + REJECT_AFTER,
    )
