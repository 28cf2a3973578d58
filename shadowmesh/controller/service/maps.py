"""The maps: one live copy per network, signed once per serial, brought up to date by what changed.

Truth is the database: each client's row says in which serial it last changed, so a delta from any older serial is a
selection, whoever made the change. A map's content depends on the database alone; whatever changes it bumps the serial.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.addresses import address6
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.grants import Keys, make_grant, open_keys
from shadowmesh.controller.service.hub import DeviceLink, Hub, encode, fan_out
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.store import schema
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import to_json
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import (
    DevicePublicKey,
    NetworkID,
    SealingPublicKey,
    SigningPublicKey,
    WireGuardPublicKey,
)
from shadowmesh.model.link import Grant, MapUpdate, Removed, Signature
from shadowmesh.model.netmap import (
    UNCHANGED,
    Encoded,
    EpochInfo,
    MapDelta,
    MapHead,
    Member,
    NetworkMap,
    RelayInfo,
)
from shadowmesh.protocol.signing import sign_map

NO_NETWORK_LEFT = 1000  # WebSocket: normal closure
_PLACEHOLDER = ClientID("cli_" + "0" * 20)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a read found newer than the live copy; `whole`: all there is, since there was none of this generation."""

    whole: bool
    network: Row[Any]
    head: MapHead
    keys: Keys
    clients: Sequence[Row[Any]]


def relay_info(row: Row[Any]) -> RelayInfo:
    return RelayInfo(
        relay_id=RelayID(row.id),
        name=row.name,
        key=SigningPublicKey(row.key),
        udp=None if row.udp is None else SockAddr.parse(row.udp),
        url=row.url,
        region=row.region,
    )


def load_head(core: Core, conn: Connection, network: Row[Any]) -> tuple[MapHead, Sequence[Row[Any]]]:
    """The head, and the rows of the valid epochs."""
    e, r = schema.epochs, schema.relays
    epochs = conn.execute(sa.select(e).where(e.c.network_ref == network.ref).order_by(e.c.epoch)).all()
    query = sa.select(r).where(r.c.removed_at.is_(None), r.c.draining.is_(False)).order_by(r.c.id)
    if network.relay_id is not None:
        query = query.where(r.c.id == network.relay_id)
    head = MapHead(
        network_id=NetworkID(network.network_id),
        network_ref=NetworkRef(network.ref),
        name=network.name,
        subnet=ipaddress.IPv4Network(network.subnet),
        subnet6=None if network.subnet6 is None else ipaddress.IPv6Network(network.subnet6),
        epochs=tuple(
            EpochInfo(
                epoch=row.epoch,
                current_from=row.current_from.timestamp(),
                ends=None if row.ends is None else row.ends.timestamp(),
            )
            for row in epochs
        ),
        p2p=network.p2p,
        relay_fallback=network.relay_fallback,
        relays=tuple(relay_info(row) for row in conn.execute(query)),
        controller_urls=core.settings.public_urls,
        stun=core.settings.stun_addresses(),
    )
    return head, epochs


def bump_where_head_changed(core: Core, conn: Connection) -> None:
    """At start: what is set differently now (public URLs, the port) is in new serials, never in old ones."""
    t = schema.networks
    for network in conn.execute(sa.select(t).where(t.c.deleted_at.is_(None))).all():
        head, _ = load_head(core, conn, network)
        digest = hashlib.sha256(to_json(head)).digest()
        if digest != network.head_digest:
            conn.execute(t.update().where(t.c.ref == network.ref).values(serial=t.c.serial + 1, head_digest=digest))


class LiveMap:
    """The newest known map of one network, and what is needed to tell others of it."""

    def __init__(self, core: Core, changes: Changes) -> None:
        self._core = core
        self._changed: dict[ClientID, int] = {}  # of members, and of those that were members
        self._texts: dict[
            int | None, tuple[str, str]
        ] = {}  # message from a serial (None: snapshot), split at the client
        self.ref = NetworkRef(changes.network.ref)
        self.network_id = NetworkID(changes.network.network_id)
        self.map = NetworkMap(generation=changes.network.generation, serial=0, head=changes.head)
        self.signature: Signature
        self.keys: Keys
        self._head_serial = 0
        self.apply(changes)

    @property
    def serial(self) -> int:
        return self.map.serial

    def apply(self, changes: Changes) -> None:
        """Takes over what changed; signs the result."""
        serial, head, upsert, remove = changes.network.serial, None, [], []
        for row in changes.clients:
            client_id = ClientID(row.id)
            if row.state == "approved":
                upsert.append(Encoded.of(_member(row, changes.network.subnet6)))
            else:
                remove.append(client_id)
            self._changed[client_id] = row.changed_serial
        if self._head_serial == 0 or changes.head != self.map.head:
            self._head_serial, head = serial, Encoded.of(changes.head)
        self.map = self.map.changed(serial=serial, head=head, upsert=upsert, remove=remove)
        self.keys = changes.keys
        self.signature = sign_map(self._core.keys.maps, self.map)
        self._texts.clear()

    def delta_from(self, serial: int) -> MapDelta:
        """What leads from that serial of this generation to the newest; empty if it is the newest."""
        changed = sorted(c for c, at in self._changed.items() if at > serial) if serial < self.serial else []
        entries = self.map.entries
        return MapDelta(
            network_id=self.network_id,
            generation=self.map.generation,
            from_serial=serial,
            to_serial=self.serial,
            head=msgspec.Raw(self.map.encoded_head.raw) if self._head_serial > serial else UNCHANGED,
            upsert=tuple(msgspec.Raw(entries[c].raw) for c in changed if c in entries),
            remove=tuple(c for c in changed if c not in entries),
            digest=self.map.digest.hex(),
        )

    def update(self, client_id: ClientID) -> MapUpdate:
        """The snapshot, for an enrolment's answer."""
        return MapUpdate(
            network_id=self.network_id,
            client_id=client_id,
            snapshot=self.map.snapshot(),
            signature=self.signature,
        )

    def text_for(self, client_id: ClientID, generation: int | None, serial: int | None) -> str:
        """The message for a client that holds this map (None: none); encoded once for all who hold the same."""
        key = serial if generation == self.map.generation and serial is not None and serial <= self.serial else None
        parts = self._texts.get(key)
        if parts is None:
            message = MapUpdate(
                network_id=self.network_id,
                client_id=_PLACEHOLDER,
                snapshot=self.map.snapshot() if key is None else None,
                delta=None if key is None else self.delta_from(key),
                signature=self.signature,
            )
            before, _, after = encode(message).partition(f'"{_PLACEHOLDER}"')  # keys are sorted: it comes first
            parts = self._texts[key] = (before, after)
        return f'{parts[0]}"{client_id}"{parts[1]}'


def _member(row: Row[Any], subnet6: str | None) -> Member:
    return Member(
        client_id=ClientID(row.id),
        name=row.name,
        ip=ipaddress.IPv4Address(row.ip),
        ip6=address6(subnet6, row.ip),
        wg_key=WireGuardPublicKey(row.wg_key),
        device_key=DevicePublicKey(row.device_key),
        tags=tuple(row.tags),
    )


class Maps:
    """The live maps; `refresh` after each change."""

    def __init__(self, core: Core, hub: Hub, presences: Presences) -> None:
        self._core = core
        self._hub = hub
        self._presences = presences
        self._live: dict[NetworkRef, LiveMap] = {}
        self._locks: dict[NetworkRef, asyncio.Lock] = {}
        self._next: dict[NetworkRef, asyncio.Future[LiveMap | None]] = {}

    def __iter__(self) -> Iterator[LiveMap]:
        return iter(list(self._live.values()))

    async def get(self, ref: NetworkRef) -> LiveMap | None:
        """The live map, loaded if need be; None if there is no such network any more."""
        return self._live.get(ref) or await self.refresh(ref)

    async def refresh(self, ref: NetworkRef) -> LiveMap | None:
        """Brings the map up to what is committed and tells all connected members.

        Callers that come while one reads share the next read: a storm of changes makes few deltas.
        """
        waiting = self._next.get(ref)
        if waiting is None:
            waiting = self._next[ref] = asyncio.ensure_future(self._turn(ref))
        return await asyncio.shield(waiting)

    async def _turn(self, ref: NetworkRef) -> LiveMap | None:
        async with self._locks.setdefault(ref, asyncio.Lock()):
            del self._next[ref]  # who comes from here on needs another read
            return await self._refresh(ref)

    async def _refresh(self, ref: NetworkRef) -> LiveMap | None:
        live = self._live.get(ref)
        changes = await self._core.read(lambda conn: self._read(conn, ref, live))
        if changes is None:
            if self._live.pop(ref, None) is not None and live is not None:
                self._cut(live, list(self._hub.networks.get(ref, ())), "deleted")
            return None
        if live is None:
            return self._live.setdefault(ref, LiveMap(self._core, changes))
        if changes.whole or changes.network.serial > live.serial:
            before, known = live.map, set(live.keys)
            if changes.whole:
                live = self._live[ref] = LiveMap(self._core, changes)
            else:
                live.apply(changes)
            links = list(self._hub.networks.get(ref, {}).items())
            if set(live.keys) - known:  # a new epoch is handed out before the map speaks of it
                await self._hand_out(live, links)
            await fan_out((link, live.text_for(client, before.generation, before.serial)) for client, link in links)
            self._follow(live, changes.clients)
        return live

    def _read(self, conn: Connection, ref: NetworkRef, live: LiveMap | None) -> Changes | None:
        n, c = schema.networks, schema.clients
        network = conn.execute(sa.select(n).where(n.c.ref == ref, n.c.deleted_at.is_(None))).first()
        if network is None:
            return None
        head, epochs = load_head(self._core, conn, network)
        # Who still waits for approval isn't told of; who is gone and never was a member neither.
        query = sa.select(c).where(c.c.network_ref == ref, c.c.approved_at.is_not(None))
        whole = live is None or live.map.generation != network.generation
        if live is not None and not whole:
            query = query.where(c.c.changed_serial > live.serial)
        keys = open_keys(self._core, ref, epochs, {} if live is None else live.keys)
        return Changes(whole, network, head, keys, conn.execute(query).all())

    def _follow(self, live: LiveMap, rows: Sequence[Row[Any]]) -> None:
        """Lets links in and cuts them off as the map says, whichever controller made the change."""
        for row in rows:
            if row.state == "approved":
                self.admit(live, row)
            else:
                self._cut(live, [ClientID(row.id)], row.state)

    def admit(self, live: LiveMap, row: Row[Any]) -> None:
        """An approved client whose device is connected follows the network on that link; nothing if it does already."""
        client_id, link = ClientID(row.id), self._hub.devices.get(DevicePublicKey(row.device_key))
        if link is None or self._hub.link_of(live.ref, client_id) is link:
            return
        self._hub.join(link, live.ref, client_id)
        link.post(encode(self.grant(live, link.device_key, row.ip, SealingPublicKey(row.sealing_key))))
        link.post(live.text_for(client_id, None, None))
        self._presences.came(link, live.ref, live.network_id)

    def _cut(self, live: LiveMap, clients: Sequence[ClientID], reason: str) -> None:
        for client_id in clients:
            link = self._hub.link_of(live.ref, client_id)
            if link is not None:
                link.post(encode(Removed(network_id=live.network_id, reason=reason)))
                self._hub.part(link, live.ref)
                self._presences.went(live.ref, client_id, at_once=True)
                if not link.clients:
                    link.close(NO_NETWORK_LEFT, "no network left")

    async def catch_up(self) -> None:
        """Takes over what another controller changed in the database."""
        n = schema.networks
        query = sa.select(n.c.ref, n.c.serial).where(n.c.deleted_at.is_(None))
        newest = await self._core.read(lambda conn: {row.ref: row.serial for row in conn.execute(query)})
        for live in self:
            if newest.get(live.ref) != live.serial:
                await self.refresh(live.ref)

    async def _hand_out(self, live: LiveMap, links: Sequence[tuple[ClientID, DeviceLink]]) -> None:
        sealing = await self._core.read(lambda conn: sealing_keys(conn, live.ref))
        for count, (client_id, link) in enumerate(links, 1):
            member, key = live.map.member(client_id), sealing.get(client_id)
            if member is not None and key is not None:
                link.post(encode(make_grant(self._core, live.network_id, live.keys, member.device_key, member.ip, key)))
            if count % 16 == 0:
                await asyncio.sleep(0)

    def grant(self, live: LiveMap, device_key: DevicePublicKey, ip: int, sealing: SealingPublicKey) -> Grant:
        return make_grant(self._core, live.network_id, live.keys, device_key, ipaddress.IPv4Address(ip), sealing)


def sealing_keys(conn: Connection, ref: NetworkRef) -> dict[ClientID, SealingPublicKey]:
    t = schema.clients
    query = sa.select(t.c.id, t.c.sealing_key).where(t.c.network_ref == ref, t.c.state == "approved")
    return {ClientID(row.id): SealingPublicKey(row.sealing_key) for row in conn.execute(query)}
