"""The way to one peer: relay first, then a direct path that is proven, kept alive, and left when it falls silent.

Sans-I/O. Everything that happens is told by a method; what is to be done about it comes from `take()`; `deadline` says
when `tick` wants to be called. The rules are those of `docs/paths.md`.

Words: a *check* is a series of pings to all pairs of candidates. A path is *proven* by an authenticated reply, and
*trusted* for TRUST seconds after it. It is *active* while data flows either way, *dormant* when it is kept for later.

Over 500 lines because it is one state machine: its parts would only pass the same dozen times to each other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf
from typing import Literal

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.pump import INNER_MTU
from shadowmesh.model.reasons import Reason
from shadowmesh.paths.candidates import (
    BoundSocket,
    Candidate,
    CandidateKind,
    HostView,
    PathKey,
    Rank,
    judge,
    obstacle,
    open_to,
    pair,
    parse_ip,
)
from shadowmesh.paths.pathmtu import PathMtu
from shadowmesh.paths.values import (
    ACTIVE,
    ALLOW_ALL,
    CALL_REPEATS,
    CHECK_ROUNDS,
    CHECK_SETTLED,
    CLEARLY_FASTER,
    CLEARLY_FASTER_BY,
    DORMANT_PING,
    FIRST_MEASURE,
    FORGET,
    FORGET_PINGED,
    HEARTBEAT,
    MAX_PINGS,
    MAX_PONG_IDS,
    MAX_TRIGGERED,
    MEASURE,
    NESTED_WANTED,
    NO_ID,
    PASSIVE,
    PING_MEMORY,
    RELAY_ROUTE,
    REPEAT,
    RETRY,
    RETRY_JITTER,
    RETRY_LOST,
    STRANGE_PINGS,
    STRANGE_PINGS_RATE,
    TRUST,
    WORRY,
    WORRY_UNPROVEN,
    Action,
    PathMoved,
    PathProbe,
    PathRoute,
    Policy,
    Resized,
    SendCallMeMaybe,
    SendPing,
    TokenBucket,
)


class PeerPath:
    """The path of one peer, seen from one side."""

    __slots__ = (
        "_actions",
        "_call_round",
        "_called_at",
        "_check_round",
        "_check_started",
        "_failed",
        "_forgotten",
        "_heard_candidates_at",
        "_last_traffic",
        "_lost",
        "_measure_asked_at",
        "_measure_at",
        "_mtu_at",
        "_mtu_probes",
        "_mtus",
        "_nested_until",
        "_next_beat",
        "_obstacle_of",
        "_passive_until",
        "_pinged_at",
        "_pings",
        "_pong_ids",
        "_reason",
        "_relay_beat",
        "_remote",
        "_remote_filters_ports",
        "_remote_udp_blocked",
        "_retry_at",
        "_retry_wait",
        "_rivals",
        "_rng",
        "_route",
        "_session",
        "_sockets",
        "_strange_pings",
        "_unanswered_since",
        "_unproven",
        "_view",
        "best",
        "deadline",
        "mtu",
        "old",
        "plain",
        "policy",
        "probes",
        "relay_pong_at",
        "relay_rtt",
        "relay_up",
    )  # fmt: skip

    def __init__(
        self, rng: random.Random, view: HostView, sockets: Sequence[BoundSocket], policy: Policy = ALLOW_ALL
    ) -> None:
        self._rng = rng
        self._view = view
        self._sockets = tuple(sockets)
        self.policy = policy
        self.relay_up = False
        self.probes: dict[PathKey, PathProbe] = {}
        self.best: PathProbe | None = None  # the direct path in use, or kept for later
        self.old: PathProbe | None = None  # the lost one that data still goes to, besides the relay
        self.plain: PathKey | None = None  # where a peer that speaks WireGuard and nothing else is
        self.relay_pong_at = -inf
        self.relay_rtt = 0.0
        self._measure_asked_at = -inf
        self.deadline = inf
        self._remote: tuple[Candidate, ...] = ()
        self._remote_filters_ports = False
        self._remote_udp_blocked = False
        self._actions: list[Action] = []
        self._pings: dict[bytes, tuple[PathProbe | None, float]] = {}  # under way, by transaction id, the oldest first
        self._pong_ids: dict[
            bytes, tuple[PathProbe | None, float]
        ] = {}  # own ids of our pongs on the present path, likewise
        self._last_traffic = -inf
        self._strange_pings = TokenBucket(STRANGE_PINGS, STRANGE_PINGS_RATE)
        self._pinged_at = -inf  # when the peer last pinged us
        self._next_beat = inf
        self._nested_until = -inf  # until then the peer wants nested paths
        self._passive_until = -inf  # until then the peer's pings are awaited instead of sending our own
        self._unanswered_since = inf  # first heartbeat without an answer since the last pong
        self._unproven = False  # the path is used, doubled by the relay, until a pong
        self._relay_beat = inf
        self._measure_at = inf  # when the round trip through the relay is measured next
        self._forgotten = False
        self._check_started = -inf
        self._check_round = len(CHECK_ROUNDS)  # beyond the last: no check is running
        self._call_round = len(CALL_REPEATS)
        self._called_at = -inf
        self._heard_candidates_at = -inf
        self._retry_at = -inf
        self._retry_wait = RETRY
        self._failed = False  # the last whole check found nothing
        self._lost = False  # a direct path was lost and none found since
        self._route = PathRoute(None, None)
        self._reason = Reason.NONE_IDLE
        self.mtu: int | None = None  # of inner packets where data goes now, if less than the interface's
        self._mtu_at = inf
        self._rivals: tuple[PathKey, ...] = ()
        self._session = False  # the peer can answer: handshakes succeed
        self._mtus: dict[PathKey | Literal["relay"], PathMtu] = {}
        self._mtu_probes: dict[bytes, tuple[PathKey | Literal["relay"], int, float]] = {}
        self._obstacle_of: tuple[tuple[HostView, tuple[Candidate, ...], bool, bool], tuple[Reason, bool]] | None = None

    # what is asked of it

    def take(self) -> list[Action]:
        """What is to be done since the last call, in order."""
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    @property
    def route(self) -> PathRoute:
        return self._route

    @property
    def reason(self) -> Reason:
        """Why data goes where it goes."""
        return self._reason

    @property
    def direct(self) -> bool:
        """Whether the path counts as direct, dormant ones too."""
        return self.plain is not None or (self.best is not None and self.policy.p2p)

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        """The peer's addresses, as it told them last."""
        return self._remote

    @property
    def forgotten(self) -> bool:
        """Whether nothing is known any more of one that was talked with."""
        return self._forgotten

    @property
    def checking(self) -> bool:
        return self._check_round < len(CHECK_ROUNDS)

    @property
    def next_try(self) -> float:
        """When the next check is due, inf if none is."""
        return self._retry_at if not self.direct and self._retry_at > 0 else inf

    def active(self, now: float) -> bool:
        return now < self._last_traffic + ACTIVE

    def doubled(self, now: float) -> bool:
        """Whether the direct path is in doubt, so that the relay carries the same data."""
        return self._unproven and self._route.also is not None and now - self._unanswered_since >= WORRY

    def trusted(self, now: float) -> bool:
        return self.best is not None and now - self.best.pong_at <= TRUST

    def heard_from(self) -> list[SockAddr]:
        """Where the peer answered, the path in use first, then the newest."""
        heard = sorted((p for p in self.probes.values() if p.pong_at > p.lost_at), key=lambda p: -p.pong_at)
        best = [self.best.path.remote] if self.best is not None else []
        return list(dict.fromkeys([*best, *(p.path.remote for p in heard)]))

    def carries(self, path: PathKey) -> bool:
        """Whether data goes, or went until it was lost, on this direct path."""
        return any(probe is not None and probe.path == path for probe in (self.best, self.old))

    def addresses(self) -> set[SockAddr]:
        """All that are known of the peer."""
        plain = {self.plain.remote} if self.plain is not None else set()
        return plain | {key.remote for key in self.probes} | {c.addr for c in self._remote}

    def latency(self) -> float | None:
        """The last round trip of the path in use, in seconds."""
        if self.best is not None and self.policy.p2p:
            return self.best.rtt
        return self.relay_rtt or None

    # what happens around it

    def traffic(self, now: float) -> None:
        """Data goes to the peer or comes from it; told at the first and then every few seconds."""
        was_active = self.active(now)
        self._last_traffic = now
        self._forgotten = False
        if self.plain is not None:
            return
        if self.best is None:
            if not self.checking and now >= self._retry_at:
                self._start_check(now, ask=True)
        elif was_active:
            return  # nothing changes but when activity will end, and `tick` may well come early for that
        elif not self.trusted(now):
            self._verify(now)
        else:
            self._next_beat = min(self._next_beat, self.best.sent_at + HEARTBEAT)
        self._settle(now)

    def beat_along(self, now: float) -> None:
        """Other peers' work is being done: the heartbeat of an active path joins it, early but never late."""
        if self.best is not None and self._unanswered_since == inf and self.active(now) and now >= self._passive_until:
            self._next_beat = self.deadline = now

    def local_changed(self, view: HostView, sockets: Sequence[BoundSocket], now: float, *, moved: bool) -> None:
        """Our own addresses changed. `moved`: the host is elsewhere, so no path is to be relied on any more."""
        self._view = view
        self._sockets = tuple(sockets)
        slots = {s.slot for s in sockets}
        for key in [k for k in self.probes if k.slot not in slots]:
            del self.probes[key]
        if moved:
            self._mtus.clear()
            self._settle_sizes(self._route, now)
        for probe in self.probes.values():
            self._judge(probe)
        if self.best is not None and self.best.path.slot not in slots:
            self.best = None
        self._leave_nested(now)
        if self.best is not None and moved:
            self._verify(now)
        if self.active(now) or self.best is not None:
            self._start_check(now, ask=True)
        else:
            self._retry_at = -inf
        self._settle(now)

    def set_relay(self, up: bool, now: float) -> None:
        """Whether there is a relay to this peer at present."""
        if up != self.relay_up:
            self.relay_up = up
            if up and self.checking:
                self._call(now, ask=True)
            if up:
                self._leave_nested(now)
            elif self.best is None and self.active(now) and self._knows_nested():
                self._start_check(now, ask=True)
            self._settle(now)

    def relay_renewed(self, now: float) -> None:
        """A relay let us in anew: what was called through it meanwhile got lost, and a peer may have waited for us."""
        if self.checking or now - self._last_traffic < FORGET:
            self._call(now, ask=True)

    def set_policy(self, policy: Policy, now: float) -> None:
        if policy == self.policy:
            return
        before, was = self._may_be_direct(), self.policy
        self.policy = policy
        lifted = self._may_be_direct() and not before
        if policy.udp != was.udp and now - self._last_traffic < FORGET:
            self._call(now, ask=False)  # the peer learns why it will not reach us, or that it may again
        if not self._may_be_direct():
            self._failed = self._failed or self.checking
            self._end_check()
        self._leave_nested(now)
        if not policy.p2p:
            self.best = self.old = self.plain = None
            self.probes.clear()
            self._pings.clear()  # a pong under way proves nothing that may be used
            self._pong_ids.clear()
        elif lifted:
            self._failed = False
            if self.active(now):
                self._start_check(now, ask=True)
        self._settle(now)

    def call_received(
        self,
        candidates: Sequence[Candidate],
        ask: bool,
        now: float,
        *,
        filters_ports: bool = False,
        udp_blocked: bool = False,
    ) -> None:
        """A call-me-maybe of the peer: it wants to be pinged there. `filters_ports`, `udp_blocked`: what it knows of its
        NAT."""
        if not self.policy.p2p:
            return
        if self.plain is not None:
            self._send(None, now)  # is it back, or is this old?
        remote = tuple(candidates)
        changed = remote != self._remote
        known_before = bool(self._remote)
        self._remote = remote
        self._remote_filters_ports = filters_ports
        self._remote_udp_blocked = udp_blocked
        self._heard_candidates_at = now
        self._call_round = len(CALL_REPEATS)
        if changed:
            self._forget_untold()
        if ask:
            self._call(now, ask=False)
        if changed and known_before and self.best is not None:
            self._verify(now)
        if changed or ask or not self.direct:
            self._start_check(now, ask=False, call=False)
        self._settle(now)

    def endpoints_known(self, candidates: Sequence[Candidate]) -> None:
        """Addresses of the peer from elsewhere (presence); a call-me-maybe of its own counts more."""
        if not self._remote:
            self._remote = tuple(candidates)

    def ping_received(self, path: PathKey, now: float, heard: bytes = NO_ID, *, nested: bool = False) -> None:
        """An authenticated ping came on this direct path: answer it with a check of that very path.

        `heard`: the own id of a pong of ours, which arrived, then. `nested`: the peer has nothing but this way through a tunnel.
        It may be replayed: only the answer to our own ping shows that a plain peer speaks disco again.
        """
        if not self.policy.p2p:
            return
        self._pinged_at = now
        probe = self.probes.get(path)
        if probe is None:
            self._make_room_for_triggered(1)
            probe = self._probe(path, None)
        if nested:
            self._nested_until = now + NESTED_WANTED
        if not self._allowed(probe, now):
            return
        if probe is self.best:
            self._heard(probe, heard, now)
            return
        busy = self.best is not None and not self._unproven and self.best.rank <= probe.rank and self.trusted(now)
        if not busy and now - probe.sent_at >= REPEAT * 0.5:
            self._ping(probe, now)
            self._settle(now)

    def is_nested(self, path: PathKey) -> bool:
        """Whether a path is inside another program's tunnel, as seen from here."""
        probe = self.probes.get(path)
        kind = None if probe is None else probe.kind
        return judge(self._view, path.remote, kind)[0] is Rank.NESTED

    def _judge(self, probe: PathProbe) -> None:
        probe.rank, probe.reason = judge(self._view, probe.path.remote, probe.kind)
        if probe.told_nested:
            probe.rank, probe.reason = Rank.NESTED, Reason.DIRECT_NESTED

    def _allowed(self, probe: PathProbe, now: float) -> bool:
        """Whether a path may be used as things are: one inside another tunnel only where one of the two has no relay."""
        return probe.rank is not Rank.NESTED or not self._has_relay or now < self._nested_until

    @property
    def _has_relay(self) -> bool:
        return self.relay_up and self.policy.relay_fallback

    def _knows_nested(self) -> bool:
        return any(judge(self._view, addr, kind)[0] is Rank.NESTED for addr, kind in self._remote)

    def _leave_nested(self, now: float) -> None:
        """Back to the relay as soon as there is one."""
        if self.best is not None and not self._allowed(self.best, now):
            self.best = None
            self._unproven = False
            self._unanswered_since = self._next_beat = inf
            self._retry_at = -inf

    def pong_id(self, path: PathKey, now: float) -> bytes:
        """The own id of a pong that goes out on `path`: the peer's next ping will confirm it if it arrives."""
        if self.best is None or path != self.best.path or not self.active(now):
            return NO_ID
        own_id = self._rng.randbytes(12)
        _remember(self._pong_ids, own_id, self.best, now, MAX_PONG_IDS)
        return own_id

    def _heard(self, best: PathProbe, heard: bytes, now: float) -> None:
        """A ping on the present path. If it confirms our last pong, that proves the path as a pong to us would, as of
        when that was sent; if it doesn't, the peer may not hear us any more."""
        entry = None if heard == NO_ID else self._pong_ids.pop(heard, None)
        if self._unproven or self._unanswered_since < inf or not self.active(now):
            return  # our own pings are under way and will tell
        if entry is not None and entry[0] is best:
            best.pong_at = max(best.pong_at, entry[1])
            if now - best.measured_at < MEASURE:
                self._passive_until = now + PASSIVE
                self._next_beat = max(self._next_beat, self._passive_until)
        elif now < self._passive_until:
            self._passive_until = -inf
            self._next_beat = now
        self._settle(now)

    def pong_received(
        self, path: PathKey | None, tx_id: bytes, now: float, own_id: bytes = NO_ID, *, nested: bool = False
    ) -> float | None:
        """An authenticated pong on `path` (None: through the relay). Returns its round trip, None if it answers no ping.

        `own_id`: the peer's, for our next ping to confirm. `nested`: the peer sees that the path is inside another tunnel.
        """
        if self._mtu_probes and self._size_answered(path or "relay", tx_id, now):
            return None
        entry = self._pings.pop(tx_id, None)
        if entry is None:
            return None
        probe, sent_at = entry
        if (None if probe is None else probe.path) != path:
            if path is not None:  # the peer answers from elsewhere: that may be a path of its own
                self.ping_received(path, now)
            return None
        rtt = now - sent_at
        self.plain = None  # it speaks disco
        if probe is None:
            self.relay_pong_at = now
            self.relay_rtt = rtt if self.relay_rtt == 0.0 else 0.75 * self.relay_rtt + 0.25 * rtt
            self._measure_at = inf
            self._relay_beat = inf
            self.old = None
            self._settle(now)
            return rtt
        probe = self.probes.setdefault(probe.path, probe)  # it may have been forgotten meanwhile
        probe.heard = own_id
        if probe.told_nested != nested:
            probe.told_nested = nested
            self._judge(probe)
            self._leave_nested(now)
        self._proven(probe, rtt, now)
        return rtt

    # which size gets through

    def session_up(self, now: float) -> bool:
        """A handshake succeeded: from now on the peer can be asked which packets reach it. Returns whether it was the first."""
        if self._session:
            return False
        self._session = True
        self._settle_sizes(self._route, now)
        self._settle(now)
        return True

    def bulk(self, now: float) -> None:
        """Long packets were sent of late: do they get through?"""
        for way in self._route:
            if way is not None and way in self._mtus:
                self._mtus[way].confirm(now)
        self._resize(now)
        self._settle(now)

    def relay_changed(self, now: float) -> None:
        """Another relay than before, or another way to it."""
        if self._mtus.pop("relay", None) is not None:
            self._settle_sizes(self._route, now)
            self._settle(now)

    def mtu_of(self, path: PathKey) -> int | None:
        """The largest inner packet that got through a path, None where it isn't known."""
        mtu = self._mtus.get(path)
        return None if mtu is None else mtu.found

    def _size_answered(self, way: PathKey | Literal["relay"], tx_id: bytes, now: float) -> bool:
        """Whether this pong answers a probe of a size."""
        probe = self._mtu_probes.pop(tx_id, None)
        if probe is None:
            return False
        mtu = self._mtus.get(probe[0])
        if probe[0] == way and mtu is not None:
            mtu.answered(probe[1], now)
            if way != "relay":
                self._prefer_wide(self.probes.get(way), now)
            self._resize(now)
            self._settle(now)
        return True

    def _probe_sizes(self, now: float) -> None:
        self._rivals = self._other_ways(now)
        for rival in self._rivals:
            if rival not in self._mtus:
                self._mtus[rival] = PathMtu()
                self._mtus[rival].start(now)
        for way in (*self._route, *self._rivals):
            if way is None or way not in self._mtus:
                continue
            rtt = self.relay_rtt if way == "relay" else self.probes[way].rtt if way in self.probes else 0.0
            for size in self._mtus[way].tick(now, rtt):
                tx_id = self._rng.randbytes(12)
                self._mtu_probes[tx_id] = way, size, now
                self._actions.append(SendPing(None if way == "relay" else way, tx_id, mtu=size))
        self._resize(now)
        if len(self._mtu_probes) > 64:
            self._mtu_probes = {t: p for t, p in self._mtu_probes.items() if now - p[2] < PING_MEMORY}

    def _settle_sizes(self, route: PathRoute, now: float) -> None:
        """Begins to look for the sizes of the ways that data takes; what is known of others is kept for when they are taken again."""
        for way in [w for w in self._mtus if w != "relay" and w not in self.probes]:
            del self._mtus[way]
        for taken in route:
            if taken is not None and taken not in self._mtus and taken != self.plain and self._session:
                mtu = self._mtus[taken] = PathMtu()
                mtu.start(now)
        self._resize(now)

    def _resize(self, now: float) -> None:
        """Tells a changed size, and when the next probe is due."""
        taken = [self._mtus[way] for way in self._route if way is not None and way in self._mtus]
        looked_at = [*taken, *(self._mtus[way] for way in self._rivals if way in self._mtus)]
        self._mtu_at = min((m.deadline for m in looked_at), default=inf)
        limits = [m.limit for m in taken if m.limit is not None]
        if (least := min(limits, default=None)) != self.mtu:
            if self.mtu is None and not self._rivals:
                self._mtu_at = now  # is another one wider?
            self.mtu = least
            self._actions.append(Resized())

    def _other_ways(self, now: float) -> tuple[PathKey, ...]:
        """Paths as good as the narrow one in use, which answered of late: perhaps more gets through them."""
        best = self.best
        if best is None or self.mtu is None:
            return ()
        return tuple(
            p.path
            for p in self.probes.values()
            if p is not best and p.rank == best.rank and now - p.pong_at < MEASURE and p.pong_at > p.lost_at
        )

    def _prefer_wide(self, probe: PathProbe | None, now: float) -> None:
        """A size got through a path: is it a better one than that in use?"""
        best = self.best
        if probe is None or best is None or probe is best or probe.rank != best.rank or self._unproven:
            return
        if (self.mtu_of(probe.path) or 0) > (self.mtu_of(best.path) or INNER_MTU):
            self.best = probe
            probe.pong_at = now
            self._unanswered_since = inf
            self._next_beat = now + HEARTBEAT

    def wireguard_proven(self, path: PathKey, now: float) -> None:
        """A peer without disco sent an authenticated WireGuard message from there."""
        if self.plain != path:
            self.plain = path
            self.best = self.old = None
            self._end_check()
        self._settle(now)

    def probe_now(self, now: float) -> list[bytes]:
        """Sends a ping on each way that data takes now, for a person who asks. Returns the transaction ids."""
        ways = [w for w in self._route if w is not None]
        return [self._send(None if way == "relay" else self.probes.get(way), now) for way in ways if way != self.plain]

    def ask(self, now: float) -> None:
        """Pings the peer on each way that there is: does it live?"""
        self._verify(now)
        if self._has_relay:
            self._send(None, now)
        self._settle(now)

    def network_changed(self, now: float) -> None:
        """The host woke from sleep or its network changed: nothing that was proven before still is."""
        self._retry_at = -inf
        if self.best is not None:
            self._verify(now)
            if self.active(now):
                self._start_check(now, ask=True)
        elif self.active(now):
            self._start_check(now, ask=True)
        self._settle(now)

    def forget(self, now: float) -> None:
        """Back to where nothing is known."""
        self.best = self.old = self.plain = None
        self._mtus.clear()
        self._resize(now)
        self.probes.clear()
        self._pings.clear()
        self._pong_ids.clear()
        self._end_check()
        self._remote = ()
        self._last_traffic = self._retry_at = -inf
        self._failed = self._lost = self._unproven = False
        self._forgotten = True
        self._next_beat = self._relay_beat = self._measure_at = self.deadline = inf

    # time

    def tick(self, now: float) -> None:
        """Does what is due. Call it at `deadline` or later; early calls do no harm."""
        if now < self.deadline:
            return
        if self.checking:
            self._run_check(now)
        best = self.best
        if best is not None:
            if now >= self._trust_ends():
                self._trust_lost(now)
            elif now >= self._next_beat:
                self._beat(best, now)
        if now >= self._relay_beat:
            self._relay_beat = now + REPEAT
            if self.old is None or not self.relay_up or now - self.old.lost_at > FORGET:
                self._relay_beat = inf
            else:
                self._send(None, now)
        if now >= self._measure_at:
            self._measure_at = inf
            if self._measures_relay(now):
                self._measure_asked_at = now
                self._send(None, now)
        self._leave_nested(now)
        if not self._settled_down and not self.checking and self.active(now) and now >= self._retry_at:
            self._start_check(now, ask=True)
        if now >= self._mtu_at:
            self._probe_sizes(now)
        if self.probes and now >= self._forget_at():
            self.forget(now)
        self._settle(now)

    # inside

    def _trust_ends(self) -> float:
        """When the present path has been silent for too long."""
        assert self.best is not None
        if self._unanswered_since == inf:
            return inf
        return max(self.best.pong_at, self._unanswered_since - HEARTBEAT) + TRUST

    def _measures_relay(self, now: float) -> bool:
        """Whether the relay carries data, so that its round trip is of interest."""
        return self._route.primary == "relay" and self.active(now)

    def _forget_at(self) -> float:
        return max(self._kept_until, self._pinged_at + FORGET_PINGED)

    @property
    def _kept_until(self) -> float:
        """Until when we keep a path up by pings of our own. Later we only answer the peer's, else two idle ones would keep
        each other from forgetting."""
        return max(self._last_traffic, self._check_started) + FORGET

    def _beat(self, best: PathProbe, now: float) -> None:
        if self._unanswered_since == inf:
            self._unanswered_since = now
        worry = WORRY_UNPROVEN if self._unproven else WORRY
        if now - self._unanswered_since >= worry and self.active(now):
            self._unproven = True
            if not self.checking:
                self._start_check(now, ask=True)
        self._ping(best, now)
        self._next_beat = now + max(REPEAT, 1.5 * best.rtt)

    def _verify(self, now: float) -> None:
        """Goes on with the present path, doubled by the relay, until it answers again."""
        if self.best is None:
            return
        self._unproven = True
        if self._unanswered_since == inf:
            # However long it slept: from here on it has the rest of TRUST after a heartbeat to answer.
            self._unanswered_since = max(now, self.best.pong_at + HEARTBEAT)
        self._next_beat = now

    def _trust_lost(self, now: float) -> None:
        lost = self.best
        assert lost is not None
        lost.lost_at = now
        self.best = None
        self._unproven = False
        self._unanswered_since = self._next_beat = inf
        self._lost = True
        self._retry_wait = RETRY_LOST
        if self.active(now):
            self.old = lost
            self._relay_beat = now
            if not self.checking:
                self._start_check(now, ask=True)
        else:
            self._retry_at = -inf

    def _proven(self, probe: PathProbe, rtt: float, now: float) -> None:
        probe.pong_at = probe.measured_at = now
        probe.rtt = rtt if probe.rtt == 0.0 else 0.75 * probe.rtt + 0.25 * rtt
        best = self.best
        if probe is best:
            self._unproven = False
        elif self._allowed(probe, now) and (
            best is None or self._unproven or not self.trusted(now) or self._clearly_better(probe, best)
        ):
            self.best = probe
            self._unproven = False
        if probe is self.best:
            self._unanswered_since = inf
            self._next_beat = probe.sent_at + (HEARTBEAT if self.active(now) else DORMANT_PING)
            if self._next_beat > self._kept_until:
                self._next_beat = inf
            self.old = None
            self._relay_beat = inf
            self._failed = self._lost = False
        self._settle(now)

    def _clearly_better(self, probe: PathProbe, best: PathProbe) -> bool:
        if probe.rank != best.rank:
            return probe.rank < best.rank
        if (self.mtu_of(probe.path) or INNER_MTU) < (self.mtu_of(best.path) or INNER_MTU):
            return False
        return probe.rtt < best.rtt * CLEARLY_FASTER and probe.rtt < best.rtt - CLEARLY_FASTER_BY

    def _probe(self, path: PathKey, kind: CandidateKind | None) -> PathProbe:
        probe = self.probes.get(path)
        if probe is None:
            rank, reason = judge(self._view, path.remote, kind)
            probe = self.probes[path] = PathProbe(path, kind, rank, reason)
        elif (
            kind is not None and probe.kind is not kind
        ):  # as it was told last: a router may open what was only seen before
            probe.kind = kind
            self._judge(probe)
        return probe

    def _make_room_for_triggered(self, room: int = 0) -> None:
        """The oldest go until so many more have room; those that data goes to stay."""
        triggered = [p for p in self.probes.values() if p.kind is None]
        unused = [p for p in triggered if p is not self.best and p is not self.old]
        unused.sort(key=lambda p: max(p.pong_at, p.sent_at))
        for probe in unused[: max(0, len(triggered) + room - MAX_TRIGGERED)]:
            del self.probes[probe.path]

    def _forget_untold(self) -> None:
        """What the peer names no more isn't tried any more: else, ever other addresses would make ever more pings. Where
        it answered counts as learnt from a ping of its own."""
        told = {c.addr for c in self._remote}
        for probe in list(self.probes.values()):
            if probe.kind is None or probe.path.remote in told or probe is self.best or probe is self.old:
                continue
            if probe.pong_at > probe.lost_at:
                probe.kind = None
            else:
                del self.probes[probe.path]
        self._make_room_for_triggered()

    def _send(self, probe: PathProbe | None, now: float) -> bytes:
        tx_id = self._rng.randbytes(12)
        _remember(self._pings, tx_id, probe, now, MAX_PINGS)
        if probe is None:
            self._actions.append(SendPing(None, tx_id))
        else:
            probe.sent_at = now
            self._actions.append(
                SendPing(probe.path, tx_id, probe.heard, probe.rank is Rank.NESTED and not self._has_relay)
            )
        return tx_id

    def _ping(self, probe: PathProbe, now: float) -> None:
        self._send(probe, now)

    def _call(self, now: float, *, ask: bool) -> None:
        if self.relay_up:
            self._called_at = now
            self._actions.append(SendCallMeMaybe(ask))

    def _start_check(self, now: float, *, ask: bool, call: bool = True) -> None:
        if not self._may_be_direct():
            self._failed = True
            self._retry_at = now + RETRY
            return
        if call:
            self._call(now, ask=ask)
            self._call_round = 0
        if self.checking and now - self._check_started < CHECK_ROUNDS[2]:
            self._check_round = min(self._check_round, 2)  # just begun: new pairs join its next round
            self._ping_all(now)
            return
        self._check_started = now
        self._check_round = 0
        self._run_check(now)

    def _may_be_direct(self) -> bool:
        """Whether trying makes sense. Where UDP doesn't get out, the neighbours on the LAN may still be reached."""
        lan = self.policy.udp or any(self._view.on_link(parse_ip(c.addr.host)) for c in self._remote)
        return self.policy.p2p and lan

    def _end_check(self) -> None:
        self._check_round = len(CHECK_ROUNDS)
        self._call_round = len(CALL_REPEATS)

    def _run_check(self, now: float) -> None:
        # Compared as sums, as the deadline is: a difference may be rounded to just below.
        started = self._check_started
        if self._call_round < len(CALL_REPEATS) and now >= started + CALL_REPEATS[self._call_round]:
            self._call_round += 1
            if self._heard_candidates_at < self._check_started:
                self._call(now, ask=True)
        if self._settled_down and not self._unproven and now >= started + CHECK_SETTLED and self.trusted(now):
            self._end_check()
            return
        if now >= started + CHECK_ROUNDS[self._check_round]:
            while self.checking and now >= started + CHECK_ROUNDS[self._check_round]:
                self._check_round += 1
            self._ping_all(now)
            if not self.checking:
                self._call_round = len(CALL_REPEATS)
                self._failed = not self._settled_down
                self._lost = False
                jitter = self._rng.uniform(-RETRY_JITTER, RETRY_JITTER) / RETRY
                self._retry_at = now + self._retry_wait * (1.0 + jitter)
                self._retry_wait = min(RETRY, 2 * self._retry_wait)

    def _ping_all(self, now: float) -> None:
        """Pings all pairs, the longest untried first. Where nobody ever answered, it may be a third party that the peer
        names: there, few at a time, and what must wait comes in the check's next round."""
        for path, kind in pair(self._view, self._sockets, self._remote):
            self._probe(path, kind)
        for probe in sorted(self.probes.values(), key=lambda p: (p.sent_at, p.rank)):
            if (
                now - probe.sent_at < 0.1
                or (probe is self.best and not self._unproven)
                or not self._allowed(probe, now)
            ):
                continue
            if probe.pong_at > -inf or self._strange_pings.take(now):
                self._ping(probe, now)

    @property
    def _settled_down(self) -> bool:
        """Whether there is a direct path that needn't be replaced by a better kind."""
        return self.best is not None and self.best.rank is not Rank.NESTED

    def _next_check_event(self) -> float:
        if not self.checking:
            return inf
        at = CHECK_ROUNDS[self._check_round]
        if self._call_round < len(CALL_REPEATS) and self._heard_candidates_at < self._check_started:
            at = min(at, CALL_REPEATS[self._call_round])
        return self._check_started + at

    def _wanted_route(self, now: float) -> PathRoute:
        relay: Literal["relay"] | None = "relay" if self._has_relay else None
        if self.plain is not None:
            return PathRoute(self.plain, None)
        if self.best is not None:
            doubled = self._unproven or not self.active(now)
            return PathRoute(self.best.path, relay if doubled else None)
        if self.old is not None:
            return PathRoute(relay, self.old.path) if relay else PathRoute(self.old.path, None)
        return RELAY_ROUTE if relay else PathRoute(None, None)

    def _wanted_reason(self) -> Reason:
        if self.plain is not None:
            return Reason.DIRECT_WIREGUARD
        if not self.policy.p2p:
            return Reason.RELAY_P2P_DISABLED
        if self.best is not None:
            return self.best.reason
        if not self._may_be_direct() and (self._lost or self._failed or self.checking):
            return Reason.RELAY_UDP_BLOCKED
        if self._lost:
            return Reason.RELAY_PATH_LOST
        if not self._failed and not self.checking:
            return Reason.NONE_IDLE
        obstacle, sure = self._obstacle()
        if self._failed or (sure and not open_to(self._view, self._remote)):
            return obstacle
        return Reason.RELAY_UPGRADING

    def _obstacle(self) -> tuple[Reason, bool]:
        """As `candidates.obstacle`; kept, as it changes only with what the sides know of each other."""
        known = (self._view, self._remote, self._remote_filters_ports, self._remote_udp_blocked)
        if self._obstacle_of is None or any(x is not y for x, y in zip(self._obstacle_of[0], known, strict=True)):
            self._obstacle_of = (known, obstacle(*known))
        return self._obstacle_of[1]

    def _settle(self, now: float) -> None:
        """Tells a changed route, and sets the next deadline."""
        route = self._wanted_route(now)
        if route != self._route:
            self._route = route
            self._settle_sizes(route, now)
            self._actions.append(route)
        reason = self._wanted_reason()
        if reason is not self._reason:
            self._reason = reason
            self._actions.append(PathMoved(self.direct, reason))
        if self._measure_at == inf and self._measures_relay(now):
            since = max(self.relay_pong_at, self._measure_asked_at)
            self._measure_at = max(now + FIRST_MEASURE, since + MEASURE)
        at = min(self._relay_beat, self._measure_at)
        if self._check_round < len(CHECK_ROUNDS):
            at = min(at, self._next_check_event())
        if self.best is not None:
            at = min(at, self._next_beat)
            if self._unanswered_since < inf:
                at = min(at, self._trust_ends())
            if route.also is None and self._has_relay and self._last_traffic + ACTIVE < at:
                at = self._last_traffic + ACTIVE  # from then on the first packets go both ways again
            if self.best.rank is Rank.NESTED and self._nested_until > now:
                at = min(at, self._nested_until)
        if (
            not self._settled_down
            and self._retry_at < at
            and self.plain is None
            and self.active(now)
            and not self.checking
        ):
            at = max(self._retry_at, now)
        if self.probes:
            at = min(at, self._forget_at())
        self.deadline = min(at, self._mtu_at)


def _remember(
    table: dict[bytes, tuple[PathProbe | None, float]], own_id: bytes, probe: PathProbe | None, now: float, most: int
) -> None:
    """Notes what was sent, among the last `most` of PING_MEMORY seconds."""
    while table:
        oldest = next(iter(table))
        if len(table) < most and now - table[oldest][1] <= PING_MEMORY:
            break
        del table[oldest]
    table[own_id] = (probe, now)
