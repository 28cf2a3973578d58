"""The relays of one network: which is home, which stands by, which one reaches a peer."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from math import inf
from typing import TYPE_CHECKING, Protocol

from shadowmesh.engine.relaysession import RelaySession
from shadowmesh.model.clock import Now
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import RelayInfo
from shadowmesh.model.pump import Path
from shadowmesh.protocol.relay import Welcome, frame_prefix
from shadowmesh.protocol.signing import Signer
from shadowmesh.protocol.token import read_token

if TYPE_CHECKING:
    from shadowmesh.engine.node import Node

GRANT_RETRY = 60.0  # seconds between two requests for a fresh token
RENEW_JITTER = 60.0
UNUSED = 120.0  # seconds after which a session that serves no peer and is neither home nor standby ends
CLEARLY_NEARER = 0.8  # share of home's round trip below which another relay becomes home


class RelayUser(Protocol):
    """Who is told what happens on the relays of a network: its engine."""

    def relays_changed(self, now: Now) -> None:
        """A relay came or went; paths through relays are to be chosen anew."""

    def relay_welcomed(self, session: RelaySession, now: Now) -> None:
        """A session stands anew: what was sent a moment before may be lost."""

    def want_grant(self, why: str) -> None: ...


class RelaySet:
    """All relay sessions of one network."""

    def __init__(self, node: Node, user: RelayUser, network_id: NetworkID, ip: IPv4Address) -> None:
        self._node = node
        self._user = user
        self.network_id = network_id
        self.ip = ip
        self.token = ""
        self.device: Signer = node.identity.device
        self.timers = node.timers
        self.sessions: dict[RelayID, RelaySession] = {}
        self.order: tuple[RelayID, ...] = ()
        self.home: RelayID | None = None
        self.standby: RelayID | None = None
        self.queued_at = inf
        self._used_at: dict[RelayID, float] = {}
        self._prefixes: dict[IPv4Address, bytes] = {}
        self._renew_wall = inf
        self._review_at = inf
        self._last_wish = -inf

    # what the engine tells and asks

    def apply_map(self, relays: Sequence[RelayInfo], now: Now) -> None:
        """The relays of a new map."""
        infos = {r.relay_id: r for r in relays}
        for relay_id in [r for r, s in self.sessions.items() if infos.get(r) != s.relay]:
            session = self.sessions.pop(relay_id)
            session.unwant(now)
        self.order = tuple(infos)
        for relay_id, info in infos.items():
            if relay_id not in self.sessions:
                self.sessions[relay_id] = RelaySession(self, info, self._node.rng)
        self.review(now)

    def apply_token(self, token: str, now: Now) -> None:
        """A relay token from the grant. Raises MalformedError if it is none."""
        body = read_token(token)
        if token == self.token:
            return
        self.token = token
        self._renew_wall = body.renew_after
        for session in self.sessions.values():
            session.login_again(now)
        self.review(now)

    def close(self, now: Now) -> None:
        for session in self.sessions.values():
            session.unwant(now)

    def network_changed(self, now: Now) -> None:
        """This host's address changed, or it slept: log in from where it is now."""
        for session in self.sessions.values():
            session.login_again(now)

    def transport_changed(self, now: Now) -> None:
        for session in self.sessions.values():
            session.transport_changed(now)

    def prefix(self, peer_ip: IPv4Address) -> bytes:
        prefix = self._prefixes.get(peer_ip)
        if prefix is None:
            prefix = self._prefixes[peer_ip] = frame_prefix(self.network_id, self.ip, peer_ip)
        return prefix

    def choose(self, wishes: Sequence[RelayID | None], absent: dict[RelayID, float], now: Now) -> RelaySession | None:
        """The session to reach a peer by: its home, its standby, then our own, then the map's others; those that
        said lately that the peer isn't there come last. Sessions better than the one returned are asked for."""
        boot = now.boot
        names = dict.fromkeys([*(w for w in wishes if w is not None), *self._own(), *self.order])
        order = sorted((r for r in names if r in self.sessions), key=lambda r: absent.get(r, -inf) > boot)
        for i, relay_id in enumerate(order):
            session = self.sessions[relay_id]
            if i < 2 or session.wanted:
                self._used_at[relay_id] = boot
                if not session.wanted:
                    session.want(now)
            if session.usable(boot):
                return session
        return None

    def _own(self) -> list[RelayID]:
        return [r for r in (self.home, self.standby) if r is not None]

    @property
    def any_up(self) -> bool:
        return any(s.up for s in self.sessions.values())

    def find(self, path: Path) -> RelaySession | None:
        """The session that a message on this transport belongs to."""
        key = (path.via, path.remote)
        for session in self.sessions.values():
            for own in (session.path, session.attempt_path):
                if own is not None and (own.via, own.remote) == key:
                    return session
        return None

    # home and standby

    def review(self, now: Now) -> None:
        """Decides home and standby: the nearest two as far as round trips are known, in the map's order otherwise."""
        ranked = sorted(self.order, key=lambda r: (self._distance(r), self.order.index(r)))
        keep = ranked[:2]
        for relay_id in keep:
            self.sessions[relay_id].want(now)
        for relay_id, session in self.sessions.items():
            unused = now.boot - self._used_at.get(relay_id, -inf) > UNUSED
            if session.wanted and relay_id not in keep and relay_id not in self._own() and unused:
                session.unwant(now)
        up = [r for r in ranked if self.sessions[r].up]
        home = up[0] if up else None
        if self.home in up and home is not None and self.home is not None:
            nearer = self._distance(home) < CLEARLY_NEARER * self._distance(self.home)
            home = home if nearer else self.home
        others = [r for r in up if r != home]
        standby = self.standby if self.standby in others else (others[0] if others else None)
        if (home, standby) != (self.home, self.standby):
            self.home, self.standby = home, standby
            self._user.relays_changed(now)
        self._review_at = now.boot + UNUSED
        self.timers.schedule(self)

    def _distance(self, relay_id: RelayID) -> float:
        session = self.sessions[relay_id]
        if session.rtt is not None:
            return session.rtt
        udp = session.relay.udp
        return self._node.stun.rtt.get(udp, 1.0) if udp is not None else 1.0

    def deadline(self) -> float:
        return self._review_at

    def on_timer(self, now: Now) -> None:
        wall = now.wall + self._node.wall_offset
        if self.token and wall >= self._renew_wall and now.boot - self._last_wish >= GRANT_RETRY:
            self._last_wish = now.boot + self._node.rng.uniform(0, RENEW_JITTER)
            self._user.want_grant("renew")
        self.review(now)
        if self.token:
            until = self._renew_wall - wall + self._node.rng.uniform(0, RENEW_JITTER)
            self._review_at = min(self._review_at, now.boot + (until if until > 0 else GRANT_RETRY))

    # what its sessions need

    def send(self, path: Path, data: bytes) -> None:
        self._node.send(path, data)

    def is_there(self, path: Path) -> bool:
        return path.via in self._node.slots

    def udp_path(self, relay: RelayInfo) -> Path | None:
        if relay.udp is None:
            return None
        sock = self._node.socket_for(relay.udp)
        return None if sock is None else Path(sock.slot, relay.udp)

    def stream_path(self, relay: RelayInfo) -> Path | None:
        slot = self._node.streams.get(relay.relay_id)
        return None if slot is None else Path(slot)

    def need_stream(self, relay: RelayInfo) -> None:
        assert relay.url is not None
        self._node.need_stream(relay.relay_id, relay.url)

    def stream_failed(self, relay: RelayInfo, now: Now) -> None:
        self._node.stream_failed(relay.relay_id, now)

    def watch_echo(self, echo: bytes, session: RelaySession) -> None:
        self._node.echoes[echo] = session

    def forget_echo(self, echo: bytes) -> None:
        self._node.echoes.pop(echo, None)

    def welcomed(self, session: RelaySession, welcome: Welcome, now: Now, *, moved: bool) -> None:
        if session.path is not None and session.path.remote is not None:
            self._node.observed(session.relay, welcome.observed, now)
            self._node.stream_unneeded(session.relay.relay_id)
        self.review(now)
        self._user.relay_welcomed(session, now)
        if moved:
            self._user.relays_changed(now)

    def in_doubt(self, now: Now) -> None:
        """One relay knows us no more: perhaps our NAT restarted, and the others don't, either."""
        self._node.relays_in_doubt(now)

    def verify(self, now: Now) -> None:
        for session in self.sessions.values():
            session.verify(now)

    def busy(self, session: RelaySession, now: float) -> None:
        """Traffic goes through `session`; what is answered comes through our home."""
        session.busy(now)
        home = self.sessions.get(self.home) if self.home is not None else None
        if home is not None and home is not session:
            home.busy(now)

    def changed(self, now: Now) -> None:
        self.review(now)
        self._user.relays_changed(now)

    def token_refused(self, why: str, now: Now) -> None:
        if now.boot - self._last_wish >= 5.0:
            self._last_wish = now.boot
            self._user.want_grant(why)
