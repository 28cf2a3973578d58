"""All services of one controller, and what it does by itself: due rotations, ends of epochs, tidying up."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service import epochs
from shadowmesh.controller.service.api_keys import ApiKeys
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.auditing import Audit
from shadowmesh.controller.service.clients import Clients
from shadowmesh.controller.service.configuration import note_settings
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.credentials import Credentials
from shadowmesh.controller.service.devices import Devices
from shadowmesh.controller.service.enrolment import Enrolment
from shadowmesh.controller.service.ephemeral import Ephemeral
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.following import Following
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.idempotency import ANSWER_LIFE
from shadowmesh.controller.service.inventory import Inventory
from shadowmesh.controller.service.invites import Invites
from shadowmesh.controller.service.mapcontent import announce_urls
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.members import Members
from shadowmesh.controller.service.networks import Networks
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.service.readiness import Readiness
from shadowmesh.controller.service.relays import Relays
from shadowmesh.controller.service.sessions import Sessions
from shadowmesh.controller.service.users import Users
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.service.witnesses import Witnesses
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump, living_network
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.relaylink import ALIVE_SECONDS, Alive
from shadowmesh.serving.tasks import for_each, repeat

log = structlog.get_logger("shadowmesh.controller")

_TIDY = 600.0
_SEEN_AT_ONCE = 500


@dataclass(slots=True)
class Services:
    """What the edge calls."""

    core: Core
    hub: Hub = field(default_factory=Hub)
    events: Events = field(init=False)
    presences: Presences = field(init=False)
    maps: Maps = field(init=False)
    networks: Networks = field(init=False)
    invites: Invites = field(init=False)
    clients: Clients = field(init=False)
    inventory: Inventory = field(init=False)
    ephemeral: Ephemeral = field(init=False)
    enrolment: Enrolment = field(init=False)
    devices: Devices = field(init=False)
    relays: Relays = field(init=False)
    sessions: Sessions = field(init=False)
    api_keys: ApiKeys = field(init=False)
    credentials: Credentials = field(init=False)
    users: Users = field(init=False)
    members: Members = field(init=False)
    witnesses: Witnesses = field(init=False)
    audit: Audit = field(init=False)
    readiness: Readiness = field(init=False)
    following: Following = field(init=False)
    watchers: Watchers = field(default_factory=Watchers)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        core, hub = self.core, self.hub
        self.events = Events(core)
        self.presences = Presences(hub, self.events, core.timing)
        self.maps = Maps(core, hub, self.presences)
        shared = (core, hub, self.maps, self.presences, self.events)
        self.networks = Networks(*shared)
        self.invites = Invites(core)
        self.clients = Clients(core, hub, self.maps, self.events)
        self.inventory = Inventory(core, hub, self.clients)
        self.ephemeral = Ephemeral(core, hub, self.clients)
        self.enrolment = Enrolment(*shared)
        self.witnesses = Witnesses(core, hub)
        self.devices = Devices(*shared, self.clients, self.witnesses)
        self.relays = Relays(core, hub, self.maps, self.events, self.enrolment.nonces)
        self.sessions = Sessions(core, self.watchers)
        self.api_keys = ApiKeys(core, self.watchers)
        self.credentials = Credentials(self.sessions, self.api_keys)
        self.users = Users(core, self.watchers)
        self.members = Members(core, self.watchers)
        self.following = Following(core, hub, self.maps, self.watchers)
        self.readiness = Readiness(core)
        self.audit = Audit(core, self.witnesses)

    async def start(self) -> None:
        await self.core.write(partial(announce_urls, self.core))
        await self.core.write(lambda conn: note_settings(self.core, conn))
        await self.following.start()
        await self.events.start()
        timing = self.core.timing
        for every, what in (
            (timing.follow, self.follow),
            (timing.housekeeping, self.keep_house),
            (timing.alive_every, self.ephemeral.note_alive),
            (timing.seen_every, self._note_seen),
            (timing.used_every, self.api_keys.note_used),
            (ALIVE_SECONDS, self._tell_alive),
            (timing.checkpoint, self.witnesses.tell),
            (_TIDY, self.tidy),
        ):
            self._tasks.append(asyncio.create_task(repeat(every, what)))

    async def stop(self) -> None:
        """Stops what runs by itself and notes who was here; links are the edge's to close."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.watchers.close()
        self.maps.close()
        self.sessions.close()
        self.presences.close()
        for note in (self._note_seen, self.api_keys.note_used, self.events.flush):
            try:
                await note()
            except ShadowMeshError as e:  # the database is away: the others are tried all the same
                log.error("not noted at the end", what=note.__qualname__, why=e.what)

    async def follow(self) -> None:
        """Ends what others, or the clock, have taken away."""
        self.watchers.expire(self.core.now())
        await self.relays.follow()
        if self.core.store.shared:
            await self.following.catch_up()
            await self.events.catch_up()

    async def keep_house(self) -> None:
        """What other controllers did; rotations that are due, epochs that may end, ephemeral clients that are gone."""
        now = self.core.now()
        if self.core.store.shared:
            await self.maps.catch_up()

        async def rotate(ref: NetworkRef) -> None:
            if await self.core.write(partial(self._rotate_due, ref=ref)):
                self.events.publish("network_changed", ref, change="key_rotated")
            await self.maps.refresh(ref)

        async def retire(ref: NetworkRef) -> None:
            if await self.core.write(partial(epochs.retire, self.core, ref=ref, now=now)):
                await self.maps.refresh(ref)

        due = await self.core.read(lambda conn: epochs.due(conn, now))
        await for_each(due, rotate, self.core.rare, "a network's due rotation failed")
        old = await self.core.read(epochs.with_old)
        await for_each(old, retire, self.core.rare, "ending a network's old epochs failed")
        await self.ephemeral.remove_idle()

    def _rotate_due(self, conn: Connection, ref: NetworkRef) -> bool:
        network = living_network(conn, ref, lock=True)
        if network is None or network.rotation_due is None:
            return False  # another controller was faster
        epoch = epochs.rotate(self.core, conn, ref, self.core.now())
        bump(conn, ref)
        more = {"before": {"epoch": epoch - 1}, "after": {"epoch": epoch}}
        record(self.core, conn, SYSTEM, "network.rotate-key", network.name, id=ref, **more)
        return True

    async def _note_seen(self) -> None:
        here = [(client, link.version) for link in self.hub.devices.values() for client in link.clients.values()]
        for start in range(0, len(here), _SEEN_AT_ONCE):
            await self.devices.seen(dict(here[start : start + _SEEN_AT_ONCE]))

    async def _tell_alive(self) -> None:
        self.hub.to_relays(Alive(wall=self.core.now().timestamp()))

    async def tidy(self) -> None:
        """Deletes what has run out."""
        now = self.core.now()
        oldest = now - dt.timedelta(seconds=self.core.timing.event_life)

        def tx(conn: Connection) -> None:
            conn.execute(schema.events.delete().where(schema.events.c.at < oldest))
            conn.execute(schema.answers.delete().where(schema.answers.c.at < now - ANSWER_LIFE))
            conn.execute(schema.refresh_tokens.delete().where(schema.refresh_tokens.c.expires_at < now))
            conn.execute(schema.revocations.delete().where(schema.revocations.c.until < now))
            announce_urls(self.core, conn)

        await self.core.write(tx)
