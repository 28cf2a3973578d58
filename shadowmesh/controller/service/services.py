"""All services of one controller, and what it does by itself: due rotations, ends of epochs, tidying up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.outward.redisbuckets import LOOK
from shadowmesh.controller.service import epochs
from shadowmesh.controller.service.accessexplained import AccessExplanations
from shadowmesh.controller.service.api_keys import ApiKeys
from shadowmesh.controller.service.applying import Applying
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.auditing import Audit
from shadowmesh.controller.service.authenticators import LocalPasswords
from shadowmesh.controller.service.clients import Clients
from shadowmesh.controller.service.configuration import note_settings
from shadowmesh.controller.service.connectionviews import ConnectionViews
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.credentials import Credentials
from shadowmesh.controller.service.delivery import Delivery
from shadowmesh.controller.service.devices import Devices
from shadowmesh.controller.service.enrolment import Enrolment
from shadowmesh.controller.service.ephemeral import Ephemeral
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.following import Following
from shadowmesh.controller.service.groups import Groups
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.idempotency import ANSWER_LIFE
from shadowmesh.controller.service.inventory import Inventory
from shadowmesh.controller.service.invites import Invites
from shadowmesh.controller.service.limits import LIMITS
from shadowmesh.controller.service.mapcontent import announce_urls, set_maps
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.members import Members
from shadowmesh.controller.service.networks import Networks
from shadowmesh.controller.service.newcomers import InviteGuesses
from shadowmesh.controller.service.nodes import Nodes
from shadowmesh.controller.service.onetimecodes import OneTimeCodes
from shadowmesh.controller.service.peers import Peers
from shadowmesh.controller.service.plainwireguard import PlainWireGuard
from shadowmesh.controller.service.policydocuments import PolicyDocuments
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.service.readiness import Readiness
from shadowmesh.controller.service.registration import Registration
from shadowmesh.controller.service.relays import RELAYS, Relays
from shadowmesh.controller.service.reports import Reports
from shadowmesh.controller.service.retention import forget_old
from shadowmesh.controller.service.second_factors import SecondFactors
from shadowmesh.controller.service.sessions import Sessions
from shadowmesh.controller.service.signing_in import SigningIn
from shadowmesh.controller.service.signing_up import SigningUp
from shadowmesh.controller.service.signinpolicy import SignInPolicy
from shadowmesh.controller.service.sinks import Sinks, forget_of_deleted
from shadowmesh.controller.service.templating import Templates
from shadowmesh.controller.service.usagebook import UsageBook
from shadowmesh.controller.service.user_deletion import UserDeletion
from shadowmesh.controller.service.user_import import UserImport
from shadowmesh.controller.service.user_invitations import UserInvitations
from shadowmesh.controller.service.users import Users
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.service.witnesses import Witnesses
from shadowmesh.controller.store import schema, sequences
from shadowmesh.controller.store.networks import MAP, MAPS, bump, living_network
from shadowmesh.controller.store.notices import LONGEST, Notice, Notices, tell
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.relaylink import ALIVE_SECONDS, Alive
from shadowmesh.serving.tasks import Turns, for_each, repeat

log = structlog.get_logger("shadowmesh.controller")

_TIDY = 600.0
_NODES_TIDY = 60.0
_SEEN_AT_ONCE = 500


@dataclass(slots=True)
class Services:
    """What the edge calls."""

    context: ServiceContext
    hub: Hub = field(default_factory=Hub)
    events: Events = field(init=False)
    reports: Reports = field(init=False)
    presences: Presences = field(init=False)
    maps: Maps = field(init=False)
    nodes: Nodes = field(init=False)
    networks: Networks = field(init=False)
    templates: Templates = field(init=False)
    invites: Invites = field(init=False)
    clients: Clients = field(init=False)
    connections: ConnectionViews = field(init=False)
    inventory: Inventory = field(init=False)
    ephemeral: Ephemeral = field(init=False)
    enrolment: Enrolment = field(init=False)
    registration: Registration = field(init=False)
    peers: Peers = field(init=False)
    plain_wireguard: PlainWireGuard = field(init=False)
    devices: Devices = field(init=False)
    relays: Relays = field(init=False)
    passwords: LocalPasswords = field(default_factory=LocalPasswords)
    sessions: Sessions = field(init=False)
    signing_in: SigningIn = field(init=False)
    signing_up: SigningUp = field(init=False)
    second_factors: SecondFactors = field(init=False)
    api_keys: ApiKeys = field(init=False)
    credentials: Credentials = field(init=False)
    users: Users = field(init=False)
    user_deletion: UserDeletion = field(init=False)
    applying: Applying = field(init=False)
    user_import: UserImport = field(init=False)
    user_invitations: UserInvitations = field(init=False)
    members: Members = field(init=False)
    policy_documents: PolicyDocuments = field(init=False)
    groups: Groups = field(init=False)
    access: AccessExplanations = field(init=False)
    sign_in_policy: SignInPolicy = field(init=False)
    witnesses: Witnesses = field(init=False)
    audit: Audit = field(init=False)
    readiness: Readiness = field(init=False)
    delivery: Delivery = field(init=False)
    usage: UsageBook = field(init=False)
    sinks: Sinks = field(init=False)
    following: Following = field(init=False)
    watchers: Watchers = field(default_factory=Watchers)
    _turns: Turns = field(init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        context, hub = self.context, self.hub
        self._turns = Turns(context.rare, "what another controller did can't be read")
        self.events = Events(context)
        self.reports = Reports(context, self.events)
        self.nodes = Nodes(context, hub, self.events)
        self.presences = Presences(hub, self.events, context.timing, self.reports.went, self.nodes.share)
        self.maps = Maps(context, hub, self.presences)
        shared = (context, hub, self.maps, self.presences, self.events)
        self.networks = Networks(*shared)
        self.templates = Templates(context)
        self.invites = Invites(context)
        self.clients = Clients(context, hub, self.maps, self.events, self.reports)
        self.connections = ConnectionViews(context, hub, self.reports)
        self.inventory = Inventory(context, hub, self.clients)
        self.ephemeral = Ephemeral(context, hub, self.clients)
        guesses = InviteGuesses(context.limits)
        self.enrolment = Enrolment(*shared, guesses)
        self.registration = Registration(context, hub, self.clients, self.events, guesses)
        self.peers = Peers(context, hub, self.reports)
        self.plain_wireguard = PlainWireGuard(context, self.maps, self.events, self.clients, self.peers)
        self.witnesses = Witnesses(context, hub)
        shared_with_links = (self.clients, self.witnesses, self.reports, self.nodes)
        self.devices = Devices(context, hub, self.maps, self.presences, *shared_with_links)
        self.nodes.follow(self.presences, self.devices)
        self.relays = Relays(context, hub, self.maps, self.events, self.enrolment.nonces)
        self.sessions = Sessions(context, self.watchers)
        codes = OneTimeCodes(context)
        self.signing_in = SigningIn(context, self.watchers, self.sessions, self.passwords, self.passwords, codes)
        self.signing_up = SigningUp(context)
        self.second_factors = SecondFactors(context, self.watchers, codes, self.signing_in)
        self.api_keys = ApiKeys(context, self.watchers)
        self.credentials = Credentials(self.sessions, self.api_keys)
        self.users = Users(context, self.watchers)
        self.user_deletion = UserDeletion(context, self.watchers)
        self.applying = Applying(context)
        self.user_import = UserImport(context)
        self.user_invitations = UserInvitations(context, self.passwords, self.sessions)
        self.members = Members(context, self.watchers)
        self.policy_documents = PolicyDocuments(context, self.watchers)
        self.groups = Groups(context, self.watchers)
        self.access = AccessExplanations(context)
        self.sign_in_policy = SignInPolicy(context, self.watchers)
        self.following = Following(context, hub, self.maps, self.watchers)
        self.readiness = Readiness(context, lambda: self.nodes.draining)
        self.audit = Audit(context, self.witnesses)
        self.delivery = Delivery(context, self.events)
        self.usage = UsageBook(context, self.maps, self.events)
        self.reports.tell_reached = self.usage.tell
        self.sinks = Sinks(context, self.delivery.position)

    async def start(self) -> None:
        await self.context.write(partial(set_maps, self.context))
        await self.context.write(self.sessions.shorten)
        await self._look_at_fallback_relay()
        await self.context.write(lambda conn: note_settings(self.context, conn))
        await self.following.start()
        await self.events.start()
        self.delivery.start()
        await self.nodes.start()
        timing = self.context.timing
        for every, what in (
            (timing.node_beat, self.nodes.beat),
            (timing.follow, self.follow),
            (timing.housekeeping, self.keep_house),
            (timing.alive_every, self.ephemeral.note_alive),
            (timing.seen_every, self._note_seen),
            (timing.used_every, self.api_keys.note_used),
            (timing.used_every, self.sessions.note_used),
            (ALIVE_SECONDS, self._tell_alive),
            (timing.checkpoint, self.witnesses.tell),
            (_TIDY, self.tidy),
            (_TIDY, partial(forget_old, self.context)),
            (_TIDY, self.audit.watch),
            (_NODES_TIDY, self.nodes.tidy),
        ):
            self._tasks.append(asyncio.create_task(repeat(every, what)))
        if (redis := self.context.limits.redis) is not None:
            await redis.look()
            self._tasks.append(asyncio.create_task(repeat(LOOK, redis.look)))
        if self.context.store.shared:
            self.context.limits.share(lambda: self._turns.run(LIMITS, self._tell_limits))
            notices = Notices(self.context.store.engine, self.context.store.node, self._heard, self._listening)
            self._tasks.append(asyncio.create_task(notices.run()))

    async def _look_at_fallback_relay(self) -> None:
        """Clients can use a relay that knows this controller's tokens, and no other."""
        url, r = self.context.settings.fallback_relay, schema.relays
        known = sa.select(r.c.id).where(r.c.url == url, r.c.removed_at.is_(None))
        if url is not None and await self.context.read(lambda conn: conn.execute(known).first()) is None:
            log.warning(
                "the fallback relay is not registered here, and clients are not told of it until it is",
                relay=url,
                remedy="`shadowmesh relay token` makes a token; run that relay with it",
            )

    async def stop(self) -> None:
        """Stops what runs by itself and notes who was here; links are the edge's to close."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.delivery.stop()
        await self.signing_up.close()
        self._turns.close()
        await self.nodes.close()
        self.watchers.close()
        self.maps.close()
        self.passwords.close()
        self.presences.close()
        if self.context.limits.redis is not None:
            await self.context.limits.redis.close()
        for note in (
            self._note_seen,
            self.api_keys.note_used,
            self.sessions.note_used,
            self.reports.close,
            self.events.flush,
        ):
            try:
                await note()
            except ShadowMeshError as e:  # the database is away: the others are tried all the same
                log.error("not noted at the end", what=note.__qualname__, why=e.what)

    async def _tell_limits(self) -> None:
        while (said := self.context.limits.news(LONGEST)) is not None:
            await self.context.note(partial(tell, topic=LIMITS, argument=said), "other controllers hear of attempts")

    async def _listening(self) -> None:
        """From now on others are heard at once; what they told before is looked up."""
        await self.follow()
        await self.maps.catch_up()
        self.nodes.read_anew()

    def _heard(self, notice: Notice) -> None:
        """What another controller has written is read; what comes while it is read, once more after it."""
        reads: Mapping[str, Callable[[], Awaitable[object]]] = {
            MAP: partial(self.maps.follow, NetworkRef(notice.argument)),
            MAPS: self.maps.catch_up,
            RELAYS: self.relays.follow,
            sequences.REVOCATIONS: self.following.catch_up,
            sequences.EVENTS: self.events.catch_up,
        }
        if notice.topic == LIMITS:
            self.context.limits.heard(notice.argument, self.context.now().timestamp())
        elif notice.topic in reads:
            self._turns.run((notice.topic, notice.argument), reads[notice.topic])
        else:
            self.nodes.heard(notice)

    async def follow(self) -> None:
        """Ends what others, or the clock, have taken away."""
        self.watchers.expire(self.context.now())
        await self.relays.follow()
        if self.context.store.shared:
            await self.following.catch_up()
            await self.events.catch_up()

    async def keep_house(self) -> None:
        """What other controllers did; rotations that are due, epochs that may end, ephemeral clients that are gone."""
        now = self.context.now()
        if self.context.store.shared:
            await self.maps.catch_up()

        async def rotate(ref: NetworkRef) -> None:
            if await self.context.write(partial(self._rotate_due, ref=ref)):
                self.events.publish("network_changed", ref, change="key_rotated")
            await self.maps.refresh(ref)

        async def retire(ref: NetworkRef) -> None:
            if await self.context.write(partial(epochs.retire, self.context, ref=ref, now=now)):
                await self.maps.refresh(ref)

        due = await self.context.read(lambda conn: epochs.due(self.context, conn, now))
        await for_each(due, rotate, self.context.rare, "a network's due rotation failed")
        old = await self.context.read(epochs.with_old)
        await for_each(old, retire, self.context.rare, "ending a network's old epochs failed")
        await self.ephemeral.remove_idle()
        await self.registration.expire()
        await self.usage.keep_house()

    def _rotate_due(self, conn: Connection, ref: NetworkRef) -> bool:
        network = living_network(conn, ref, lock=True)
        if network is None or network.rotation_due is None:
            return False  # another controller was faster
        epoch = epochs.rotate(self.context, conn, ref, self.context.now())
        bump(conn, ref)
        more = {"before": {"epoch": epoch - 1}, "after": {"epoch": epoch}}
        record(self.context, conn, SYSTEM, "network.rotate-key", network.name, id=ref, **more)
        return True

    async def _note_seen(self) -> None:
        here = [(client, link.version) for link in self.hub.devices.values() for client in link.clients.values()]
        for start in range(0, len(here), _SEEN_AT_ONCE):
            await self.devices.seen(dict(here[start : start + _SEEN_AT_ONCE]))

    async def _tell_alive(self) -> None:
        self.hub.to_relays(Alive(wall=self.context.now().timestamp()))

    async def tidy(self) -> None:
        """Deletes what has run out."""
        now = self.context.now()

        def tx(conn: Connection) -> None:
            conn.execute(schema.answers.delete().where(schema.answers.c.at < now - ANSWER_LIFE))
            conn.execute(schema.refresh_tokens.delete().where(schema.refresh_tokens.c.expires_at < now))
            conn.execute(schema.sessions.delete().where(schema.sessions.c.expires_at < now))
            conn.execute(schema.revocations.delete().where(schema.revocations.c.until < now))
            forget_of_deleted(conn, now)
            announce_urls(self.context, conn)

        await self.context.write(tx)
