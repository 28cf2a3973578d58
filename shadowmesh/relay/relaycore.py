"""The relay's mind, sans-I/O: who may have a session, and where a frame goes.

    core = RelayCore(signer, token_keys=keys)
    for transport, data in core.receive(source, data, now): send(transport, data)      # any datagram or stream frame
    for transport, data in core.tick(now): …                                          # at core.next_deadline()
    core.gone(transport)                                                              # a connection closed
    core.heard_controller(now, wall) / set_token_keys / revoke / set_draining         # what the controller link says

A transport is `SockAddr` (UDP) or `StreamAddr` (one WebSocket connection). `receive` alone does everything. An I/O
shell that moves batches calls `core.begin(now)` once per batch, `core.route(prefix, source, frames, octets)` once per
run of frames with one prefix, which gives the destination's session, and `core.refuse(prefix, source, octets, now)` where
that gave None; `core.undelivered` takes back what then couldn't be sent.

The relay sees NetworkIDs and overlay addresses only; it holds no key that opens what it forwards.
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import TypeAlias

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.model.addresses import SockAddr, source_of
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID, SigningPublicKey
from shadowmesh.model.relaylink import HEARD_SECONDS, Revocation
from shadowmesh.protocol.relay import (
    FRAME_HEADER,
    IDLE_TIMEOUT,
    MIN_FRAME,
    PREFIX_SIZE,
    SESSION_SIZE,
    VERSION,
    Bye,
    ByeReason,
    Challenge,
    Hello,
    NoPeer,
    NoSession,
    Ping,
    Pong,
    Proof,
    Refusal,
    Refuse,
    Welcome,
    WelcomeFlags,
    decode_control,
    is_control,
    proof_message,
    sign_welcome,
    token_hash,
)
from shadowmesh.protocol.signing import Context, Signer, verify
from shadowmesh.protocol.token import RelayTokenBody, TokenError, read_token, verify_token
from shadowmesh.relay.forwarding import Counters, Forwarding, PythonForwarding
from shadowmesh.relay.native import NativeForwarding
from shadowmesh.relay.sessiontable import ClientSession, Owner, RevocationList, SessionTable, StreamAddr, Transport
from shadowmesh.relay.trafficmeter import TrafficMeter

Out: TypeAlias = list[tuple[Transport, bytes]]

COOKIE_LIFE = 10.0  # seconds from challenge to proof
STALE_MARGIN = 300.0  # a token past renew_after by less than this is still fresh: clients renew when it is past
STALE_GRACE = 120.0  # heard again, the controller has to hand out new tokens before old ones are refused
SWEEP = 5.0
_SETTLE = 1.0  # seconds
ANSWER_INTERVAL = 1.0  # between two NoSession or NoPeer answers about the same thing
_ANSWERS_PER_SECOND = 1000  # to clients, and as many to strangers
_ANSWERS_OF_HOST = 250
_FAILURES_PER_WINDOW = 20  # failed proofs of one host in 10 s, after which it is not listened to for the rest of them
_FAILURE_WINDOW = 10.0
_PROOFS_PER_WINDOW = 20  # of one token, or of one who proved an address before, from one host
_BOUND = 65536  # entries of any table that outsiders can fill; a full one is emptied


def _transport_bytes(transport: Transport) -> bytes:
    if isinstance(transport, StreamAddr):
        return b"stream" + transport.number.to_bytes(8, "big")
    return b"udp" + transport.port.to_bytes(2, "big") + transport.host.encode()


def _host(transport: Transport) -> str:
    return transport.peer.host if isinstance(transport, StreamAddr) else transport.host


class AnswersOfSecond:
    """How many NoSession or NoPeer may go out: few to one host (IPv6: one /64), so that it can't use up everybody's."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0
        self._of_host: dict[str, int] = {}

    def one_more(self, host: str, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._count = int(now), 0
            self._of_host.clear()
        if self._count >= _ANSWERS_PER_SECOND:
            return False  # before anything is parsed: a flood costs little
        host = source_of(host)
        mine = self._of_host.get(host, 0)
        if mine >= _ANSWERS_OF_HOST:
            return False
        self._count += 1
        self._of_host[host] = mine + 1
        return True


class RelayCore:
    """See the module. Nothing raises on bytes from outside."""

    def __init__(
        self,
        signer: Signer,
        *,
        token_keys: Iterable[SigningPublicKey] = (),
        capacity: float | None = None,
        max_sessions: int = 20_000,
        idle_timeout: float = IDLE_TIMEOUT,
        pump: PumpName = "python",
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`capacity` in bytes per second, None for no limit. `pump`: who forwards. `random_bytes` is for tests to hold."""
        self.signer = signer
        self.sessions = SessionTable()
        self.revocations = RevocationList()
        self._counters = Counters()
        kind = NativeForwarding if pump == "native" else PythonForwarding
        self.forwarding: Forwarding = kind(self.sessions, self._counters, capacity)
        self.draining = False
        self.serves: frozenset[NetworkID] | None = None  # the networks that this relay is for; None: all
        self._token_keys = tuple(token_keys)
        self._max_sessions = max_sessions
        self._idle_timeout = idle_timeout
        self._random = random_bytes
        self._secret = random_bytes(32)
        self._last_cookie_time = 0
        self._now = 0.0
        self._next_sweep = 0.0
        self._heard: float | None = None
        self._heard_since = 0.0
        self._wall_offset = 0.0
        self._answered: dict[object, float] = {}
        self._to_clients, self._to_strangers = AnswersOfSecond(), AnswersOfSecond()
        self._failures: dict[str, int] = {}
        self._failures_from = 0.0
        self._meter = TrafficMeter()
        self._settled = -math.inf
        self._proofs: dict[bytes, int] = {}  # within the same window, by token, or proven address, and host

    @property
    def counters(self) -> Counters:
        """Up to date, as are the sessions' counts."""
        self.forwarding.sync()
        return self._counters

    # the controller's word

    def set_token_keys(self, keys: Iterable[SigningPublicKey]) -> None:
        """The keys that sign tokens from now on. Sessions that stand go on until their token is stale."""
        self._token_keys = tuple(keys)

    @property
    def token_keys(self) -> tuple[SigningPublicKey, ...]:
        return self._token_keys

    def heard_controller(self, now: Now, wall: float | None = None) -> None:
        """The controller was heard just now; `wall` is its clock, if it told."""
        if not self.fresh(now):
            self._heard_since = now.boot
        self._heard = now.boot
        if wall is not None:
            self._wall_offset = wall - now.wall

    def fresh(self, now: Now) -> bool:
        """Whether the controller was heard within 60 s."""
        return self._heard is not None and now.boot - self._heard <= HEARD_SECONDS

    @property
    def wall_offset(self) -> float:
        """Seconds that the controller's clock is ahead of this one's."""
        return self._wall_offset

    def set_wall_offset(self, offset: float) -> None:
        """As kept from the last contact, until the next."""
        self._wall_offset = offset

    def revoke(self, entries: Iterable[Revocation], *, complete: bool = False) -> Out:
        """Takes revocations in (`complete`: they replace the known ones) and ends the sessions that they concern."""
        if complete:
            self.revocations.replace(entries)
        else:
            self.revocations.add(entries)
        gone = [s for s in self.sessions if self.revocations.revokes(s.token)]
        self._counters.revoked += len(gone)
        return [self._end(s, ByeReason.REVOKED) for s in gone]

    def set_draining(self, draining: bool) -> None:
        """Draining: no new sessions. Those that stand go on and may renew."""
        self.draining = draining

    def shutdown(self) -> Out:
        """Ends all sessions with a word to each, so that clients move at once."""
        return [self._end(s, ByeReason.DRAINING) for s in list(self.sessions)]

    # bytes

    def receive(self, source: Transport, data: bytes, now: Now) -> Out:
        """What to send on account of one datagram, or one frame of a stream."""
        self.begin(now)
        if data[:4] == FRAME_HEADER and len(data) >= MIN_FRAME:
            prefix = bytes(data[:PREFIX_SIZE])
            dest = self.route(prefix, source, 1, len(data))
            return [(dest.transport, data)] if dest is not None else self.refuse(prefix, source, 1, len(data))
        if not is_control(data):
            self.malformed()
            return []
        try:
            message = decode_control(data)
        except MalformedError:
            self.malformed()
            return []
        answer: bytes | None = None
        match message:
            case Hello():
                self._counters.hellos += 1
                answer = self._hello(source, message, now)
            case Proof():
                return self._proof(source, message, now)
            case Pong():
                return []  # ours to send
            case Ping():
                answer = self._ping(source, message, now)
            case Bye(network_id=network_id, ip=ip, session=number):
                session = self.sessions.by_key.get(network_id + ip.packed)
                if session is not None and hmac.compare_digest(session.number, number):
                    self._remove(session)
        # Nobody gets more than was sent: a forged source address must not make this relay an amplifier.
        return [(source, answer)] if answer is not None and len(answer) <= len(data) else []

    def malformed(self) -> None:
        """Counts a message that is none."""
        self._counters.malformed += 1

    def gone(self, transport: Transport) -> None:
        """A connection has closed: its sessions end."""
        for session in self.sessions.at(transport):
            self._remove(session)

    # frames

    def begin(self, now: Now) -> None:
        """The time of what follows; once per batch is enough."""
        self._now = now.boot
        self.forwarding.begin(now.boot)

    def route(self, prefix: bytes, source: Transport, frames: int, octets: int) -> ClientSession | None:
        """The session that `frames` frames with this prefix, `octets` bytes in all, go to; counted as forwarded.

        None if they may not pass: then `refuse` counts them and says what to answer.
        """
        return self.forwarding.route(prefix, source, frames, octets)

    def undelivered(self, dest: ClientSession, frames: int, octets: int) -> None:
        """What `route` counted as forwarded didn't get out: the receiver's queue or the socket was full."""
        self.forwarding.undelivered(dest, frames, octets)

    def refuse(self, prefix: bytes, source: Transport, frames: int, octets: int) -> Out:
        """Counts frames that `route` didn't let pass, and says what to answer; `octets` as given there."""
        session = self.sessions.by_key.get(prefix[4:40])
        if session is None or session.transport != source:
            if source in self.sessions.by_transport:
                self._counters.drop_foreign += frames
            else:
                self._counters.drop_no_session += frames
            if octets >= MIN_FRAME and self._may_answer((source, prefix[4:40]), source, self._to_strangers):
                return [(source, NoSession(NetworkID(prefix[4:36]), IPv4Address(prefix[36:40])).encode())]
            return []
        session.heard = self._now
        if prefix[4:36] + prefix[40:44] in self.sessions.by_key:
            self._counters.drop_quota += frames
            return []
        self._counters.drop_no_peer += frames
        if self._may_answer(prefix, source, self._to_clients):
            return [(source, NoPeer(session.network_id, IPv4Address(prefix[40:44]), session.number).encode())]
        return []

    def _may_answer(self, about: object, source: Transport, answers: AnswersOfSecond) -> bool:
        last = self._answered.get(about)
        if last is not None and self._now - last < ANSWER_INTERVAL:
            return False
        if not answers.one_more(_host(source), self._now):
            return False
        if len(self._answered) >= _BOUND:
            self._answered.clear()
        self._answered[about] = self._now
        return True

    # sessions

    def _cookie(self, time: int, source: Transport, echo: bytes, token: str) -> bytes:
        stamp = time.to_bytes(8, "big")
        where = _transport_bytes(source)
        message = stamp + echo + token_hash(token) + where
        return stamp + hmac.digest(self._secret, message, "sha256")[:16]

    def _hello(self, source: Transport, hello: Hello, now: Now) -> bytes:
        if hello.version != VERSION:
            return Refuse(hello.echo, Refusal.WRONG_VERSION).encode()
        # Strictly rising, so that cookies tell the order of attempts.
        self._last_cookie_time = max(self._last_cookie_time + 1, int(now.boot * 1_000_000))
        return Challenge(hello.echo, self._cookie(self._last_cookie_time, source, hello.echo, hello.token)).encode()

    def _proof(self, source: Transport, proof: Proof, now: Now) -> Out:
        host = source_of(_host(source))
        issued = int.from_bytes(proof.cookie[:8], "big")
        good = hmac.compare_digest(proof.cookie, self._cookie(issued, source, proof.echo, proof.token))
        if not good or now.boot - issued / 1_000_000 > COOKIE_LIFE:
            return [(source, self._refusal(proof, Refusal.BAD_COOKIE, 1))]
        lane = self._lane(proof.token)
        if (self._failing(host) and lane is None) or self._too_often(lane or token_hash(proof.token), host):
            return []
        try:
            token = self._admit(proof, now)
        except TokenError as e:
            if e.code is Refusal.BAD_SIGNATURE:  # the others cost a genuine token
                self._failures[host] = self._failures.get(host, 0) + 1
            return [(source, self._refusal(proof, e.code, 30 if e.code in (Refusal.FULL, Refusal.DRAINING) else 0))]
        except MalformedError:
            self._failures[host] = self._failures.get(host, 0) + 1
            return [(source, self._refusal(proof, Refusal.MALFORMED, 0))]
        return self._welcome(source, proof, token, now)

    def _refusal(self, proof: Proof, code: Refusal, retry_after: int) -> bytes:
        name = code.name.lower()
        self._counters.refused[name] = self._counters.refused.get(name, 0) + 1
        return Refuse(proof.echo, code, retry_after).encode()

    def _failing(self, host: str) -> bool:
        full = len(self._failures) >= _BOUND or len(self._proofs) >= _BOUND
        if self._now - self._failures_from > _FAILURE_WINDOW or full:
            self._failures.clear()
            self._proofs.clear()
            self._failures_from = self._now
        return self._failures.get(host, 0) >= _FAILURES_PER_WINDOW

    def _lane(self, token: str) -> bytes | None:
        """Of one that says to be who proved an address last: that address. It has attempts of its own, which no stranger
        behind the same router uses up. None of anyone else."""
        try:
            body = read_token(token)
        except MalformedError:
            return None
        key = body.network_id + body.ip.packed
        owner = self.sessions.owners.get(key)
        return key if owner is not None and owner.device_key == body.device_key else None

    def _too_often(self, whose: bytes, host: str) -> bool:
        """A genuine token must not make us check and sign as often as its holder likes.

        By host as well: others have seen the token, on the way or as relays, and must not use up its holder's proofs.
        """
        key = whose + host.encode()
        count = self._proofs[key] = self._proofs.get(key, 0) + 1
        return count > _PROOFS_PER_WINDOW

    def _admit(self, proof: Proof, now: Now) -> RelayTokenBody:
        """The token, if its holder may have a session now. Raises TokenError, MalformedError."""
        if proof.version != VERSION:
            raise TokenError(Refusal.WRONG_VERSION)
        wall = now.wall + self._wall_offset
        token = verify_token(proof.token, self._token_keys, wall)
        message = proof_message(self.signer.public, proof.echo, proof.cookie, proof.token)
        if not verify(token.device_key, Context.RELAY_PROOF, message, proof.signature):
            raise TokenError(Refusal.BAD_SIGNATURE)
        if self.revocations.revokes(token) or (self.serves is not None and token.network_id not in self.serves):
            raise TokenError(Refusal.REVOKED)
        if self._stale(token, now):
            raise TokenError(Refusal.STALE_TOKEN)
        key = token.network_id + token.ip.packed
        owner = self.sessions.owners.get(key)
        if owner is not None:
            if owner.device_key != token.device_key:
                if token.issued <= owner.issued:
                    raise TokenError(Refusal.SUPERSEDED)
            elif proof.cookie < owner.cookie:
                raise TokenError(Refusal.BAD_COOKIE)  # an older attempt: late, or replayed from where the client was
        if key not in self.sessions.by_key:
            if owner is not None and proof.cookie == owner.cookie:
                raise TokenError(Refusal.BAD_COOKIE)  # its session has ended since
            if self.draining:
                raise TokenError(Refusal.DRAINING)
            if len(self.sessions) >= self._max_sessions:
                raise TokenError(Refusal.FULL)
        return token

    def _stale(self, token: RelayTokenBody, now: Now) -> bool:
        demands = self.fresh(now) and now.boot - self._heard_since >= STALE_GRACE
        return demands and now.wall + self._wall_offset > token.renew_after + STALE_MARGIN

    def _welcome(self, source: Transport, proof: Proof, token: RelayTokenBody, now: Now) -> Out:
        out: Out = []
        key = token.network_id + token.ip.packed
        session = self.sessions.by_key.get(key)
        if session is None or session.cookie != proof.cookie:  # else the Welcome got lost: say it again
            old = session
            session = ClientSession(key, self._random(SESSION_SIZE), token, source, proof.cookie, now.boot)
            self.sessions.put(session)
            self.sessions.owners[key] = Owner(token.device_key, token.issued, token.valid_until, proof.cookie)
            self._counters.welcomed += 1
            same = old is not None and old.token.device_key == token.device_key
            if old is not None:
                self._settle(old)
                session.told = old.told if same else session.told
            self.forwarding.put(session, old if same else None)
            if old is not None and old.transport != session.transport:
                self._counters.replaced += 1
                out.append((old.transport, self._bye(old, ByeReason.REPLACED)))
        plain = Welcome(
            echo=proof.echo,
            session=session.number,
            network_id=token.network_id,
            ip=token.ip,
            flags=WelcomeFlags.FRESH if self.fresh(now) else WelcomeFlags.NONE,
            idle=int(self._idle_timeout),
            kbit=token.limits.kbit,
            observed=source.peer if isinstance(source, StreamAddr) else SockAddr(*source),
        )
        out.append((source, sign_welcome(plain, proof.cookie, self.signer).encode()))
        return out

    def _ping(self, source: Transport, ping: Ping, now: Now) -> bytes | None:
        session = self.sessions.by_key.get(ping.network_id + ping.ip.packed)
        if session is not None and session.transport == source:
            session.heard = now.boot
            return Pong(ping.network_id, ping.ip, ping.tx_id).encode()
        # A matter of its own, beside the frames': it is by this answer that the client knows.
        if self._may_answer((source, ping.network_id + ping.ip.packed, "ping"), source, self._to_strangers):
            return NoSession(ping.network_id, ping.ip, ping.tx_id).encode()
        return None

    def _bye(self, session: ClientSession, reason: ByeReason) -> bytes:
        return Bye(session.network_id, session.ip, session.number, reason).encode()

    def take_usage(self) -> dict[ClientID, tuple[int, int]]:
        """Inner bytes that each client sent and was sent through this relay since the last call."""
        self.forwarding.sync()
        for session in self.sessions:
            self._meter.count(session)
        return self._meter.take()

    def _settle(self, session: ClientSession) -> None:
        """Before its counts are gone; many that end at once cost one look at all of them a second."""
        if self._now - self._settled >= _SETTLE:
            self._settled = self._now
            self.forwarding.sync()
        self._meter.count(session)

    def _remove(self, session: ClientSession) -> None:
        self._settle(session)
        self.sessions.remove(session)
        self.forwarding.remove(session)

    def _end(self, session: ClientSession, reason: ByeReason) -> tuple[Transport, bytes]:
        self._remove(session)
        return session.transport, self._bye(session, reason)

    # time

    def next_deadline(self) -> float:
        """Boot time at which `tick` looks around next."""
        return self._next_sweep

    def tick(self, now: Now) -> Out:
        """Ends sessions that are silent, or whose token is stale or has run out."""
        if now.boot < self._next_sweep:
            return []
        wall = now.wall + self._wall_offset
        self.forwarding.sync()
        out: Out = []
        for session in list(self.sessions):
            reason: ByeReason | None = None
            if now.boot - session.heard > self._idle_timeout:
                reason = ByeReason.IDLE
            elif wall >= session.token.valid_until:
                reason = ByeReason.EXPIRED
            elif self._stale(session.token, now):
                reason = ByeReason.STALE_TOKEN
            if reason is not None:
                self._counters.expired += 1
                out.append(self._end(session, reason))
        self.revocations.forget(wall)
        self.sessions.forget_owners(wall)
        self._next_sweep = now.boot + SWEEP
        return out
