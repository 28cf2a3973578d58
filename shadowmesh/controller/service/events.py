"""What happened, for people who watch: numbered, kept for a while, so that a watcher who was away can catch up.

Watchers are told in the order of numbers, of what happened at other controllers on the database too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Permission, Principal, find_network, visible
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.store import counters, schema
from shadowmesh.model.api import Event, Page
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import NetworkRef

PAGE = 500
_GATHER = 0.05
_ABSENCE = dt.timedelta(minutes=10)
_RETRY = 1.0
_MOST_WAITING = 10_000  # while the database is away the oldest go

log = structlog.get_logger("shadowmesh.controller")

Listener = Callable[[Sequence[Event]], None]


class Events:
    """Gathers for a moment, stores what was gathered in one transaction, tells the listeners."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: list[dict[str, Any]] = []
        self._flush: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # of who tells
        self._told = 0  # the number of the newest event that listeners were told
        self._listeners: set[Listener] = set()

    async def start(self) -> None:
        """Nobody listens yet: there is nothing to tell of what happened before."""
        self._told = await self.newest()

    def publish(self, kind: str, ref: NetworkRef | None, **data: object) -> None:
        self._waiting.append({"at": self._core.now(), "type": kind, "network_ref": ref, "data": data})
        self._gather()

    def _gather(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._later())

    async def _later(self) -> None:
        wait = _GATHER
        while True:
            await asyncio.sleep(wait)
            try:
                await self.flush()
            except ShadowMeshError as e:  # the database is away: they are told when it is back
                log.error("events not stored yet", why=e.what)
                wait = _RETRY
            else:
                break
        self._flush = None
        if self._waiting:
            self._gather()

    async def flush(self) -> None:
        """Stores and tells what waits; when it returns, all that was published before it was called has been told."""
        async with self._turn:
            await self._store()

    async def _store(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            return

        def store(conn: Connection) -> int:
            first = counters.take(conn, counters.EVENTS, len(batch))
            conn.execute(schema.events.insert(), [row | {"seq": first + i} for i, row in enumerate(batch)])
            return first

        try:
            first = await self._core.write(store)
        except BaseException:
            self._waiting[:0] = batch
            del self._waiting[:-_MOST_WAITING]
            raise
        if first > self._told + 1:
            await self._tell_stored()  # another controller's come before
            return
        self._tell(
            [
                Event(seq=first + i, at=row["at"], type=row["type"], network_id=row["network_ref"], data=row["data"])
                for i, row in enumerate(batch)
            ]
        )

    async def catch_up(self) -> None:
        """Tells what other controllers have stored."""
        async with self._turn:
            await self._tell_stored()

    async def _tell_stored(self) -> None:
        full = True
        while full:
            page = await self._core.read(lambda conn: _load(conn, self._told, None, sa.true()))
            self._tell(page)
            full = len(page) == PAGE

    def _tell(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._told = events[-1].seq
        for listener in list(self._listeners):
            listener(events)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with each batch, until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def since(self, who: Principal, seq: int, ref: NetworkRef | None = None) -> list[Event]:
        """Up to PAGE events after `seq`, oldest first: for someone who watches and was away.

        Of networks whose logs `who` may not read those of the last minutes.
        """
        t = schema.events
        recent = t.c.at >= self._core.now() - _ABSENCE
        seen = sa.or_(_within(who, Permission.LOGS_VIEW), sa.and_(recent, _within(who, Permission.NETWORK_VIEW)))
        return await self._core.read(lambda conn: _load(conn, seq, ref, seen))

    async def log(self, who: Principal, seq: int, network: str | None = None) -> Page[Event]:
        """Up to PAGE events after `seq`, oldest first, of the networks whose logs `who` may read; `next` is where to go on."""

        def tx(conn: Connection) -> Page[Event]:
            ref = None if network is None else find_network(conn, who, network, Permission.LOGS_VIEW).ref
            after = min(seq, counters.newest(conn, counters.EVENTS))
            found = _load(conn, after, ref, _within(who, Permission.LOGS_VIEW))
            after = found[-1].seq if found else after
            return Page(items=found, next=str(after) if after else None)

        return await self._core.read(tx)

    async def newest(self) -> int:
        """The number of the newest event, 0 if there was none."""
        return await self._core.read(lambda conn: counters.newest(conn, counters.EVENTS))


def _within(who: Principal, needed: Permission) -> sa.ColumnElement[bool]:
    """A condition on `events`: those of networks in which `who` holds this permission, and those of relays."""
    if who.admin and needed in who.scopes:
        return sa.true()
    t, theirs = schema.events, sa.select(schema.networks.c.ref).where(visible(who, needed))
    return sa.or_(t.c.network_ref.in_(theirs), sa.and_(t.c.network_ref.is_(None), theirs.exists()))


def _load(conn: Connection, seq: int, ref: str | None, condition: sa.ColumnElement[bool]) -> list[Event]:
    t = schema.events
    query = sa.select(t).where(t.c.seq > seq, condition).order_by(t.c.seq).limit(PAGE)
    if ref is not None:
        query = query.where(sa.or_(t.c.network_ref == ref, t.c.network_ref.is_(None)))
    return [
        Event(seq=row.seq, at=row.at, type=row.type, network_id=row.network_ref, data=row.data)
        for row in conn.execute(query)
    ]
