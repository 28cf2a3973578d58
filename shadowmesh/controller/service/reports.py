"""What devices report of their connections: the newest of each client and pair, a log of what changed, bytes by the hour.

A report is its sender's own word: it counts for its own client alone, names members of its network only, and is bounded in
size and number. What a network doesn't want (`MapHead.reports`) is dropped. What comes within a moment is written
together; the database is all that is kept, so that each node of a controller says the same.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.service.livemap import LiveMap
from shadowmesh.controller.service.usagesums import Reached, add_usage
from shadowmesh.controller.store import schema, sequences
from shadowmesh.controller.store.database import StorageInDoubt
from shadowmesh.controller.store.upsert import upsert
from shadowmesh.model.devicelink import Health, PeerHealth
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.reasons import connection_type

MOST_BYTES = 2**44  # of a pair in one report
REPORT_EVERY = 30.0  # seconds between two reports of a device that has news
RATE_LIFE = dt.timedelta(seconds=75)  # of a rate: who sends on says so sooner
MOST_AGO = dt.timedelta(days=2)  # at which a change may be stored: it is told a day later at most
_RETRY = 1.0
_MOST_WAITING = 20_000  # rows of a kind, while the database is away
_NAT_TYPES = ("none", "full_cone", "restricted", "port_restricted", "symmetric", "udp_blocked", "unknown")

log = structlog.get_logger("shadowmesh.controller")

K = TypeVar("K")
_Bytes = tuple[int, int]
ClientConnection = Literal["p2p", "relay", "hybrid"]


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How a client is, as far as it is known. `connection_type`: over all its peers in use."""

    nat_type: str | None = None
    capabilities: tuple[str, ...] = ()
    connection_type: ClientConnection | None = None
    latency_ms: float | None = None  # the median
    rx_rate: float | None = None  # bytes per second
    tx_rate: float | None = None


NOTHING_KNOWN = ClientHealth()


@dataclass(slots=True)
class _Batch:
    """What waits to be written."""

    healths: dict[str, dict[str, Any]] = field(default_factory=dict)  # by client
    pairs: dict[tuple[str, str], dict[str, Any] | None] = field(default_factory=dict)  # None: not in use any more
    over: dict[str, dt.datetime] = field(default_factory=dict)  # what a client said before that isn't so any more
    away: dict[str, dt.datetime] = field(default_factory=dict)  # nor is it in use at all
    changes: list[dict[str, Any]] = field(default_factory=list)
    traffic: dict[tuple[str, str, dt.datetime], _Bytes] = field(default_factory=dict)  # got, sent
    direct: dict[str, _Bytes] = field(default_factory=dict)  # by client: what it got, and what others got of it

    def __bool__(self) -> bool:
        return any((self.healths, self.pairs, self.over, self.away, self.changes, self.traffic))

    def forget_what_adds_up(self) -> None:
        """It may be stored: better not at all than twice. The rest is stored again as it is."""
        self.changes, self.traffic, self.direct = [], {}, {}

    def extend(self, later: _Batch) -> None:
        """As far as there is room: what is newer counts, but for what happened, of which the oldest goes."""
        self.healths |= later.healths
        self.pairs |= later.pairs
        self.over |= later.over
        self.away |= later.away
        self.changes = (self.changes + later.changes)[-_MOST_WAITING:]
        for key, (got, sent) in later.traffic.items():
            _add(self.traffic, key, got, sent)
        for client_id, (got, sent) in later.direct.items():
            _add(self.direct, client_id, got, sent)
        for table in (self.healths, self.pairs, self.over, self.away, self.traffic, self.direct):
            _shorten(table)


def _add(table: dict[K, _Bytes], key: K, got: int, sent: int) -> None:
    before = table.get(key)
    table[key] = (got, sent) if before is None else (before[0] + got, before[1] + sent)


def _shorten(table: dict[Any, Any]) -> None:
    for key in list(table)[: max(0, len(table) - _MOST_WAITING)]:
        del table[key]


class Reports:
    """`take` and `went` are called for the links of this node."""

    def __init__(self, context: ServiceContext, events: Events) -> None:
        self._context = context
        self._events = events
        self._allowed = Limiter(4, 15.0)  # reports of one client
        self._changes = Limiter(200, 5.0)  # changes of one client's pairs
        self._here: dict[ClientID, tuple[dt.datetime, ClientConnection | None, str]] = {}  # last report, type, NAT type
        self._waiting = _Batch()
        self._turn = asyncio.Lock()  # of who writes
        self._flush: asyncio.Task[None] | None = None
        self.tell_reached: Callable[[Sequence[Reached]], Awaitable[None]] = _nobody

    # what comes in

    def take(self, live: LiveMap, client_id: ClientID, health: Health) -> None:
        """A report of this client of the network."""
        now, wanted = self._context.now(), live.map.head.reports
        if wanted not in ("health", "full") or not self._allowed.allows(client_id, now.timestamp()):
            return
        kind, before = _over_all(health), self._here.get(client_id)
        rx_rate, tx_rate = _rates(health, None if before is None else (now - before[0]).total_seconds())
        self._here[client_id] = now, kind, health.nat if health.nat in _NAT_TYPES else "unknown"
        batch = self._waiting
        batch.healths[client_id] = {
            "client_id": client_id,
            "nat_type": health.nat,
            "capabilities": list(health.capabilities),
            "connection_type": kind,
            "latency_ms": health.latency_ms,
            "rx_rate": rx_rate if wanted == "full" else None,
            "tx_rate": tx_rate if wanted == "full" else None,
            "at": now,
        }
        if health.whole:
            batch.over[client_id] = now
        relays = {relay.name: relay.relay_id for relay in live.map.head.relays}
        hour = now.replace(minute=0, second=0, microsecond=0)
        for peer in {p.peer: p for p in health.peers if p.peer in live.map.entries and p.peer != client_id}.values():
            in_use = connection_type(peer.now) is not None
            batch.pairs[client_id, peer.peer] = _pair(client_id, peer, relays, now) if in_use else None
            if wanted == "full" and (peer.rx_bytes or peer.tx_bytes):
                got, sent = min(peer.rx_bytes, MOST_BYTES), min(peer.tx_bytes, MOST_BYTES)
                _add(batch.traffic, (client_id, peer.peer, hour), got, sent)
                if _was_direct(peer):  # relayed bytes are the relays' to count; what was both is nobody's
                    _add(batch.direct, client_id, got, 0)
                    _add(batch.direct, peer.peer, 0, got)
            if peer.changes:
                batch.changes += [
                    change | {"network_ref": live.ref}
                    for change in _changes(client_id, peer, now)
                    if self._changes.allows(client_id, now.timestamp())
                ]
        self._soon()

    def went(self, client_id: ClientID) -> None:
        """Its device is connected here no more: what it said isn't so any more, unless it has said more elsewhere."""
        last, _, _ = self._here.pop(client_id, (None, None, ""))
        if last is not None:
            before = last + dt.timedelta(microseconds=1)
            self._waiting.over[client_id] = self._waiting.away[client_id] = before
            self._soon()

    # writing

    def _soon(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._later())

    async def _later(self) -> None:
        wait = self._context.timing.report_gather
        while self._waiting:
            await asyncio.sleep(wait)
            try:
                await self.flush()
            except ShadowMeshError as e:  # the database is away
                self._context.rare("reports of devices not stored yet", why=e.what)
                wait = _RETRY
            else:
                wait = self._context.timing.report_gather
        self._flush = None

    async def flush(self) -> None:
        """Stores what waits; then tells of it."""
        async with self._turn:
            await self._store()

    async def _store(self) -> None:
        batch, self._waiting = self._waiting, _Batch()
        try:
            found, owners = await self._context.write(lambda conn: _write(conn, batch, self._context.now()))
        except BaseException as e:
            if isinstance(e, StorageInDoubt):
                batch.forget_what_adds_up()
            batch.extend(self._waiting)
            self._waiting = batch
            raise
        if found:
            await self.tell_reached(found)
        for change in batch.changes:
            if change["event_type"] == "upgrade_p2p":
                self._events.publish(
                    "connection_upgrade",
                    NetworkRef(change["network_ref"]),
                    client_id=change["client_id"],
                    peer_id=change["remote_peer_id"],
                    reason=change["reason"],
                    owner_id=owners.get(change["client_id"]),
                )

    async def close(self) -> None:
        """Stores what waits, if it can be."""
        async with self._turn:
            if self._flush is not None:
                self._flush.cancel()
            await self._store()

    # what is known

    @property
    def waiting(self) -> int:
        """Rows that aren't stored yet."""
        batch = self._waiting
        return len(batch.healths) + len(batch.pairs) + len(batch.changes) + len(batch.traffic)

    def count(self) -> tuple[Counter[str], Counter[str]]:
        """Clients that have reported to this node, by connection type and by NAT type."""
        return (
            Counter(kind or "none" for _, kind, _ in self._here.values()),
            Counter(nat for _, _, nat in self._here.values()),
        )

    def of(self, conn: Connection, clients: Collection[str]) -> Mapping[str, ClientHealth]:
        """How these clients are. One that has been silent for long is in use by nobody, as far as is known."""
        h = schema.health
        fresh, moving = self.fresh(), self._context.now() - RATE_LIFE
        return {
            row.client_id: ClientHealth(
                nat_type=row.nat_type or None,
                capabilities=tuple(row.capabilities),
                connection_type=row.connection_type if row.at >= fresh else None,
                latency_ms=row.latency_ms if row.at >= fresh else None,
                # who says nothing has nothing to say: no bytes
                rx_rate=_still(row.rx_rate, row.at >= moving) if row.at >= fresh else None,
                tx_rate=_still(row.tx_rate, row.at >= moving) if row.at >= fresh else None,
            )
            for row in conn.execute(sa.select(h).where(h.c.client_id.in_(clients)))
        }

    def fresh(self) -> dt.datetime:
        """What a client said at this time or later counts still."""
        return self._context.now() - dt.timedelta(seconds=self._context.timing.report_life)


def forget_reports(conn: Connection, ref: str) -> None:
    """The network wants none, or is no more. What is in the log stays for its time."""
    c = schema.clients
    theirs = sa.select(c.c.id).where(c.c.network_ref == ref)
    for table in (schema.pairs, schema.health):
        conn.execute(table.delete().where(table.c.client_id.in_(theirs)))


async def _nobody(_: Sequence[Reached]) -> None:
    """Until somebody wants to know of quotas."""


def _over_all(health: Health) -> ClientConnection | None:
    if health.direct and health.relayed:
        return "hybrid"
    if health.direct:
        return "p2p"
    return "relay" if health.relayed else None


def _rates(health: Health, since: float | None) -> tuple[float | None, float | None]:
    """Bytes per second, as this report has them, `since` seconds after the one before; None: there was none, as bytes of any
    time may be in it. A device with bytes to tell of tells each half minute: what it counted since is of that time."""
    if since is None or since < 1.0 or health.whole:
        return None, None
    seconds = min(since, REPORT_EVERY)
    rx, tx = (sum(min(n, MOST_BYTES) for n in counted) for counted in zip(*_counted(health), strict=True))
    return rx / seconds, tx / seconds


def _counted(health: Health) -> list[tuple[int, int]]:
    return [(0, 0), *((p.rx_bytes, p.tx_bytes) for p in health.peers)]


def _still(rate: float | None, moving: bool) -> float | None:
    return rate if moving or rate is None else 0.0


def _pair(client_id: ClientID, peer: PeerHealth, relays: Mapping[str, str], now: dt.datetime) -> dict[str, Any]:
    ago = peer.changes[-1].ago if peer.changes else 0
    return {
        "client_id": client_id,
        "peer_id": peer.peer,
        "reason": peer.now,
        "relay_id": relays.get(peer.relay),
        "latency_ms": peer.latency_ms,
        "since": now - dt.timedelta(seconds=ago),
        "at": now,
    }


def _changes(client_id: ClientID, peer: PeerHealth, now: dt.datetime) -> list[dict[str, Any]]:
    """The rows of the log: only of what concerns a way in use."""
    rows, before = [], peer.reason
    for change in peer.changes:
        kind = _event_type(before, change.reason)
        if kind is not None:
            rows.append(
                {
                    "client_id": client_id,
                    "remote_peer_id": peer.peer,
                    "event_type": kind,
                    "connection_type": connection_type(change.reason),
                    "reason": change.reason,
                    "latency_ms": peer.latency_ms if change is peer.changes[-1] else None,
                    "timestamp": now - dt.timedelta(seconds=change.ago),
                }
            )
        before = change.reason
    return rows


def _event_type(before: str, after: str) -> str | None:
    was, now = connection_type(before), connection_type(after)
    if before == after or was is now is None:
        return None
    if was is None:
        return "connect"
    if now is None:
        return "disconnect"
    if was == now:
        return "reason"
    return "upgrade_p2p" if now == "p2p" else "fallback_relay"


def _was_direct(peer: PeerHealth) -> bool:
    """All the time of which the report tells."""
    return all(connection_type(reason) == "p2p" for reason in (peer.reason, *(c.reason for c in peer.changes)))


def _write(conn: Connection, batch: _Batch, now: dt.datetime) -> tuple[list[Reached], Mapping[str, str]]:
    """Also whose the clients are that became direct, as far as they are somebody's."""
    pairs, health = schema.pairs, schema.health
    upsert(conn, health, list(batch.healths.values()))
    upsert(conn, pairs, [row for row in batch.pairs.values() if row is not None], kept={"since": "reason"})
    ended = [{"client": c, "peer": p} for (c, p), row in batch.pairs.items() if row is None]
    one = sa.and_(pairs.c.client_id == sa.bindparam("client"), pairs.c.peer_id == sa.bindparam("peer"))
    if ended:
        conn.execute(pairs.delete().where(one), ended)
    if batch.over:
        older = sa.and_(pairs.c.client_id == sa.bindparam("client"), pairs.c.at < sa.bindparam("before"))
        conn.execute(pairs.delete().where(older), [{"client": c, "before": at} for c, at in batch.over.items()])
    if batch.away:
        older = sa.and_(health.c.client_id == sa.bindparam("client"), health.c.at < sa.bindparam("before"))
        nothing = health.update().where(older).values(connection_type=None, latency_ms=None, rx_rate=None, tx_rate=None)
        conn.execute(nothing, [{"client": c, "before": at} for c, at in batch.away.items()])
    if batch.changes:
        first = sequences.take(conn, sequences.CONNECTION_LOGS, len(batch.changes))
        rows = [row | {"log_id": first + i} for i, row in enumerate(batch.changes)]
        conn.execute(schema.connection_logs.insert(), rows)
    sums = [
        {"client_id": client, "peer_id": peer, "hour": hour, "rx_bytes": got, "tx_bytes": sent}
        for (client, peer, hour), (got, sent) in batch.traffic.items()
    ]
    upsert(conn, schema.traffic, sums, added=("rx_bytes", "tx_bytes"))
    direct = {c: {"direct_received": got, "direct_sent": sent} for c, (got, sent) in batch.direct.items()}
    return (add_usage(conn, now, direct, now) if direct else []), _owners_of_upgraded(conn, batch)


def _owners_of_upgraded(conn: Connection, batch: _Batch) -> Mapping[str, str]:
    upgraded = sorted({row["client_id"] for row in batch.changes if row["event_type"] == "upgrade_p2p"})
    c = schema.clients
    query = sa.select(c.c.id, c.c.owner_id).where(c.c.id.in_(upgraded), c.c.owner_id.is_not(None))
    return {row.id: row.owner_id for row in conn.execute(query)} if upgraded else {}
