"""One network's session on one relay: login, keepalive, renewal; UDP first, a stream where UDP doesn't get through."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from math import inf
from typing import Protocol

from shadowmesh.engine.events import NeedStream
from shadowmesh.engine.outbox import Outbox
from shadowmesh.engine.surroundings import SharedTransports, Surroundings
from shadowmesh.model.clock import Now
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import RelayInfo
from shadowmesh.model.pump import Path, Slot
from shadowmesh.protocol.relay import (
    KEEPALIVE,
    Bye,
    ByeReason,
    ControlMessage,
    LoginAttempt,
    NoSession,
    Ping,
    Pong,
    Refusal,
)

HELLO_REPEATS = (0.0, 0.3, 0.7, 1.2, 2.0, 3.5)  # seconds into an attempt
ATTEMPT_ENDS = 5.0
STREAM_AFTER = 1.2  # seconds without an answer on UDP, after which a stream is asked for
UDP_RETRY = 60.0  # seconds between tries of UDP while on a stream
STREAM_REASK = 5.0  # seconds between two requests for a stream
STREAM_SILENT = 3.0  # seconds without an answer to a login, after which a stream is dead
BUSY_PING = 1.5  # seconds between pings while traffic depends on the session …
BUSY_FOR = 8.0  # … that is, for so long after the engine last said so
PING_REPEAT = 0.2
PINGS_UNANSWERED = 5  # in a row, after which the relay counts as gone
REFUSED = 5.0  # seconds until another try after a refusal …
LONGEST_REFUSAL = 60.0  # … also where the relay, or somebody in its name, wants more: a refusal isn't signed
TOKEN_RETRY = (
    30.0  # the same for a token that was refused, at most; doubled each time. A relay that lost its controller takes it
)
DOUBT_INTERVAL = 1.0  # seconds between two pings that unproven words of the relay cause
RELOGIN_INTERVAL = 3.0  # seconds between two logins that its answers to pings cause
GRACE = 2.0  # seconds for which frames still go through a relay that wants a new login
_TOKEN_TROUBLE = frozenset(
    {
        Refusal.EXPIRED,
        Refusal.STALE_TOKEN,
        Refusal.BAD_SIGNATURE,
        Refusal.SUPERSEDED,
        Refusal.MALFORMED,
        Refusal.REVOKED,
    }
)


@dataclass(slots=True, eq=False)
class RelayLogin:
    """As whom all sessions of one network log in. The token is empty while none for this address is held."""

    network_id: NetworkID
    ip: IPv4Address
    token: str = ""


class SessionUser(Protocol):
    """Who is told what becomes of a session."""

    def session_changed(self, now: Now) -> None:
        """Frames may no longer go through it, or only for a moment."""

    def welcomed(self, session: RelaySession, now: Now, *, moved: bool) -> None:
        """It stands, anew or for the first time. `moved`: on another path than before."""

    def token_refused(self, why: str, now: Now) -> None: ...


class RelaySession:
    """States: idle (not wanted), logging in, up. `path` is how control messages go; frames add a prefix."""

    __slots__ = (
        "_attempt", "_attempt_started", "_attempt_step", "_backoff", "_busy_until", "_doubted_at", "_last_ping", "_number",
        "_outbox", "_outstanding", "_ping_at", "_relogin_at", "_retry_at", "_shared", "_stream_asked_at", "_stream_first", "_surroundings",
        "_token_wait", "_udp_failed_at", "_udp_retry_at", "_up_lost_at", "_user", "answered_at", "attempt_path", "login", "path",
        "queued_at", "relay", "rtt", "up", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        relay: RelayInfo,
        login: RelayLogin,
        surroundings: Surroundings,
        outbox: Outbox,
        shared: SharedTransports,
        user: SessionUser,
    ) -> None:
        self.relay = relay
        self.login = login
        self._surroundings = surroundings
        self._outbox = outbox
        self._shared = shared
        self._user = user
        self.up = False
        self.wanted = False
        self.rtt: float | None = None
        self.path: Path | None = None
        self.attempt_path: Path | None = None
        self.answered_at = -inf
        self.queued_at = inf
        self._attempt: LoginAttempt | None = None
        self._attempt_started = 0.0
        self._attempt_step = 0
        self._retry_at = inf
        self._backoff = 0.5
        self._number = b""
        self._ping_at = inf
        self._last_ping = -inf
        self._outstanding: dict[bytes, float] = {}
        self._busy_until = -inf
        self._up_lost_at = -inf
        self._doubted_at = self._relogin_at = -inf  # when the relay last said that it doesn't know us: unproven, proven
        self._token_wait = REFUSED / 2
        self._stream_first = relay.relay_id in surroundings.stream_first
        self._udp_failed_at = -inf  # while on a stream: since when UDP is taken for dead
        self._udp_retry_at = inf
        self._stream_asked_at = -inf

    # what the engine asks

    def usable(self, now: float) -> bool:
        """Whether frames may be sent through it: up, or just about to be again."""
        return self.path is not None and (self.up or now - self._up_lost_at < GRACE)

    @property
    def on_stream(self) -> bool:
        return self.path is not None and self.path.remote is None

    def logs_in_with(self, echo: bytes) -> bool:
        """Whether an answer with this echo is one to the login under way."""
        return self._attempt is not None and self._attempt.echo == echo

    def is_current(self, number: bytes) -> bool:
        """Whether this is the number of the session that stands, which outsiders don't know."""
        return self.up and number == self._number

    def needs_stream(self, slot: Slot) -> bool:
        """Whether the stream at `slot` is in use, or may soon be: UDP has not got through."""
        paths = (self.path, self.attempt_path)
        in_use = any(p is not None and p.via == slot for p in paths)
        return in_use or (self.wanted and not (self.up and self.path is not None and self.path.remote is not None))

    def want(self, now: Now) -> None:
        """A session is wanted; logs in when there is none."""
        self.wanted = True
        if not self.up and self._attempt is None and self._retry_at == inf:
            self._login(now)
        self._outbox.schedule(self)

    def close(self) -> None:
        """Leaves the relay. Nothing is sent from here on, unless the session is wanted again."""
        if self.up and self.path is not None:
            bye = Bye(self.login.network_id, self.login.ip, self._number, ByeReason.LEAVING)
            self._outbox.send(self.path, bye.encode())
        self.wanted = self.up = False
        self.path = None
        self._drop_attempt()
        self._outstanding.clear()
        self._retry_at = self._ping_at = self._udp_retry_at = inf
        self._up_lost_at = -inf
        self._outbox.timers.cancel(self)
        self._shared.stream_unneeded(self.relay)

    def busy(self, now: float) -> None:
        """Traffic depends on this session just now: the relay's loss has to be seen quickly."""
        self._busy_until = now + BUSY_FOR
        if self.up and self._ping_at > now + BUSY_PING:
            self._ping_at = now + BUSY_PING
            self._outbox.schedule(self)

    def verify(self, now: Now) -> None:
        """Whether the session still stands is in doubt: asks at once, unless an answer is awaited already."""
        if self.up and not self._outstanding and self._ping_at > now.boot + 0.05:
            self._ping_at = now.boot
            self._outbox.schedule(self)

    def login_again(self, now: Now) -> None:
        """A new token, or this host's address may have changed. The present session stays until the new one stands."""
        self._token_wait = REFUSED / 2
        if self.wanted:
            self._retry_at = inf
            self._backoff = 0.5
            self._login(now)
            self._outbox.schedule(self)

    def transport_changed(self, now: Now) -> None:
        """Sockets or streams came or went."""
        slots = self._surroundings.slots
        if self.path is not None and self.path.via not in slots:
            self._lost(now, grace=False)
        if self.attempt_path is not None and self.attempt_path.via not in slots:
            self._drop_attempt()
        if self.wanted and not self.up:
            self._drop_attempt()
            self._login(now)
        self._outbox.schedule(self)

    # time

    def deadline(self) -> float:
        at = min(self._retry_at, self._ping_at if self.up else inf, self._udp_retry_at if self.up else inf)
        if self._attempt is not None:
            at = min(at, self._next_step())
        if not self.up and self._up_lost_at > 0 and self.path is not None:
            at = min(at, self._up_lost_at + GRACE)
        return at

    def on_timer(self, now: Now) -> None:
        boot = now.boot
        if self._attempt is not None and boot >= self._next_step():
            self._step(now)
        if boot >= self._retry_at:
            self._retry_at = inf
            if self.wanted:
                self._login(now)
        if self.up and boot >= self._udp_retry_at:
            self._udp_retry_at = boot + UDP_RETRY
            self._udp_failed_at = -inf
            self._login(now, udp_only=True)
        if self.up and boot >= self._ping_at:
            self._ping(now)
        if not self.up and self.path is not None and boot >= self._up_lost_at + GRACE:
            self.path = None
            self._user.session_changed(now)

    def _next_step(self) -> float:
        step = self._attempt_step
        return self._attempt_started + (HELLO_REPEATS[step] if step < len(HELLO_REPEATS) else ATTEMPT_ENDS)

    # login

    def _login(self, now: Now, *, udp_only: bool = False) -> None:
        token = self.login.token
        if not token:
            self._retry_at = inf  # the grant will wake us
            return
        path = self._choose_transport(now, udp_only=udp_only)
        if path is None:
            if not udp_only:
                self._retry_at = now.boot + self._wait()
            return
        self._drop_attempt()
        self._attempt = LoginAttempt(
            token, self.relay.key, self._surroundings.device, echo=self._surroundings.rng.randbytes(8)
        )
        self.attempt_path = path
        self._attempt_started = now.boot
        self._attempt_step = 0
        self._step(now)

    def _ensure_login(self, now: Now) -> None:
        """Logs in, unless that began within the last second: who was told of the loss may have asked for it already."""
        if self._attempt is None or now.boot - self._attempt_started > 1.0:
            self._login(now)

    def _choose_transport(self, now: Now, *, udp_only: bool) -> Path | None:
        if self._stream_first:
            self._stream_first = False
            self._udp_failed_at = now.boot
        udp_tired = now.boot - self._udp_failed_at < UDP_RETRY
        udp = self._surroundings.udp_path(self.relay.udp)
        if udp is not None and (udp_only or not udp_tired):
            return udp
        if udp_only:
            return None
        stream = self._surroundings.stream_path(self.relay)
        if stream is None:
            self._ask_stream(now)
            return udp
        return stream

    def _ask_stream(self, now: Now) -> None:
        if self.relay.url and now.boot - self._stream_asked_at >= STREAM_REASK:
            self._stream_asked_at = now.boot
            self._outbox.publish(NeedStream(self.relay, self.relay.url))

    def _step(self, now: Now) -> None:
        attempt, path = self._attempt, self.attempt_path
        assert attempt is not None
        assert path is not None
        on_udp = path.remote is not None
        if on_udp and now.boot - self._attempt_started >= STREAM_AFTER and not self.up:
            self._udp_failed_at = now.boot
            if self.relay.url:
                if self._surroundings.stream_path(self.relay) is not None:
                    self._drop_attempt()
                    self._login(now)
                    return
                self._ask_stream(now)
        elif not on_udp and now.boot - self._attempt_started >= STREAM_SILENT:
            self._stream_failed(now)
            return
        if self._attempt_step >= len(HELLO_REPEATS):
            self._drop_attempt()
            if not self.up:
                self._retry_at = now.boot + self._wait()
            return
        self._attempt_step += 1
        self._outbox.send(path, attempt.hello())

    def _stream_failed(self, now: Now) -> None:
        """The stream is open and nothing comes: another one, and a new login on it."""
        self._drop_attempt()
        self._stream_asked_at = -inf
        self._shared.stream_failed(self.relay, now)

    def _wait(self) -> float:
        self._backoff = min(self._backoff * 2, 15.0)
        return self._backoff * self._surroundings.rng.uniform(0.75, 1.25)

    def _drop_attempt(self) -> None:
        if self._attempt is not None:
            self._attempt = None
            self.attempt_path = None

    def receive(self, message: ControlMessage, path: Path, now: Now) -> None:
        """A control message that concerns this session, from `path`."""
        match message:
            case NoSession():
                if self._is_mine(path):
                    self._no_session(message, now)
            case Pong():
                self._pong(message, path, now)
            case Bye():
                if self.up and message.session == self._number:
                    self._bye(message, now)
            case Ping():
                pass  # relays don't ask
            case _:
                self._login_message(message, path, now)
        self._outbox.schedule(self)

    def _is_mine(self, path: Path) -> bool:
        return self.path is not None and (path.via, path.remote) == (self.path.via, self.path.remote)

    def _login_message(self, message: ControlMessage, path: Path, now: Now) -> None:
        attempt, mine = self._attempt, self.attempt_path
        if attempt is None or mine is None or (path.via, path.remote) != (mine.via, mine.remote):
            return
        answer = attempt.receive(message)
        if answer is not None:
            self._outbox.send(mine, answer)
        if attempt.welcome is not None:
            welcome = attempt.welcome
            self._drop_attempt()
            if (welcome.network_id, welcome.ip) != (
                self.login.network_id,
                self.login.ip,
            ):  # the token is somebody else's
                self._refused(Refusal.MALFORMED, 0, now)
                return
            self._number = welcome.session
            old, self.path = self.path, mine
            self.up = True
            self._retry_at = inf
            self._backoff = 0.5
            self._token_wait = REFUSED / 2
            self._outstanding.clear()
            self.answered_at = now.boot
            self._schedule_ping(now.boot)
            on_udp = mine.remote is not None
            self._udp_retry_at = inf if on_udp or self.relay.udp is None else now.boot + UDP_RETRY
            self._stream_asked_at = -inf
            if on_udp:
                self._udp_failed_at = -inf
            if on_udp:
                self._shared.reflexive_seen(welcome.observed, now)
                self._shared.stream_unneeded(self.relay)
            self._user.welcomed(self, now, moved=old != mine)
        elif attempt.refused is not None:
            refused = attempt.refused
            self._drop_attempt()
            self._refused(refused.code, refused.retry_after, now)

    def _refused(self, code: int, retry_after: int, now: Now) -> None:
        if code == Refusal.BAD_COOKIE:
            self._retry_at = now.boot + 0.2
            return
        wait = REFUSED
        if code in _TOKEN_TROUBLE:  # another one will be tried at once; the same one, should the relay change its mind
            self._user.token_refused(Refusal(code).name.lower(), now)
            wait = self._token_wait = min(2 * self._token_wait, TOKEN_RETRY)
        wait = max(min(float(retry_after), LONGEST_REFUSAL), wait)
        self._retry_at = now.boot + wait * self._surroundings.rng.uniform(1.0, 1.5)
        self.verify(now)  # a session that stands is lost when the relay no longer answers for it

    # a session that stands

    def _schedule_ping(self, now: float) -> None:
        if now < self._busy_until:
            self._ping_at = now + BUSY_PING
        else:
            self._ping_at = now + KEEPALIVE * self._surroundings.rng.uniform(0.9, 1.0)

    def _ping(self, now: Now) -> None:
        assert self.path is not None
        if len(self._outstanding) >= PINGS_UNANSWERED:
            if self.path.remote is None:
                self._stream_failed(now)
                return
            self._udp_failed_at = now.boot
            self._lost(now, grace=False)
            self._shared.udp_in_doubt(now)
            self._ensure_login(now)
            return
        tx_id = self._surroundings.rng.randbytes(8)
        self._outstanding[tx_id] = now.boot
        self._outbox.send(self.path, Ping(self.login.network_id, self.login.ip, tx_id).encode())
        self._ping_at = now.boot + max(PING_REPEAT, 2 * (self.rtt or 0.0))

    def _pong(self, pong: Pong, path: Path, now: Now) -> None:
        sent = self._outstanding.get(pong.tx_id)
        if sent is None or not self._is_mine(path):
            return
        self._outstanding.clear()
        rtt = now.boot - sent
        self.rtt = rtt if self.rtt is None else 0.75 * self.rtt + 0.25 * rtt
        self.answered_at = now.boot
        self._schedule_ping(now.boot)

    def _no_session(self, message: NoSession, now: Now) -> None:
        """The relay restarted, or we have another address: logs in again at once, if this answers a ping of ours. What
        doesn't may be anybody's, so a ping asks. More often than each RELOGIN_INTERVAL it counts as no answer."""
        boot = now.boot
        if not self.up or message.ip != self.login.ip:
            return
        if message.tx_id not in self._outstanding:
            if boot - self._doubted_at >= DOUBT_INTERVAL:
                self._doubted_at = boot
                self.verify(now)
        elif boot - self._relogin_at >= RELOGIN_INTERVAL:
            self._relogin_at = boot
            self._lost(now, grace=True)
            self._shared.relays_in_doubt(now)
            self._ensure_login(now)

    def _bye(self, bye: Bye, now: Now) -> None:
        self._lost(now, grace=bye.reason in (ByeReason.IDLE, ByeReason.STALE_TOKEN))
        if bye.reason in (ByeReason.STALE_TOKEN, ByeReason.EXPIRED, ByeReason.REVOKED):
            self._user.token_refused(ByeReason(bye.reason).name.lower(), now)
        if bye.reason in (ByeReason.REPLACED, ByeReason.DRAINING, ByeReason.REVOKED):
            self._retry_at = now.boot + self._surroundings.rng.uniform(5.0, 10.0)
        else:
            self._ensure_login(now)

    def _lost(self, now: Now, *, grace: bool) -> None:
        self.up = False
        self._outstanding.clear()
        self._ping_at = inf
        self._up_lost_at = now.boot if grace else -inf
        if not grace:
            self.path = None
        self._user.session_changed(now)
