"""The live maps, and how their members are told of what changes.

A change is read from the database, signed once and told to all who are connected; each link remembers what it was told
last, so whoever is behind gets one delta. Who is removed is cut off first, then the map goes out, and only then are keys
of a new epoch sealed: it isn't current before 30 s have passed. Joins are gathered for a moment and go out together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.grants import make_grant
from shadowmesh.controller.service.hub import FAN_OUT_TURN, DeviceLink, Hub, encode
from shadowmesh.controller.service.livemap import LiveMap
from shadowmesh.controller.service.mapcontent import Changes, read_changes
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.store import schema
from shadowmesh.model.devicelink import Grant, MapState, Removed
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey
from shadowmesh.serving.tasks import for_each

log = structlog.get_logger("shadowmesh.controller")

NO_NETWORK_LEFT = 1000  # WebSocket: normal closure
_SEALED_AT_ONCE = 16


class _Network:
    """One network's live map, and what is under way for it."""

    def __init__(self, live: LiveMap) -> None:
        self.live = live
        self.telling = asyncio.Lock()
        self.told: tuple[int, int] | None = None  # all who were connected know this map
        self.gathering: asyncio.Task[None] | None = None
        self.hurry = asyncio.Event()  # something is told at once, and what is gathered with it
        self.sealing: asyncio.Task[None] | None = None

    def close(self) -> None:
        for task in (self.gathering, self.sealing):
            if task is not None:
                task.cancel()


class Maps:
    """The live maps; `refresh` after each change."""

    def __init__(self, context: ServiceContext, hub: Hub, presences: Presences) -> None:
        self._context = context
        self._hub = hub
        self._presences = presences
        self._networks: dict[NetworkRef, _Network] = {}
        self._refs: dict[NetworkID, NetworkRef] = {}
        self._locks: dict[NetworkRef, asyncio.Lock] = {}
        self._next: dict[NetworkRef, asyncio.Future[LiveMap | None]] = {}
        self._removed: dict[NetworkRef, set[ClientID]] = {}  # which the newest read may not have shown yet

    def __iter__(self) -> Iterator[LiveMap]:
        return iter([network.live for network in self._networks.values()])

    def close(self) -> None:
        """Ends what is under way."""
        for network in self._networks.values():
            network.close()

    def of(self, network_id: NetworkID) -> LiveMap | None:
        """The live map of a network that is loaded."""
        ref = self._refs.get(network_id)
        return None if ref is None else self._networks[ref].live

    async def get(self, ref: NetworkRef) -> LiveMap | None:
        """The live map, loaded if need be; None if there is no such network any more."""
        network = self._networks.get(ref)
        return network.live if network is not None else await self._bring_up(ref)

    async def refresh(self, ref: NetworkRef, *, gather: bool = False) -> LiveMap | None:
        """Brings the map up to what is committed; when it returns, all connected members have been told.

        Callers that come while one reads share the next read: a storm of changes makes few deltas. `gather`: others are
        waited for a moment, and told together with this change.
        """
        began = time.monotonic()
        live = await self._bring_up(ref)
        network = self._networks.get(ref)
        if live is not None and network is not None:
            if not gather:
                network.hurry.set()
                await self._tell(network)
            else:
                if network.gathering is None:
                    network.gathering = asyncio.create_task(self._tell_gathered(network))
                await asyncio.shield(network.gathering)
            self._context.counts.told.observe(time.monotonic() - began)
        return live

    async def catch_up(self) -> None:
        """Takes over what another controller changed in the database."""
        n = schema.networks
        query = sa.select(n.c.ref, n.c.generation, n.c.serial).where(n.c.deleted_at.is_(None))
        newest = await self._context.read(
            lambda conn: {row.ref: (row.generation, row.serial) for row in conn.execute(query)}
        )
        await self.refresh_all([live.ref for live in self if newest.get(live.ref) != live.order])

    async def follow(self, ref: NetworkRef) -> None:
        """Takes over what another controller changed in this network, if its map is loaded."""
        if ref in self._networks:
            await self.refresh(ref)

    async def refresh_all(self, refs: Iterable[NetworkRef]) -> None:
        """Brings these maps up, whatever ails one of them."""
        await for_each(refs, self.refresh, self._context.rare, "a network's map can't be read")

    # reading

    async def _bring_up(self, ref: NetworkRef) -> LiveMap | None:
        waiting = self._next.get(ref)
        if waiting is None:
            waiting = self._next[ref] = asyncio.ensure_future(self._turn(ref))
        return await asyncio.shield(waiting)

    async def _turn(self, ref: NetworkRef) -> LiveMap | None:
        async with self._locks.setdefault(ref, asyncio.Lock()):
            del self._next[ref]  # who comes from here on needs another read
            network = self._networks.get(ref)
            since, known = (None, {}) if network is None else (network.live.order, network.live.keys)
            changes = await self._context.read(lambda conn: read_changes(self._context, conn, ref, since, known))
            if changes is None:
                self._locks.pop(ref, None)
                self._removed.pop(ref, None)
                if network is not None:
                    self._end(network)
                return None
            live = self._take(network, changes)
            if ref in self._removed:
                self._removed[ref] &= live.map.entries.keys()
                if not self._removed[ref]:
                    del self._removed[ref]
            return live

    def _take(self, network: _Network | None, changes: Changes) -> LiveMap:
        if network is None:
            live = LiveMap(self._context, changes)
            self._networks[live.ref] = _Network(live)
            self._refs[live.network_id] = live.ref
            return live
        before = network.live
        if changes.whole:
            network.live = LiveMap(self._context, changes)
            for client_id in before.map.ids:
                if client_id not in network.live.map.entries:
                    self._cut(network.live, client_id, "removed")
        elif changes.network.serial > before.serial:
            fresh = changes.keys.keys() - before.keys.keys()
            before.apply(changes)
            self._follow(before, changes.clients)
            if fresh and network.sealing is None:
                network.sealing = asyncio.create_task(self._seal(network))
        return network.live

    def _end(self, network: _Network) -> None:
        """The network was deleted."""
        live = network.live
        network.hurry.set()
        if network.sealing is not None:
            network.sealing.cancel()
        del self._networks[live.ref], self._refs[live.network_id]
        self.end(live.ref, live.network_id)

    def _follow(self, live: LiveMap, rows: Sequence[Row[Any]]) -> None:
        """Lets links in and cuts them off as the map says, whichever controller made the change."""
        for row in rows:
            if row.state == "approved":
                self.admit(live, row)
            else:
                self._cut(live, ClientID(row.id), row.state)

    # telling

    async def _tell_gathered(self, network: _Network) -> None:
        network.hurry.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(network.hurry.wait(), self._context.timing.join_gather)
        network.gathering = None
        await self._tell(network)

    async def _tell(self, network: _Network) -> None:
        """Everybody who is connected knows the newest map when it returns."""
        async with network.telling:
            if network.told == network.live.order:
                return
            network.told = None
            order = network.live.order
            links = list(self._hub.networks.get(network.live.ref, {}).items())
            for start in range(0, len(links), FAN_OUT_TURN):
                if start:
                    await asyncio.sleep(0)
                self._post_map(network.live, links[start : start + FAN_OUT_TURN])
            network.told = order

    def _post_map(self, live: LiveMap, links: Sequence[tuple[ClientID, DeviceLink]]) -> None:
        """To those of them that don't know it and still follow the network."""
        ref, order, following = live.ref, live.order, self._hub.networks.get(live.ref, {})
        for client_id, link in links:
            held = link.told.get(ref)
            if held != order and following.get(client_id) is link:
                link.post(live.text_for(client_id, held))
                link.told[ref] = order

    # links

    def admit(self, live: LiveMap, row: Row[Any]) -> None:
        """An approved client whose device is connected follows the network on that link; nothing if it does already."""
        link = self._hub.devices.get(DevicePublicKey(row.device_key))
        if link is not None and self._hub.link_of(live.ref, ClientID(row.id)) is not link:
            self.enter(live, link, row, None)

    def enter(self, live: LiveMap, link: DeviceLink, row: Row[Any], state: MapState | None) -> None:
        """The link follows the network from now on. `state`: what the device says it has of it."""
        client_id = ClientID(row.id)
        held = None if state is None else (state.generation, state.serial)
        epochs = frozenset[int]() if state is None else live.held(state.keys)
        grant = self.grant(live.ref, client_id, SealingPublicKey(row.sealing_key), epochs)
        if grant is None:
            self.wait(link, live.ref, client_id)  # another controller let it in: the map will say so
            return
        self._hub.join(link, live.ref, client_id)
        link.post(encode(grant))
        link.post(live.text_for(client_id, held))  # an empty delta, too: it says that there is nothing newer
        link.told[live.ref] = live.order
        self._presences.came(link, live.ref, live.network_id)

    def wait(self, link: DeviceLink, ref: NetworkRef, client_id: ClientID) -> None:
        """The link follows the network once its client is in the map; nothing if it ended since it was read of."""
        if not link.ended.intersection((ref, client_id)) and client_id not in self._removed.get(ref, ()):
            self._hub.wait(link, ref, client_id)

    def _cut(self, live: LiveMap, client_id: ClientID, reason: str) -> None:
        link = self._hub.link_of(live.ref, client_id) or self._hub.waiting_link(live.ref, client_id)
        if link is not None:
            self._part(link, live.ref, live.network_id, client_id, reason)

    def cut_off(
        self, ref: NetworkRef, network_id: NetworkID, client_id: ClientID, device_key: DevicePublicKey, reason: str
    ) -> None:
        """The removal of this client is committed: it is told, and gets nothing more, whatever was read before."""
        self._removed.setdefault(ref, set()).add(client_id)
        link = self._hub.devices.get(device_key)
        if link is not None:
            if link.greeting:
                link.ended.add(client_id)
            self._part(link, ref, network_id, client_id, reason)
        else:
            self._presences.went(ref, client_id, at_once=True)

    def end(self, ref: NetworkRef, network_id: NetworkID) -> None:
        """The network was deleted: tells all whose devices are connected, those that wait for approval, too."""
        for link in self._hub.devices.values():
            if link.greeting:
                link.ended.add(ref)
        for client_id, link in self._hub.following(ref).items():
            self._part(link, ref, network_id, client_id, "deleted")

    def _part(self, link: DeviceLink, ref: NetworkRef, network_id: NetworkID, client_id: ClientID, reason: str) -> None:
        at = self._context.now().timestamp()
        link.post(encode(Removed(network_id=network_id, reason=reason, at=at)))
        self._hub.part(link, ref)
        self._presences.went(ref, client_id, at_once=True)
        close_if_done(link)

    # grants

    async def _seal(self, network: _Network) -> None:
        """Gives every member that is connected the keys of all epochs, a few at a time."""
        try:
            epochs: Set[int] = frozenset()
            while network.live.keys.keys() - epochs:
                epochs = network.live.keys.keys()
                links = list(self._hub.networks.get(network.live.ref, {}).items())
                for start in range(0, len(links), _SEALED_AT_ONCE):
                    await self._seal_for(network, dict(links[start : start + _SEALED_AT_ONCE]))
        except ShadowMeshError as e:  # who didn't get the key asks for it when a peer uses it
            log.error("keys of a new epoch not handed out", network=network.live.ref, why=str(e))
        finally:
            network.sealing = None

    async def _seal_for(self, network: _Network, links: dict[ClientID, DeviceLink]) -> None:
        rows = await self._context.read(lambda conn: _sealing_keys(conn, list(links)))
        for client_id, link in links.items():
            live, key = network.live, rows.get(client_id)
            grant = None if key is None else self.grant(live.ref, client_id, key)
            if grant is not None and self._hub.link_of(live.ref, client_id) is link:
                link.post(encode(grant))

    def grant(
        self, ref: NetworkRef, client_id: ClientID, sealing: SealingPublicKey, held: Set[int] = frozenset()
    ) -> Grant | None:
        """What this client gets, to be posted before anything is awaited; None if it is no member, or was removed.

        `held`: epochs whose keys it holds already. Membership, address and keys are those of one map: who is out of it gets no key that is newer.
        """
        network = self._networks.get(ref)
        member = None if network is None else network.live.map.member(client_id)
        if network is None or member is None or client_id in self._removed.get(ref, ()):
            return None
        live = network.live
        return make_grant(self._context, live.network_id, live.keys, member, sealing, live.limits, held)


def close_if_done(link: DeviceLink) -> None:
    """Closes a link on which no network is followed or waited for. One that says its hello is looked at at its end."""
    if not (link.greeting or link.clients or link.waiting):
        link.close(NO_NETWORK_LEFT, "no network left")


def _sealing_keys(conn: Connection, clients: Sequence[ClientID]) -> dict[ClientID, SealingPublicKey]:
    t = schema.clients
    query = sa.select(t.c.id, t.c.sealing_key).where(t.c.id.in_(clients), t.c.state == "approved")
    return {ClientID(row.id): SealingPublicKey(row.sealing_key) for row in conn.execute(query)}
