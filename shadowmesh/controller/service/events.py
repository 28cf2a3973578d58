"""What happened, for people who watch: numbered, kept for a while, so that a watcher who was away can catch up.

Watchers are told in the order of numbers, of what happened at other controllers on the database too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import Field
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Permission, Principal, find_network, overseen, visible
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.controllerlog import keep_in_log
from shadowmesh.controller.store import schema, sequences
from shadowmesh.controller.store.database import StorageInDoubt
from shadowmesh.model.api import Event, Page
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import NetworkRef

PAGE = 500
_GATHER = 0.05
_ABSENCE = dt.timedelta(minutes=10)
_RETRY = 1.0
_MOST_WAITING = 10_000  # while the database is away the oldest go

log = structlog.get_logger("shadowmesh.controller")

_OF_MACHINES = (
    "connection_upgrade"  # what a machine tells of its connections: for its user, and who sees others' machines
)

Listener = Callable[[Sequence["StoredEvent"]], None]


class StoredEvent(Event):
    """`owner`: the user whose machine told it, of an event that isn't for everybody who may view the network; not shown."""

    owner: str | None = Field(default=None, exclude=True)

    def is_for(self, who: Principal, overseen: Collection[str] | None) -> bool:
        """Among those of networks that `who` may view. `overseen`: where they see what others' machines did; None: everywhere."""
        if self.type != _OF_MACHINES or overseen is None or self.network_id in overseen:
            return True
        return self.owner is not None and self.owner == who.user_id


class Events:
    """Gathers for a moment, stores what was gathered in one transaction, tells the listeners."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._waiting: list[dict[str, Any]] = []
        self._in_doubt = False  # some of what waits may be stored
        self._flush: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # of who tells
        self._told = 0  # the number of the newest event that listeners were told
        self._listeners: set[Listener] = set()

    async def start(self) -> None:
        """Nobody listens yet: there is nothing to tell of what happened before."""
        self._told = await self.newest()

    @property
    def waiting(self) -> int:
        """Events that aren't stored yet."""
        return len(self._waiting)

    def publish(self, kind: str, ref: NetworkRef | None, **data: object) -> None:
        """`owner_id` among the data: the user whose machine told it; who doesn't see others' machines isn't told of these."""
        self._waiting.append({"at": self._context.now(), "type": kind, "network_ref": ref, "data": data})
        del self._waiting[:-_MOST_WAITING]
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
        doubtful = self._in_doubt

        def store(conn: Connection) -> int | None:
            """The first one's number; None: some were stored already."""
            rows = _not_stored(conn, batch) if doubtful else batch
            if rows:
                first = sequences.take(conn, sequences.EVENTS, len(rows))
                conn.execute(schema.events.insert(), [row | {"seq": first + i} for i, row in enumerate(rows)])
                keep_in_log(conn, rows)
            return first if len(rows) == len(batch) else None

        try:
            first = await self._context.write(store)
        except BaseException as e:
            self._in_doubt = self._in_doubt or isinstance(e, StorageInDoubt)
            self._waiting[:0] = batch
            del self._waiting[:-_MOST_WAITING]
            raise
        self._in_doubt = False
        if first is None or first > self._told + 1:
            await self._tell_stored()  # another controller's come before
            return
        self._tell([stored_event(row | {"seq": first + i}) for i, row in enumerate(batch)])

    async def catch_up(self) -> None:
        """Tells what other controllers have stored."""
        async with self._turn:
            await self._tell_stored()

    async def _tell_stored(self) -> None:
        full = True
        while full:
            page = await self._context.read(lambda conn: _load(conn, self._told, None, sa.true()))
            self._tell(page)
            full = len(page) == PAGE

    def _tell(self, events: Sequence[StoredEvent]) -> None:
        if not events:
            return
        self._told = events[-1].seq
        for listener in list(self._listeners):
            listener(events)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with each batch, until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def since(self, who: Principal, seq: int, ref: NetworkRef | None = None) -> list[StoredEvent]:
        """Up to PAGE events after `seq`, oldest first: for someone who watches and was away.

        Of networks whose logs `who` may not read those of the last minutes.
        """
        t = schema.events
        recent = t.c.at >= self._context.now() - _ABSENCE

        def tx(conn: Connection) -> list[StoredEvent]:
            logs, view = (_within(conn, who, p) for p in (Permission.LOGS_VIEW, Permission.NETWORK_VIEW))
            return _load(conn, seq, ref, sa.and_(sa.or_(logs, sa.and_(recent, view)), _for(conn, who)))

        return await self._context.read(tx)

    async def log(self, who: Principal, seq: int, network: str | None = None) -> Page[Event]:
        """Up to PAGE events after `seq`, oldest first, of the networks whose logs `who` may read; `next` is where to go on."""

        def tx(conn: Connection) -> Page[Event]:
            ref = None if network is None else find_network(conn, who, network, Permission.LOGS_VIEW).ref
            after = min(seq, sequences.newest(conn, sequences.EVENTS))
            mine = sa.and_(_within(conn, who, Permission.LOGS_VIEW), _for(conn, who))
            found = _load(conn, after, ref, mine)
            after = found[-1].seq if found else after
            return Page[Event](items=list(found), next=str(after) if after else None)

        return await self._context.read(tx)

    async def newest(self) -> int:
        """The number of the newest event, 0 if there was none."""
        return await self._context.read(lambda conn: sequences.newest(conn, sequences.EVENTS))


def _within(conn: Connection, who: Principal, needed: Permission) -> sa.ColumnElement[bool]:
    """A condition on `events`: those of networks in which `who` holds this permission, and those of relays."""
    if who.everywhere and needed in who.scopes:
        return sa.true()
    t, theirs = schema.events, sa.select(schema.networks.c.ref).where(visible(conn, who, needed))
    return sa.or_(t.c.network_ref.in_(theirs), sa.and_(t.c.network_ref.is_(None), theirs.exists()))


def _for(conn: Connection, who: Principal) -> sa.ColumnElement[bool]:
    """A condition on `events`: `StoredEvent.is_for`."""
    t, n = schema.events, schema.networks
    theirs = sa.select(n.c.ref).where(overseen(conn, who))
    return sa.or_(
        t.c.type != _OF_MACHINES, t.c.network_ref.in_(theirs), t.c.data["owner_id"].as_string() == (who.user_id or "")
    )


def _not_stored(conn: Connection, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the batch that aren't there. They are told apart by when they happened, and what."""
    t = schema.events
    recent = sa.select(t.c.at, t.c.type, t.c.network_ref).where(t.c.at >= min(row["at"] for row in batch))
    there = {tuple(row) for row in conn.execute(recent)}
    return [row for row in batch if (row["at"], row["type"], row["network_ref"]) not in there]


def _load(conn: Connection, seq: int, ref: str | None, condition: sa.ColumnElement[bool]) -> list[StoredEvent]:
    t = schema.events
    query = sa.select(t).where(t.c.seq > seq, condition).order_by(t.c.seq).limit(PAGE)
    if ref is not None:
        query = query.where(sa.or_(t.c.network_ref == ref, t.c.network_ref.is_(None)))
    return [stored_event(dict(row._mapping)) for row in conn.execute(query)]


def stored_event(row: Mapping[str, Any]) -> StoredEvent:
    """What is stored, as it is told."""
    data = dict(row["data"])
    client, owner = data.pop("client_id", None), data.pop("owner_id", None)
    return StoredEvent(
        seq=row["seq"],
        at=row["at"],
        type=row["type"],
        network_id=row["network_ref"],
        client_id=client,
        data=data,
        owner=owner,
    )
