"""The relays of one network: which is home, which stands by, which one reaches a peer."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from math import inf
from typing import Protocol

from shadowmesh.engine.events import WantGrant
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.relaysession import RelayLogin, RelaySession
from shadowmesh.engine.surroundings import SharedTransports, Surroundings
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import RelayInfo
from shadowmesh.model.pump import Path
from shadowmesh.protocol.relay import frame_prefix
from shadowmesh.protocol.token import RelayTokenBody, read_token

GRANT_RETRY = 60.0  # seconds between two requests for a fresh token
RENEW_JITTER = 60.0
REVIEW = 120.0  # seconds between two looks at which sessions are needed
UNUSED = 240.0  # seconds without data to or from any peer of its after which a session that is neither home nor standby
# ends; longer than a WireGuard session lives, so that whoever speaks again has to ask for one, and so for a relay
CLEARLY_NEARER = 0.8  # share of home's round trip below which another relay becomes home


class RelayUser(Protocol):
    """Who is told what happens on the relays of a network: its engine."""

    def relays_changed(self, now: Now) -> None:
        """A relay came or went; paths through relays are to be chosen anew."""

    def relay_welcomed(self, session: RelaySession, now: Now) -> None:
        """A session stands anew: what was sent a moment before may be lost."""

    def relay_unused(self, session: RelaySession, now: Now) -> None:
        """A session was left, as nobody had needed it for long."""


class RelaySet:
    """All relay sessions of one network. Without effect until it has an address (`set_address`)."""

    def __init__(
        self,
        network_id: NetworkID,
        surroundings: Surroundings,
        outbox: Outbox,
        shared: SharedTransports,
        user: RelayUser,
    ) -> None:
        self._network_id = network_id
        self._surroundings = surroundings
        self._outbox = outbox
        self._shared = shared
        self._user = user
        self._token = ""
        self._token_body: RelayTokenBody | None = None
        self._login: RelayLogin | None = None
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

    def set_address(self, ip: IPv4Address, now: Now) -> bool:
        """This node's overlay address, its id on relays. Another one ends all sessions; they log in again once a token
        for it is there. Returns whether it is another; to be followed by `apply_map`."""
        if self._login is not None and self._login.ip == ip:
            return False
        self._close_sessions()
        self._login = RelayLogin(self._network_id, ip)
        self._prefixes.clear()
        self._use_token()
        if self._token and not self._login.token:
            self.token_refused("address", now)
        return True

    def apply_map(self, relays: Sequence[RelayInfo], now: Now) -> None:
        """The relays of a new map."""
        assert self._login is not None
        infos = {r.relay_id: r for r in relays}
        removed = [r for r, s in self.sessions.items() if infos.get(r) != s.relay]
        for relay_id in removed:
            self.sessions.pop(relay_id).close()
            self._used_at.pop(relay_id, None)
        self.order = tuple(infos)
        for relay_id, info in infos.items():
            if relay_id not in self.sessions:
                self.sessions[relay_id] = RelaySession(
                    info, self._login, self._surroundings, self._outbox, self._shared, self
                )
        self.review(now)
        if removed:
            self._user.relays_changed(now)  # whoever was reached through one of them needs another

    def apply_token(self, token: str, now: Now) -> None:
        """A relay token from the grant. Raises MalformedError if it is none, or one of another network."""
        body = read_token(token)
        if body.network_id != self._network_id:
            raise MalformedError("a relay token of another network")
        if token == self._token:
            return
        self._token, self._token_body = token, body
        self._use_token()
        for session in self.sessions.values():
            session.login_again(now)
        if self._login is not None:
            self.review(now)

    def _use_token(self) -> None:
        """Sessions log in with the token if it is for our present address."""
        login, body = self._login, self._token_body
        if login is not None and body is not None:
            login.token = self._token if body.ip == login.ip else ""
            self._renew_wall = body.renew_after if login.token else -inf

    def close(self) -> None:
        """Leaves all relays, for good."""
        self._close_sessions()
        self._token, self._token_body = "", None
        self._renew_wall = self._review_at = inf
        self._outbox.timers.cancel(self)

    def _close_sessions(self) -> None:
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()
        self._used_at.clear()
        self.order = ()
        self.home = self.standby = None

    def network_changed(self, now: Now) -> None:
        """This host's address changed, or it slept: log in from where it is now."""
        for session in self.sessions.values():
            session.login_again(now)

    def transport_changed(self, now: Now) -> None:
        for session in self.sessions.values():
            session.transport_changed(now)

    def prefix(self, peer_ip: IPv4Address) -> bytes:
        """The header of frames to a peer."""
        prefix = self._prefixes.get(peer_ip)
        if prefix is None:
            assert self._login is not None
            prefix = self._prefixes[peer_ip] = frame_prefix(self._network_id, self._login.ip, peer_ip)
        return prefix

    def is_from(self, peer_ip: IPv4Address, path: Path) -> bool:
        """Whether a message that came on `path` may be this peer's: a relayed one has to bear its address and our
        network; one that came directly names neither."""
        return not path.prefix or path.prefix == self.prefix(peer_ip)

    def brings(self, path: Path) -> bool:
        """Whether a transport is that of a relay in the map."""
        if path.remote is not None:
            return any(path.remote == s.relay.udp for s in self.sessions.values())
        streams = (self._surroundings.stream_path(s.relay) for s in self.sessions.values())
        return any(stream is not None and stream.via == path.via for stream in streams)

    def choose(self, wishes: Sequence[RelayID | None], absent: dict[RelayID, float], now: Now) -> RelaySession | None:
        """The session to reach a peer by: its home, its standby, then our own, then the map's others; those that
        said lately that the peer isn't there come last. Sessions better than the one returned are asked for."""
        boot = now.boot
        for i, relay_id in enumerate(self._ranked(wishes, absent, boot)):
            session = self.sessions[relay_id]
            if i < 2 or session.wanted:
                self._used_at[relay_id] = boot
                if not session.wanted:
                    session.want(now)
            if session.usable(boot):
                return session
        return None

    def at_hand(
        self, wishes: Sequence[RelayID | None], absent: dict[RelayID, float], now: float
    ) -> RelaySession | None:
        """What `choose` would return now, of a peer that needs none yet: no session is asked for."""
        sessions = (self.sessions[r] for r in self._ranked(wishes, absent, now))
        return next((session for session in sessions if session.usable(now)), None)

    def _ranked(self, wishes: Sequence[RelayID | None], absent: dict[RelayID, float], now: float) -> list[RelayID]:
        names = dict.fromkeys([*(w for w in wishes if w is not None), *self._own(), *self.order])
        return sorted((r for r in names if r in self.sessions), key=lambda r: absent.get(r, -inf) > now)

    def _own(self) -> list[RelayID]:
        return [r for r in (self.home, self.standby) if r is not None]

    @property
    def any_up(self) -> bool:
        return any(s.up for s in self.sessions.values())

    @property
    def udp_works(self) -> bool:
        """Whether a session stands over UDP."""
        return any(s.up and not s.on_stream for s in self.sessions.values())

    @property
    def only_streams_work(self) -> bool:
        """Whether a relay that speaks UDP, too, is reached by a stream alone."""
        return any(s.up and s.on_stream and s.relay.udp is not None for s in self.sessions.values())

    def find(self, path: Path) -> RelaySession | None:
        """The session that a message on this transport belongs to."""
        key = (path.via, path.remote)
        for session in self.sessions.values():
            for own in (session.path, session.attempt_path):
                if own is not None and (own.via, own.remote) == key:
                    return session
        return None

    def find_login(self, echo: bytes) -> RelaySession | None:
        """The session whose login an answer with this echo belongs to."""
        return next((s for s in self.sessions.values() if s.logs_in_with(echo)), None)

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
                session.close()
                self._user.relay_unused(session, now)
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
        self._review_at = now.boot + REVIEW
        self._outbox.schedule(self)

    def _distance(self, relay_id: RelayID) -> float:
        session = self.sessions[relay_id]
        if session.rtt is not None:
            return session.rtt
        udp = session.relay.udp
        return self._surroundings.server_rtt.get(udp, 1.0) if udp is not None else 1.0

    def deadline(self) -> float:
        return self._review_at

    def on_timer(self, now: Now) -> None:
        wall = self._surroundings.controller_wall(self._network_id, now)
        rng = self._surroundings.rng
        if self._token and wall >= self._renew_wall and now.boot - self._last_wish >= GRANT_RETRY:
            self._last_wish = now.boot + rng.uniform(0, RENEW_JITTER)
            self._want_grant("renew")
        self.review(now)
        if self._token:
            until = self._renew_wall - wall + rng.uniform(0, RENEW_JITTER)
            self._review_at = min(self._review_at, now.boot + (until if until > 0 else GRANT_RETRY))

    def _want_grant(self, why: str) -> None:
        self._outbox.publish(WantGrant(self._network_id, why))

    # what its sessions tell

    def welcomed(self, session: RelaySession, now: Now, *, moved: bool) -> None:
        self.review(now)
        self._user.relay_welcomed(session, now)
        if moved:
            self._user.relays_changed(now)

    def session_changed(self, now: Now) -> None:
        self.review(now)
        self._user.relays_changed(now)

    def token_refused(self, why: str, now: Now) -> None:
        if now.boot - self._last_wish >= 5.0:
            self._last_wish = now.boot
            self._want_grant(why)

    # traffic

    def verify(self, now: Now) -> None:
        for session in self.sessions.values():
            session.verify(now)

    def use(self, session: RelaySession, now: float) -> None:
        """There is data to or from a peer that is, or would be, reached through `session`."""
        self._used_at[session.relay.relay_id] = now

    def busy(self, session: RelaySession, now: float) -> None:
        """Traffic goes through `session`; what is answered comes through our home."""
        session.busy(now)
        home = self.sessions.get(self.home) if self.home is not None else None
        if home is not None and home is not session:
            home.busy(now)
