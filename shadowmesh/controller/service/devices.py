"""A device's link, from its hello to its end: who it is, what it gets, what it reports. The edge moves the messages."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Principal
from shadowmesh.controller.refusals import conflict, not_allowed
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.clients import ALIVE, Clients, RemovedClient, remove_client
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.ephemeral import note_alive
from shadowmesh.controller.service.hub import DeviceLink, Elsewhere, Hub, encode
from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.service.livemap import LiveMap
from shadowmesh.controller.service.maps import Maps, close_if_done
from shadowmesh.controller.service.memberships import Memberships
from shadowmesh.controller.service.nodes import Nodes
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.service.reports import Reports
from shadowmesh.controller.service.witnesses import Witnesses
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model.devicelink import (
    AuditTestimony,
    EpochHeld,
    FromDevice,
    Hello,
    Leave,
    LinkError,
    Pending,
    Probe,
    ProbeReply,
    RefreshGrant,
    Removed,
    Report,
    Watch,
)
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey
from shadowmesh.model.text import check_text
from shadowmesh.protocol.signing import Context, hello_message, verify_text
from shadowmesh.serving.tasks import for_each

MAX_ENDPOINTS = 64
MAX_WATCHED = 10_000
_REPLACED = 4000  # the same boot has a newer link
_DUPLICATE = 4003


class Devices:
    def __init__(
        self,
        context: ServiceContext,
        hub: Hub,
        maps: Maps,
        presences: Presences,
        clients: Clients,
        witnesses: Witnesses,
        reports: Reports,
        nodes: Nodes,
    ) -> None:
        self._context = context
        self._hub = hub
        self._maps = maps
        self._presences = presences
        self._clients = clients
        self._witnesses = witnesses
        self._reports = reports
        self._nodes = nodes
        self._memberships = Memberships(context)
        self._greeting: WeakValueDictionary[DevicePublicKey, asyncio.Lock] = WeakValueDictionary()
        self._hellos = Limiter(20, 3.0)  # each is answered with all that the device has to know
        self._clones = Limiter(1, 3600.0)  # entries in the audit log for one clone, which tries again every few seconds
        self._cloned = Limiter(10, 360.0)  # and for one device, whatever its clones call themselves
        self._grants = Limiter(10, 2.0)
        self._epochs = Limiter(20, 1.0)

    async def hello(
        self,
        hello: Hello,
        nonce: bytes,
        remote: str,
        post: Callable[[str], None],
        close: Callable[[int, str], None],
    ) -> DeviceLink:
        """The link, registered and given all it has to know.

        Raises ShadowMeshError: bad_signature, rate_limited, client_duplicate, device_unknown.
        """
        message = hello_message(nonce, self._context.keys.identity.public, hello.boot_id)
        if not verify_text(hello.device_key, Context.HELLO, message, hello.signature):
            raise not_allowed("bad_signature", "the device's signature is wrong")
        self._hellos.take(str(hello.device_key), self._context.now().timestamp())
        link = DeviceLink(
            device_key=hello.device_key,
            boot_id=check_text("boot id", hello.boot_id, 64),
            version=check_text("version", hello.version, 100),
            remote=remote,
            since=self._context.now(),
            post=post,
            close=close,
            greeting=True,
        )
        # One at a time for each device: else two boots that knock together would both get in.
        turn = self._greeting.setdefault(hello.device_key, asyncio.Lock())
        async with turn:
            await self._only_one(link)
            # In the hub before the first look: who is approved or removed meanwhile finds the link there.
            self._hub.devices[link.device_key] = link
            try:
                rows = await self._admit(link, hello)
                if any(row.ephemeral and row.state in ALIVE for row in rows):  # before another controller misses it
                    alive = partial(note_alive, keys=[link.device_key], now=self._context.now())
                    await self._context.note(alive, "an ephemeral client is alive")
            except BaseException:
                self.gone(link, clean=True)
                raise
        return link

    async def _only_one(self, link: DeviceLink) -> None:
        """The same boot replaces its older link; another boot is refused while the first answers."""
        old = self._hub.devices.get(link.device_key)
        if old is None:
            return
        if old.boot_id != link.boot_id and await self._alive(old):
            await self._duplicate(link, old.remote, old.since, old.boot_id)
        self._replace(old)

    async def _duplicate(self, link: DeviceLink, remote: str, since: dt.datetime, boot_id: str) -> NoReturn:
        """`link` is of a clone of the device that is connected from `remote`. Raises ShadowMeshError(client_duplicate)."""
        names = await self._context.read(lambda conn: _names(conn, link.device_key))
        who, now, key = Principal("controller"), self._context.now().timestamp(), str(link.device_key)
        if self._clones.allows(f"{key} {link.boot_id}", now) and self._cloned.allows(key, now):
            ends = {"first": remote, "second": link.remote}
            await self._context.note(
                lambda conn: record(self._context, conn, who, "client.duplicate", ", ".join(names), **ends),
                "a clone knocked",
            )
        raise conflict(
            "client_duplicate",
            f"{', '.join(names) or 'this device'} is connected from {remote} since "
            f"{since:%Y-%m-%d %H:%M:%S} UTC (boot {boot_id[:8]}); "
            f"the second one comes from {link.remote} (boot {link.boot_id[:8]})",
            "a cloned machine needs `shadowmesh daemon reset-identity` and an invite of its own",
        )

    def _replace(self, old: DeviceLink) -> None:
        self.gone(old, clean=False)
        old.close(_REPLACED, "replaced by a newer link")

    # the same device at another node

    async def _only_here(self, link: DeviceLink, rows: Iterable[Row[Any]]) -> Sequence[Elsewhere]:
        """Another boot that is connected to another node, and answers there, is the one that stays.

        Returns what was known of other nodes, and so is settled.
        """
        found = [there for row in rows for there in self._hub.elsewhere.get(ClientID(row.id), ())]
        for node in sorted({there.node for there in found if there.boot_id != link.boot_id}):
            patience = self._context.timing.duplicate_probe + 1.0
            said = await self._nodes.ask(node, patience, device=str(link.device_key), boot_id=link.boot_id)
            if said is not None and said["alive"]:
                since = dt.datetime.fromisoformat(said["since"])
                await self._duplicate(link, said["remote"], since, said["boot_id"])
        return found

    async def asked(self, question: dict[str, Any]) -> dict[str, Any]:
        """Whether this node has another boot of the device that answers; a link that doesn't is given up."""
        old = self._hub.devices.get(DevicePublicKey.parse(question["device"]))
        if old is None:
            return {"alive": False}
        if old.boot_id == question["boot_id"] or not await self._alive(old):
            self._replace(old)
            return {"alive": False}
        return {"alive": True, "remote": old.remote, "since": old.since.isoformat(), "boot_id": old.boot_id}

    def met(self, link: DeviceLink, there: Elsewhere) -> None:
        """Of one boot the newer link stays, of two that knocked in the same moment the older."""
        if link.boot_id == there.boot_id:
            if link.since < there.since:
                self._replace(link)
        elif link.since > there.since:
            what = f"a clone of this device (boot {there.boot_id[:8]}) was connected first"
            link.post(encode(LinkError(code="client_duplicate", what=what)))
            self.gone(link, clean=True)
            link.close(_DUPLICATE, "client_duplicate")

    async def _alive(self, link: DeviceLink) -> bool:
        """Whether the device at the other end answers now: a host that lost its power leaves a link behind."""
        if link.probe is None:
            link.probe = asyncio.get_running_loop().create_future()
            link.post(encode(Probe(nonce=secrets.token_hex(8))))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(link.probe), self._context.timing.duplicate_probe)
            link.probe = None
            return True
        link.probe = None
        return False

    async def _admit(self, link: DeviceLink, hello: Hello) -> list[Row[Any]]:
        """The device's clients."""
        rows = await self._memberships.of(hello.device_key)
        settled = await self._only_here(link, rows)
        held = {state.network_id: state for state in hello.maps}
        living = {NetworkID(row.network_id) for row in rows if row.state in ALIVE}
        gone = {
            NetworkID(row.network_id): Removed(
                network_id=NetworkID(row.network_id),
                reason=row.state,
                at=None if row.removed_at is None else row.removed_at.timestamp(),
            )
            for row in rows
        }
        if not living and not held:
            raise not_allowed(
                "device_unknown", "this device is in no network of this controller", "join with an invite"
            )
        lives = await self._living_maps(NetworkRef(row.ref) for row in rows if row.state == "approved")
        # No waiting from here on: nothing may change between what the link is told and its being in the hub.
        for network_id in held.keys() - living:
            link.post(encode(gone.get(network_id, Removed(network_id=network_id, reason="removed"))))
        for row in rows:
            network_id = NetworkID(row.network_id)
            if row.ref in link.clients:
                continue  # approved meanwhile, and told so
            if row.state == "pending":
                self._maps.wait(link, NetworkRef(row.ref), ClientID(row.id))
                link.post(encode(Pending(network_id=network_id, client_id=ClientID(row.id))))
            elif row.state == "approved" and row.ref in lives:
                self._maps.enter(lives[row.ref], link, row, held.get(network_id))
        link.greeting, link.ended = False, set()
        for there in [e for c in link.clients.values() for e in self._hub.elsewhere.get(c, ()) if e not in settled]:
            self.met(link, there)  # another node told of it meanwhile
        close_if_done(link)  # it knows now; anyone could say such a hello, and hold a link for nothing
        return rows

    async def _living_maps(self, refs: Iterable[NetworkRef]) -> dict[NetworkRef, LiveMap]:
        """Of the networks that are there. Where one's rows are broken the device is connected to its others."""
        lives: dict[NetworkRef, LiveMap] = {}

        async def load(ref: NetworkRef) -> None:
            live = await self._maps.get(ref)
            if live is not None:
                lives[ref] = live

        failed = await for_each(refs, load, self._context.rare, "a network's map can't be read")
        for _, error in failed:
            if isinstance(error, ShadowMeshError) or not lives:  # the database is away, or there is nothing else
                raise error
        return lives

    async def handle(self, link: DeviceLink, message: FromDevice) -> None:
        """One message of an admitted device."""
        if isinstance(message, ProbeReply):
            if link.probe is not None and not link.probe.done():
                link.probe.set_result(None)
            return
        if isinstance(message, AuditTestimony):
            self._witnesses.take(link, message)
            return
        if isinstance(message, Hello):
            raise not_allowed("unexpected", "a second hello")
        if isinstance(message, Leave):  # who waits for approval may leave as well
            await self._leave(link, message)
            return
        found = self._maps.of(message.network_id)
        if found is None or found.ref not in link.clients:
            return  # of a network that it was removed from a moment ago
        ref, client_id = found.ref, link.clients[found.ref]
        if isinstance(message, Report):
            for relay in (message.home, message.standby):  # told to all who hear of this device
                check_text("relay's id", relay or "", 60)
            if len(message.endpoints) <= MAX_ENDPOINTS:
                self._presences.report(link, ref, message)
        elif isinstance(message, Watch):
            self._presences.watch(link, ref, (p for p in message.peers[:MAX_WATCHED] if p in found.map.entries))
        elif isinstance(message, EpochHeld):
            if message.epoch in found.keys and self._epochs.allows(client_id, self._context.now().timestamp()):
                # Left out, the epoch before ends when the device has said it again, or after `epoch_life`.
                await self._context.note(lambda conn: _held(conn, client_id, message.epoch), "a client holds an epoch")
        elif isinstance(message, RefreshGrant):
            if self._grants.allows(client_id, self._context.now().timestamp()):
                await self._refresh_grant(link, found, client_id)
        else:
            self._reports.take(found, client_id, message)

    async def _refresh_grant(self, link: DeviceLink, live: LiveMap, client_id: ClientID) -> None:
        c = schema.clients
        query = sa.select(c).where(c.c.id == client_id, c.c.state == "approved")
        row = await self._context.read(lambda conn: conn.execute(query).first())
        grant = None if row is None else self._maps.grant(live.ref, client_id, SealingPublicKey(row.sealing_key))
        if grant is not None and live.ref in link.clients:
            link.post(encode(grant))

    async def _leave(self, link: DeviceLink, message: Leave) -> None:
        mine = [*link.clients.values(), *link.waiting.values()]
        if not mine:
            return
        c, n = schema.clients, schema.networks
        where = sa.select(n.c.ref).where(n.c.network_id == message.network_id, n.c.deleted_at.is_(None))
        member = sa.select(c).where(c.c.id.in_(mine), schema.LIVING)

        def tx(conn: Connection) -> RemovedClient | None:
            ref = conn.execute(where).scalar()
            network = None if ref is None else living_network(conn, ref, lock=True)
            row = conn.execute(member.where(c.c.network_ref == ref)).first()
            if network is None or row is None or message.wg_key not in (None, row.wg_key):
                return None  # the membership that it means has ended; the device may have made another since
            return remove_client(self._context, conn, Principal(f"device {row.id}"), network, row, "left")

        gone = await self._context.write(tx)
        if gone is not None:
            await self._clients.tell_gone(gone)

    def gone(self, link: DeviceLink, *, clean: bool) -> dict[ClientID, str]:
        """The link has ended. `clean`: the device said so; otherwise it may be back in a moment.

        Returns the clients that it was, with their version: to be noted by `seen`.
        """
        if self._hub.devices.get(link.device_key) is link:
            del self._hub.devices[link.device_key]
        were = dict.fromkeys(link.clients.values(), link.version)
        for ref in list(link.waiting):
            self._hub.part(link, ref)
        for ref, client_id in list(link.clients.items()):
            self._hub.part(link, ref)
            self._presences.went(ref, client_id, at_once=clean)
        return were

    async def seen(self, clients: Mapping[ClientID, str]) -> None:
        """Notes that these were here now."""
        if not clients:
            return
        c, now = schema.clients, self._context.now()

        def tx(conn: Connection) -> None:
            for client_id, version in clients.items():
                conn.execute(c.update().where(c.c.id == client_id).values(last_seen=now, version=version))

        await self._context.write(tx)


def _names(conn: Connection, device_key: bytes) -> list[str]:
    c, n = schema.clients, schema.networks
    query = (
        sa.select(c.c.name, n.c.name.label("network"))
        .join(n, n.c.ref == c.c.network_ref)
        .where(c.c.device_key == device_key, schema.LIVING)
    )
    return sorted(f"{row.name}@{row.network}" for row in conn.execute(query))


def _held(conn: Connection, client_id: ClientID, epoch: int) -> None:
    c = schema.clients
    older = sa.or_(c.c.epoch_held.is_(None), c.c.epoch_held < epoch)
    conn.execute(c.update().where(c.c.id == client_id, older).values(epoch_held=epoch))
