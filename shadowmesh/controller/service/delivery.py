"""Sends what sinks are to be sent, in order, until it is there: one node does, by a lease.

A receiver gets each message until it has said yes to it; then the number up to which it was sent is noted. A node that dies
between the two sends again: the same message with the same id. What can't be delivered is tried again after 1 s, 2 s,
… 5 min, and waits in the database for as long as that keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import structlog
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM, Principal
from shadowmesh.controller.outward.sysloglines import syslog_line
from shadowmesh.controller.outward.syslogsender import SyslogSender
from shadowmesh.controller.outward.webhookpost import Outcome, Poster, tls_for
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.service.sinks import Kind, Sinks, SinkStanding, destinations, open_target, standing_sinks
from shadowmesh.controller.service.sinkstreams import Item, newest, read_stream
from shadowmesh.controller.store import leases, schema
from shadowmesh.model.codec import to_json
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.receivers import SinkTested
from shadowmesh.serving.tasks import tell_failure

log = structlog.get_logger("shadowmesh.controller")

_LEASE = "delivery"
_MOST = 100  # items that are read at once
_MOST_LINES = 200_000  # bytes of lines in one request
_AT_ONCE = 32  # conversations
_NOTE_EVERY = 1.0  # seconds: so often it is written up to where a sink was sent
_IDLE_NOTE = 30.0  # where nothing of a stream was wanted
_SPREAD = (0.8, 1.2)  # of the time to the next attempt
_GIVE_UP = dt.timedelta(hours=24)  # a message that a receiver refuses for itself is left out after this


class _Sender(Protocol):
    async def send(self, items: Sequence[Item]) -> Outcome: ...
    async def close(self) -> None: ...


class _WebhookSender:
    def __init__(self, context: ServiceContext, found: SinkStanding) -> None:
        row, target = found.row, open_target(context, found.row)
        allowed = destinations(context.settings, anywhere=found.anywhere)
        self._poster = Poster(target.url, target.secret, tls_for(target.url, row.ca), allowed)
        self._context, self._id, self._stream = context, row.id, row.stream

    async def send(self, items: Sequence[Item]) -> Outcome:
        first, last = items[0], items[-1]
        if self._stream == "events":
            name, kind, data = f"{first.number}", first.kind, _event_data(first)
        else:
            name, kind, data = (
                f"{first.number}_{last.number}",
                self._stream,
                {"lines": [item.content for item in items]},
            )
        return await self.post(f"{name}_{int(first.at.timestamp())}", kind, last.at, data)

    async def post(self, name: str, kind: str, at: dt.datetime, data: dict[str, Any]) -> Outcome:
        message_id = f"msg_{self._id.partition('_')[2]}_{name}"
        body = to_json({"type": kind, "timestamp": at.isoformat().replace("+00:00", "Z"), "data": data})
        return await self._poster.post(message_id, int(self._context.now().timestamp()), body)

    async def close(self) -> None:
        await self._poster.close()


class _SyslogLines:
    def __init__(self, context: ServiceContext, found: SinkStanding) -> None:
        url = open_target(context, found.row).url
        self._sender = SyslogSender(url, tls_for(url, found.row.ca))
        self._host = urlsplit(context.settings.public_urls[0]).hostname or "-"
        self._stream = found.row.stream

    async def send(self, items: Sequence[Item]) -> Outcome:
        most = self._sender.most
        return await self._sender.send(
            [syslog_line(self._stream, self._host, i.kind, i.number, i.at, i.content, most) for i in items]
        )

    async def close(self) -> None:
        await self._sender.close()


def _event_data(item: Item) -> dict[str, Any]:
    """What the event says of itself, flat, beside where it happened."""
    of = dict(item.content)
    shared = {name: of[name] for name in ("seq", "network_id", "network", "client_id")}
    return dict(of["data"]) | shared


def _sender(context: ServiceContext, found: SinkStanding) -> _Sender:
    return _SyslogLines(context, found) if found.row.kind == "syslog" else _WebhookSender(context, found)


@dataclass(slots=True)
class Outlet:
    """A sink at work. `position`: all up to this number was sent; what is counted since it was last noted."""

    found: SinkStanding
    position: int
    sender: _Sender | None = None
    task: asyncio.Task[None] | None = None
    sent: int = 0
    dropped: int = 0
    noted_at: float = field(default_factory=time.monotonic)

    @property
    def row(self) -> Row[Any]:
        return self.found.row

    async def close(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.sender is not None:
            await self.sender.close()
            self.sender = None


class Delivery:
    def __init__(self, context: ServiceContext, events: Events) -> None:
        self._context = context
        self._holder = secrets.token_hex(8)
        self._outlets: dict[str, Outlet] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tests = Limiter(5, 10.0)
        self._last: dict[str, int] = {}
        self._leads_until: float | None = None  # by time.monotonic()
        self._task: asyncio.Task[None] | None = None
        events.listen(lambda _: self._wake.set())

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """What is being sent is broken off; another node, or this one when it is back, goes on there."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end()
        if self._leads_until is not None:
            await self._context.note(lambda conn: leases.release(conn, _LEASE, self._holder), "delivery was given up")

    def position(self, sink_id: str) -> int | None:
        outlet = self._outlets.get(sink_id)
        return None if outlet is None else outlet.position

    def standing(self) -> Iterator[tuple[Row[Any], int, int]]:
        """Of each sink that this node sends: its row, how many numbers it is behind, how many were dropped."""
        for outlet in self._outlets.values():
            waiting = max(0, self._last.get(outlet.row.stream, 0) - outlet.position)
            yield outlet.row, waiting, outlet.row.dropped + outlet.dropped

    async def test(self, sinks: Sinks, who: Principal, kind: Kind, sink_id: str) -> SinkTested:
        """Sends a message that says that it is a test, now, from this node."""
        found = await sinks.find_tested(who, kind, sink_id)
        now = self._context.now()
        self._tests.take(sink_id, now.timestamp())
        sender, began = _sender(self._context, found), time.monotonic()
        try:
            if isinstance(sender, _WebhookSender):
                data = {"by": who.name, "network": found.row.network_name}
                outcome = await sender.post(f"test_{secrets.token_hex(8)}", "webhook.test", now, data)
            else:
                outcome = await sender.send([Item(0, now, "test", {"by": who.name})])
        finally:
            await sender.close()
        took = (time.monotonic() - began) * 1000
        return SinkTested(ok=outcome.ok, answer=outcome.said, milliseconds=round(took, 1))

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._context.timing.deliver_every):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.turn()
            except Exception as e:
                tell_failure(self._context.rare, "delivery failed, and goes on", e, "")

    async def turn(self) -> None:
        """Looks at what there is to send, and begins with it."""
        # What is noted of these while it is read isn't in what is read.
        busy = {name for name, outlet in self._outlets.items() if outlet.task is not None and not outlet.task.done()}
        found, last = await self._context.read(lambda conn: (standing_sinks(conn), newest(conn)))
        if not found or not await self._leads():
            await self._end()
            return
        self._last, now = last, self._context.now()
        for gone in self._outlets.keys() - {standing.row.id for standing in found}:
            await self._outlets.pop(gone).close()
        for standing in found:
            outlet = self._outlets.get(standing.row.id)
            if outlet is not None and outlet.row.sealed != standing.row.sealed:  # it leads elsewhere since
                await self._outlets.pop(standing.row.id).close()
                outlet = None
            if outlet is None:
                outlet = self._outlets[standing.row.id] = Outlet(standing, standing.row.after)
            if not standing.may or outlet.found.anywhere != standing.anywhere:
                await outlet.close()  # in the midst of it, too: who lost their rights is sent nothing more
            if standing.row.id in busy or (outlet.task is not None and not outlet.task.done()):
                continue
            outlet.found = standing
            row = standing.row
            if not standing.may or row.gone or self._waits(row, now):
                continue
            if outlet.position != last[row.stream]:
                outlet.task = asyncio.get_running_loop().create_task(self._deliver(outlet))

    def _waits(self, row: Row[Any], now: dt.datetime) -> bool:
        """For the next attempt; not if that is further off than any was ever put: then the clock was set back."""
        longest = dt.timedelta(seconds=self._context.timing.retry_most * _SPREAD[1])
        return row.next_attempt is not None and now < row.next_attempt <= now + longest

    async def _leads(self) -> bool:
        """Whether this node is the one that sends."""
        context = self._context
        if not context.store.shared:
            return True
        now, lease = time.monotonic(), context.timing.delivery_lease
        if self._leads_until is not None and now < self._leads_until - lease * 0.6:
            return True
        until, lasts = now + lease, dt.timedelta(seconds=lease)
        try:
            leads = await context.write(lambda conn: leases.hold(conn, _LEASE, self._holder, lasts))
        except ShadowMeshError:
            leads = self._leads_until is not None and now < self._leads_until
            if not leads:
                await self._end()
            raise
        self._leads_until = until if leads else None
        return leads

    async def _end(self) -> None:
        for name in list(self._outlets):
            await self._outlets.pop(name).close()

    async def _deliver(self, outlet: Outlet) -> None:
        try:
            while await self._some(outlet):
                pass
        except Exception as e:
            tell_failure(self._context.rare, "a delivery failed, and goes on", e, outlet.row.id)

    async def _some(self, outlet: Outlet) -> bool:
        """Sends what one look finds. Whether there may be more at once."""
        start, wanted = outlet.position, outlet.found.wanted
        batch = await self._context.read(lambda conn: read_stream(conn, wanted, start, _MOST))
        if batch.lost:
            outlet.dropped += batch.lost
            outlet.position += batch.lost  # counted once
            log.error("was kept no longer than a receiver was away", sink=outlet.row.id, lost=batch.lost)
        if not batch.items:
            outlet.position = batch.upto
            if batch.lost or time.monotonic() - outlet.noted_at > _IDLE_NOTE:
                await self._note(outlet, None)
            return False
        if outlet.sender is None:
            outlet.sender = _sender(self._context, outlet.found)
        for group in _groups(outlet.row, batch.items):
            async with self._room:
                outcome = await outlet.sender.send(group)
            self._context.counts.deliveries.labels(outlet.row.kind, str(outcome.ok).lower()).inc()
            if outcome.ok:
                outlet.position = group[-1].number
                outlet.sent += len(group)
                if time.monotonic() - outlet.noted_at > _NOTE_EVERY and not await self._note(outlet, outcome):
                    return False
            else:
                anew = outlet.position > start + batch.lost  # what was sent before it was taken
                if not anew and outcome.refused and self._gives_up(outlet):
                    log.error("given up, as the receiver refuses it", sink=outlet.row.id, number=group[0].number)
                    outlet.position = group[-1].number
                    outlet.dropped += len(group)
                await self._note(outlet, outcome, anew=anew)
                return False
        outlet.position = batch.upto
        return await self._note(outlet, Outcome(True, "")) and len(batch.items) == _MOST

    def _gives_up(self, outlet: Outlet) -> bool:
        since = outlet.row.failing_since
        return since is not None and self._context.now() - since > _GIVE_UP

    async def _note(self, outlet: Outlet, outcome: Outcome | None, *, anew: bool = False) -> bool:
        """Writes up to where it was sent, and how it went (None: nothing was). False: it is another's, or gone.

        `anew`: what failed before has succeeded since.
        """
        context, row, s = self._context, outlet.row, schema.sinks
        now, sent, dropped = context.now(), outlet.sent, outlet.dropped
        values: dict[str, Any] = {
            "after": outlet.position, "delivered": s.c.delivered + sent, "dropped": s.c.dropped + dropped,
        }  # fmt: skip
        if outcome is not None and outcome.ok:
            values |= {
                "attempts": 0,
                "last_success": now,
                "last_error": None,
                "failing_since": None,
                "next_attempt": None,
            }
        elif outcome is not None:
            attempts, since = (0, None) if anew else (row.attempts, row.failing_since)
            wait = min(context.timing.retry_most, outcome.wait or context.timing.retry_first * 2.0 ** min(attempts, 30))
            values |= {
                "attempts": attempts + 1,
                "last_error": outcome.said,
                "failing_since": since or now,
                "next_attempt": now + dt.timedelta(seconds=wait * random.uniform(*_SPREAD)),  # noqa: S311
                "gone": outcome.gone,
            }
            if row.failing_since is None:
                log.warning("a receiver doesn't take what it is sent", sink=row.id, place=row.place, why=outcome.said)
        elif row.failing_since is not None:
            values |= {"attempts": 0, "failing_since": None, "next_attempt": None}

        def tx(conn: Connection) -> bool:
            mine = [leases.held(_LEASE, self._holder)] if context.store.shared else []
            this = (s.c.id == row.id, s.c.sealed == row.sealed)  # and not where it leads since
            written = conn.execute(s.update().where(*this, *mine).values(values)).rowcount == 1
            if written and values.get("gone"):
                record(
                    context,
                    conn,
                    SYSTEM,
                    f"{row.kind}.gone",
                    row.place,
                    id=row.id,
                    after={"answer": outcome.said if outcome else ""},
                )
            return written

        written = await context.write(tx)
        outlet.sent -= sent
        outlet.dropped -= dropped
        outlet.noted_at = time.monotonic()
        return written


def _groups(row: Row[Any], items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """What is sent at once: an event by itself, of lines as many as have room."""
    if row.kind == "webhook" and row.stream == "events":
        for item in items:
            yield (item,)
        return
    group: list[Item] = []
    size = 0
    for item in items:
        length = len(to_json(item.content))
        if group and size + length > _MOST_LINES:
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    yield group
