"""The nodes of a controller that has several on one database: which live, who is online at each, which is drained.

Each says each second (`Timing.node_beat`) that it lives; one that is silent for `node_silence` is dead, and who was online
there is no longer. Presence is written as it changes, numbered, and told by a notice; others read what is newer than what
they have. On SQLite there is one node, and nothing is written.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from shadowmesh import __version__
from shadowmesh.controller.authz import Principal, require_admin
from shadowmesh.controller.refusals import conflict, not_found
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import DeviceLink, Elsewhere, Hub
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.leases import database_now
from shadowmesh.controller.store.notices import Notice, tell
from shadowmesh.controller.store.upsert import upsert
from shadowmesh.model import api
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.serving.tasks import Turns

PRESENCE, NODES, ASK, ANSWER = "presence", "nodes", "ask", "answer"
_SERVICE_RESTART = 1012
_KEPT = 60.0  # seconds: that a client has gone is kept so long for nodes that read late

log = structlog.get_logger("shadowmesh.controller")


class LinkHolder(Protocol):
    """Who decides about the links of this node when another node has the same device."""

    async def asked(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to another node's `ask`."""

    def met(self, link: DeviceLink, there: Elsewhere) -> None:
        """The client on this link is connected to another node, too."""


@dataclass(slots=True)
class _Other:
    """What is known of another node."""

    read: int = 0  # the newest of its numbers that was read
    clients: set[ClientID] = field(default_factory=set)


class Nodes:
    def __init__(self, context: ServiceContext, hub: Hub, events: Events) -> None:
        self.id = context.store.node
        self.draining = False
        self._context = context
        self._hub = hub
        self._events = events
        self._presences: Presences
        self._links: LinkHolder
        self._started = context.now()
        self._others: dict[str, _Other] = {}
        self._registered = False
        self._number = 0
        self._unsaid: dict[ClientID, NetworkRef] = {}  # whose presence here the others don't know yet
        self._telling: asyncio.Task[None] | None = None
        self._turns = Turns(context.rare, "another controller can't be followed")
        self._giving_up: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._beating_since = float("inf")  # of the event loop's clock
        self._beat_at = 0.0

    def follow(self, presences: Presences, links: LinkHolder) -> None:
        """Whose changes are told here, and who holds the links."""
        self._presences, self._links = presences, links

    @property
    def _shared(self) -> bool:
        return self._context.store.shared

    # this node

    async def start(self) -> None:
        if self._shared:
            await self._context.write(self._register)
            self._registered = True
            await self.beat()

    def _register(self, conn: Connection) -> None:
        values = {
            "name": socket.gethostname()[:100],
            "urls": list(self._context.settings.public_urls),
            "version": __version__,
            "started_at": self._started,
            "seen_at": database_now(conn),
            "links": 0,
            "relays": {},
            "draining": self.draining,
        }
        conn.execute(schema.nodes.insert().values(id=self.id, **values))
        tell(conn, NODES)

    async def beat(self) -> None:
        """Says that this node lives, looks which others do, and buries the dead."""
        if not self._shared:
            return
        loop = asyncio.get_running_loop()
        rows, now = await self._context.store.write(self._beat, urgent=True)
        late = loop.time() - self._beat_at > 3 * self._context.timing.node_beat
        self._beat_at = loop.time()
        if late or not self._registered:  # the database was away, for others too: they get the time to say so
            self._beating_since = self._beat_at
        if not self._registered:
            await self._come_back()
            return
        silence = dt.timedelta(seconds=self._context.timing.node_silence)
        dead = {row.id: row for row in rows if row.id != self.id and now - row.seen_at > silence}
        living = [row for row in rows if row.id not in dead]
        if self._beat_at - self._beating_since > silence.total_seconds():
            for row in dead.values():
                await self._bury(row)
        self._look_at(living, {row.id for row in rows})

    def _beat(self, conn: Connection) -> tuple[list[Row[Any]], dt.datetime]:
        """All nodes, and the time by the database's clock."""
        n, now = schema.nodes, database_now(conn)
        relays = {
            relay_id: None if (load := link.load_view()) is None else load.model_dump(mode="json")
            for relay_id, link in self._hub.relays.items()
        }
        alive = {"seen_at": now, "links": len(self._hub.devices), "relays": relays}
        self._registered = conn.execute(n.update().where(n.c.id == self.id).values(alive)).rowcount == 1
        return [*conn.execute(sa.select(n))], now

    async def _come_back(self) -> None:
        """Others took this node for dead: it was cut off from the database for a while."""
        log.warning("other controllers took this one for dead; it is back")
        await self._context.store.write(self._register, urgent=True)
        self._registered = True
        for ref, clients in self._hub.networks.items():
            for client_id in clients:
                self.share(ref, client_id)
                self._events.publish("client_online", ref, client_id=client_id)

    def _look_at(self, living: Iterable[Row[Any]], there: set[str]) -> None:
        others = {row.id: row for row in living if row.id != self.id}
        mine = next((row for row in living if row.id == self.id), None)
        for node in [node for node in self._others if node not in there]:
            self._forget(node)
        for node in others:  # whether or not notices came: they may be lost
            self._others.setdefault(node, _Other())
            self._read_soon(node)
        self._hub.relays_elsewhere = {
            RelayID(relay_id): None if load is None else api.RelayLoad.model_validate(load)
            for row in others.values()
            for relay_id, load in row.relays.items()
        }
        if mine is not None and mine.draining != self.draining:
            self.draining = mine.draining
            log.info("this node gives up its links" if self.draining else "this node takes links again")
            if self.draining and self._giving_up is None:
                self._giving_up = self._spawn(self._give_up())

    async def _bury(self, row: Row[Any]) -> None:
        """Takes a node out that is dead; of those who were online there it is said once that they aren't."""
        n, p = schema.nodes, schema.node_presences

        def tx(conn: Connection) -> Sequence[Any] | None:
            clients = conn.execute(
                sa.select(p.c.client_id, p.c.network_ref).where(p.c.node_id == row.id, p.c.presence.is_not(None))
            ).all()
            dead = n.delete().where(n.c.id == row.id, n.c.seen_at == row.seen_at)
            if conn.execute(dead).rowcount == 0:
                return None  # another did it, or it lives after all
            tell(conn, NODES)
            return clients

        clients = await self._context.store.write(tx, urgent=True)
        if clients is None:
            return
        log.warning("a controller is gone", node=row.id, name=row.name, clients=len(clients))
        self._forget(row.id)
        for client in clients:
            ref, client_id = NetworkRef(client.network_ref), ClientID(client.client_id)
            if not self._hub.is_online(ref, client_id):
                self._events.publish("client_offline", ref, client_id=client_id)

    def _forget(self, node: str) -> None:
        other = self._others.pop(node, None)
        for client_id in other.clients if other is not None else ():
            self._presences.went_elsewhere(client_id, node)

    # telling

    def share(self, ref: NetworkRef, client_id: ClientID) -> None:
        """This client's presence here has changed."""
        if self._shared:
            self._unsaid[client_id] = ref
            if self._telling is None:
                self._telling = self._spawn(self._tell())

    async def _tell(self) -> None:
        try:
            while self._unsaid:
                await asyncio.sleep(self._context.timing.node_tell)
                unsaid, self._unsaid = self._unsaid, {}
                rows = [self._row(ref, client_id) for client_id, ref in unsaid.items()]
                try:
                    await self._context.write(partial(self._store, rows=rows))
                except (ShadowMeshError, sa.exc.SQLAlchemyError) as e:  # told again once the database is there
                    self._context.rare("who is online isn't told to other controllers yet", why=str(e))
                    self._unsaid = unsaid | self._unsaid
                    await asyncio.sleep(self._context.timing.node_beat)
        finally:
            self._telling = None

    def _row(self, ref: NetworkRef, client_id: ClientID) -> dict[str, Any]:
        presence, link = self._presences.here(ref, client_id), self._hub.link_of(ref, client_id)
        self._number += 1
        return {
            "node_id": self.id,
            "client_id": client_id,
            "network_ref": ref,
            "number": self._number,
            "boot_id": "" if link is None else link.boot_id,
            "since": self._context.now() if link is None else link.since,
            "presence": None if presence is None else to_json(presence).decode(),
        }

    def _store(self, conn: Connection, rows: list[dict[str, Any]]) -> None:
        upsert(conn, schema.node_presences, rows)
        tell(conn, PRESENCE, str(rows[-1]["number"]))

    async def tidy(self) -> None:
        """Forgets those who went long enough ago for all to have read it."""
        if not self._shared:
            return
        p, before = schema.node_presences, self._context.now() - dt.timedelta(seconds=_KEPT)
        gone = p.delete().where(p.c.node_id == self.id, p.c.presence.is_(None), p.c.since < before)
        await self._context.write(lambda conn: conn.execute(gone))

    # hearing

    def heard(self, notice: Notice) -> None:
        if notice.topic == PRESENCE:
            self._others.setdefault(notice.node, _Other())
            self._read_soon(notice.node)
        elif notice.topic == NODES:
            self._turns.run(NODES, self.beat)
        elif notice.topic == ASK:
            question = json.loads(notice.argument)
            self._turns.run(question.get("ask"), partial(self._answer, question))
        elif notice.topic == ANSWER:
            said = json.loads(notice.argument)
            future = self._asked.get(said.get("ask", ""))
            if future is not None and not future.done():
                future.set_result(said)

    def read_anew(self) -> None:
        """All that others have, and what they have no more: notices were missed."""
        for node, other in self._others.items():
            other.read = 0
            self._read_soon(node)

    def _read_soon(self, node: str) -> None:
        self._turns.run(node, partial(self._read, node))

    async def _read(self, node: str) -> None:
        other, p = self._others.get(node), schema.node_presences
        if other is None:
            return
        whole = other.read == 0
        query = sa.select(p).where(p.c.node_id == node, p.c.number > other.read).order_by(p.c.number)
        rows = await self._context.read(lambda conn: conn.execute(query).all())
        if self._others.get(node) is not other:
            return  # it died meanwhile
        there = {ClientID(row.client_id) for row in rows if row.presence is not None}
        gone = {ClientID(row.client_id) for row in rows if row.presence is None}
        for client_id in gone | (other.clients - there) if whole else gone:
            other.clients.discard(client_id)
            self._presences.went_elsewhere(client_id, node)
        for row in rows:
            other.read = max(other.read, row.number)
            if row.presence is not None:
                client_id = ClientID(row.client_id)
                other.clients.add(client_id)
                presence = from_json(row.presence.encode(), Presence)
                self.met(client_id, Elsewhere(node, NetworkRef(row.network_ref), presence, row.boot_id, row.since))

    def met(self, client_id: ClientID, there: Elsewhere) -> None:
        """Another node has this client."""
        link = self._hub.link_of(there.ref, client_id)
        if link is not None:
            self._links.met(link, there)
        self._presences.came_elsewhere(client_id, there)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # asking

    async def ask(self, node: str, patience: float, **question: Any) -> dict[str, Any] | None:
        """What that node answers to the question; None if it says nothing in time (seconds)."""
        ask = secrets.token_hex(8)
        future = self._asked[ask] = asyncio.get_running_loop().create_future()
        try:
            said = json.dumps(question | {"ask": ask, "of": node, "by": self.id})
            await self._context.write(lambda conn: tell(conn, ASK, said))
            return await asyncio.wait_for(future, patience)
        except TimeoutError:
            return None
        finally:
            del self._asked[ask]

    async def _answer(self, question: dict[str, Any]) -> None:
        if question.get("of") == self.id:
            said = json.dumps(await self._links.asked(question) | {"ask": question["ask"]})
            await self._context.write(lambda conn: tell(conn, ANSWER, said))

    # management

    async def living(self, who: Principal) -> list[api.ControllerNode]:
        """The nodes that live, this one first."""
        require_admin(who)
        if not self._shared:
            return [self._itself()]
        rows = await self._context.read(lambda conn: conn.execute(sa.select(schema.nodes)).all())
        return [_view(row, self.id) for row in sorted(rows, key=lambda row: (row.id != self.id, row.name, row.id))]

    def _itself(self) -> api.ControllerNode:
        return api.ControllerNode(
            node_id=self.id,
            name=socket.gethostname(),
            urls=list(self._context.settings.public_urls),
            version=__version__,
            started_at=self._started,
            last_seen=self._context.now(),
            links=len(self._hub.devices),
            relays=len(self._hub.relays),
            draining=False,
            here=True,
        )

    async def drain(self, who: Principal, name: str, *, draining: bool = True) -> api.ControllerNode:
        """The node's links move to the others, and it takes no new ones (or does so again).

        Raises ShadowMeshError: node_unknown, node_ambiguous, last_node.
        """
        require_admin(who)
        if not self._shared:
            if name not in (self.id, socket.gethostname()):
                raise _unknown(name)
            if draining:
                raise _last(name)
            return self._itself()
        n = schema.nodes

        def tx(conn: Connection) -> Row[Any]:
            rows = conn.execute(sa.select(n).with_for_update()).all()
            found = [row for row in rows if name in (row.id, row.name)]
            if not found:
                raise _unknown(name)
            if len(found) > 1:
                raise conflict("node_ambiguous", f"{len(found)} nodes are called {name[:80]!r}", "give its URL or id")
            (row,) = found
            if draining and not [r for r in rows if r.id != row.id and not r.draining]:
                raise _last(row.name)
            if row.draining != draining:
                conn.execute(n.update().where(n.c.id == row.id).values(draining=draining))
                action = "node.drain" if draining else "node.undrain"
                record(
                    self._context,
                    conn,
                    who,
                    action,
                    row.name,
                    id=row.id,
                    before={"draining": not draining},
                    after={"draining": draining},
                )
                tell(conn, NODES)
            return conn.execute(sa.select(n).where(n.c.id == row.id)).one()

        row = await self._context.write(tx)
        await self.beat()
        return _view(row, self.id)

    async def _give_up(self) -> None:
        """The links that are here, a few at a time, so that the others aren't stormed."""
        try:
            links = [
                *(link.close for link in self._hub.relays.values()),
                *(link.close for link in self._hub.devices.values()),
            ]
            for close in links:
                if not self.draining:
                    return
                close(_SERVICE_RESTART, "this node is drained")
                await asyncio.sleep(self._context.timing.drain / len(links))
        finally:
            self._giving_up = None

    async def close(self) -> None:
        """Ends what is under way. The node's row stays: others take it out as they do with one that died, by when its
        clients have gone to another node."""
        self._turns.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _view(row: Row[Any], here: str) -> api.ControllerNode:
    return api.ControllerNode(
        node_id=row.id,
        name=row.name,
        urls=row.urls,
        version=row.version,
        started_at=row.started_at,
        last_seen=row.seen_at,
        links=row.links,
        relays=len(row.relays),
        draining=row.draining,
        here=row.id == here,
    )


def _unknown(name: str) -> ShadowMeshError:
    return not_found("node_unknown", f"there is no node {name[:80]!r}", "`shadowmesh controller nodes` names them")


def _last(name: str) -> ShadowMeshError:
    return conflict("last_node", f"{name} is the only node that takes links", "start another, or undrain one, first")
