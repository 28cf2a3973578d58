"""Clients of a network: list, show, approve, deny, rename, set, remove."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, require_in
from shadowmesh.controller.errors import conflict, not_found
from shadowmesh.controller.service import addresses, epochs
from shadowmesh.controller.service.audit_log import difference, record, shown
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import Hub, encode
from shadowmesh.controller.service.invites import name_taken
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.revocations import revoke_client
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump
from shadowmesh.model import api
from shadowmesh.model.ids import ClientID, NetworkRef, device_id, is_id
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey, WireGuardPublicKey
from shadowmesh.model.link import Presence
from shadowmesh.model.relaylink import Revocation, Revocations

ALIVE = ("approved", "pending")


@dataclass(frozen=True, slots=True)
class Gone:
    """A client that was removed, and what has to be told of it."""

    ref: NetworkRef
    network_id: NetworkID
    client_id: ClientID
    name: str
    reason: str
    revoked: Revocation


def find_client(conn: Connection, network: Row[Any], name: str) -> Row[Any]:
    """By id, name or overlay address. Raises ShadowMeshError(client_unknown)."""
    c = schema.clients
    if is_id(name, "cli"):
        by: sa.ColumnElement[bool] = c.c.id == name
    else:
        try:
            by = c.c.ip == int(ipaddress.IPv4Address(name))
        except ValueError:
            by = c.c.name == name
    row = conn.execute(sa.select(c).where(by, c.c.network_ref == network.ref, c.c.state.in_(ALIVE))).first()
    if row is None:
        raise not_found(
            "client_unknown",
            f"{network.name} has no client {name[:80]!r}",
            f"`shadowmesh client list {network.name}` names them",
        )
    return row


class Clients:
    def __init__(self, core: Core, hub: Hub, maps: Maps, events: Events) -> None:
        self._core = core
        self._hub = hub
        self._maps = maps
        self._events = events

    async def list(
        self, who: Principal, network_name: str, after: str | None, limit: int, state: str | None = None
    ) -> api.Page[api.Client]:
        """By id."""
        c = schema.clients

        def tx(conn: Connection) -> api.Page[api.Client]:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            states = (state,) if state in ALIVE else ALIVE
            query = (
                sa.select(c)
                .where(c.c.network_ref == network.ref, c.c.state.in_(states))
                .order_by(c.c.id)
                .limit(limit + 1)
            )
            if after is not None:
                query = query.where(c.c.id > after)
            rows = conn.execute(query).all()
            relays = relay_names(conn)
            more = rows[limit - 1].id if len(rows) > limit else None
            return api.Page(items=[self._view(row, network, relays) for row in rows[:limit]], next=more)

        return await self._core.read(tx)

    async def show(self, who: Principal, network_name: str, name: str) -> api.Client:
        def tx(conn: Connection) -> api.Client:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            return self._view(find_client(conn, network, name), network, relay_names(conn))

        return await self._core.read(tx)

    async def approve(self, who: Principal, network_name: str, name: str) -> api.Client:
        """Lets a waiting client in; approving twice is no error."""

        def tx(conn: Connection) -> tuple[api.Client, Row[Any], bool]:
            network = find_network(conn, who, network_name, Permission.NETWORK_INVITE, lock=True)
            row = find_client(conn, network, name)
            changed = row.state == "pending"
            if changed:
                c = schema.clients
                serial = bump(conn, network.ref)
                conn.execute(
                    c.update()
                    .where(c.c.id == row.id)
                    .values(state="approved", approved_at=self._core.now(), changed_serial=serial)
                )
                more = difference(row, {"state": "approved"})
                record(self._core, conn, who, "client.approve", row.name, id=row.id, network=network.name, **more)
                row = find_client(conn, network, row.id)
            return self._view(row, network, relay_names(conn)), row, changed

        answer, row, changed = await self._core.write(tx)
        if changed:
            ref = NetworkRef(answer.network)
            live = await self._maps.refresh(ref)
            if live is not None:
                self._maps.admit(live, row)
            self._events.publish(
                "network_changed", ref, change="client_approved", client_id=answer.id, name=answer.name
            )
        return answer

    async def set(self, who: Principal, network_name: str, name: str, wish: api.ClientPatch) -> api.Client:
        """Renames, moves to another address, sets tags."""
        changes = wish.model_dump(exclude_none=True)

        def tx(conn: Connection) -> api.Client:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            row = find_client(conn, network, name)
            values: dict[str, Any] = dict(changes)
            c = schema.clients
            if wish.name is not None and wish.name != row.name:
                taken = sa.select(c.c.id).where(
                    c.c.network_ref == network.ref, c.c.name == wish.name, c.c.state.in_(ALIVE)
                )
                if conn.execute(taken).first() is not None:
                    raise name_taken(wish.name, network.name)
            if wish.ip is not None:
                values["ip"] = int(wish.ip)
                if values["ip"] != row.ip:
                    now = self._core.now()
                    addresses.claim(conn, network, row.id, values["ip"], now)
                    addresses.free(conn, network.ref, row.ip, now + epochs.seconds(self._core.timing.address_rest))
            if values:
                conn.execute(
                    c.update().where(c.c.id == row.id).values(**values, changed_serial=bump(conn, network.ref))
                )
                more = difference(row, values)
                record(self._core, conn, who, "client.set", row.name, id=row.id, network=network.name, **more)
            return self._view(find_client(conn, network, row.id), network, relay_names(conn))

        answer = await self._core.write(tx)
        ref = NetworkRef(answer.network)
        await self._maps.refresh(ref)
        if wish.ip is not None:
            await self._regrant(ref, ClientID(answer.id))
        self._events.publish("network_changed", ref, change="client_set", client_id=answer.id, fields=sorted(changes))
        return answer

    async def _regrant(self, ref: NetworkRef, client_id: ClientID) -> None:
        """The relay token names the address: a client that moved needs a new one."""
        c = schema.clients
        row = await self._core.read(lambda conn: conn.execute(sa.select(c).where(c.c.id == client_id)).one())
        grant = self._maps.grant(ref, client_id, SealingPublicKey(row.sealing_key))
        link = self._hub.link_of(ref, client_id)
        if grant is not None and link is not None:
            link.post(encode(grant))

    async def deny(self, who: Principal, network_name: str, name: str) -> None:
        """Refuses a client that waits for approval."""

        def tx(conn: Connection) -> Gone:
            network = find_network(conn, who, network_name, Permission.NETWORK_INVITE, lock=True)
            row = find_client(conn, network, name)
            if row.state != "pending":
                raise conflict("not_pending", f"{row.name} doesn't wait for approval", "use `shadowmesh client remove`")
            return remove_client(self._core, conn, who, network, row, "denied")

        await self.tell_gone(await self._core.write(tx))

    async def remove(self, who: Principal, network_name: str, name: str) -> None:
        """Out of the map, off the relays, and the key rotates. Who may bring in machines may remove their own."""

        def tx(conn: Connection) -> Gone:
            needed = (Permission.CLIENT_REMOVE, Permission.CLIENT_REGISTER)
            network = find_network(conn, who, network_name, *needed, lock=True)
            row = find_client(conn, network, name)
            if row.owner_id is None or row.owner_id != who.user_id:
                require_in(conn, who, network, Permission.CLIENT_REMOVE)
            return remove_client(self._core, conn, who, network, row, "removed")

        await self.tell_gone(await self._core.write(tx))

    async def tell_gone(self, gone: Gone) -> None:
        """To the client, the relays, the members, the watchers."""
        self.end(gone)
        await self.tell_others(gone)

    def end(self, gone: Gone) -> None:
        """At the relays and here, at once."""
        self._hub.to_relays(Revocations(complete=False, entries=(gone.revoked,)))
        assert gone.revoked.device_key is not None
        self._maps.cut_off(gone.ref, gone.network_id, gone.client_id, gone.revoked.device_key, gone.reason)

    async def tell_others(self, gone: Gone) -> None:
        """The members, the watchers."""
        await self._maps.refresh(gone.ref)
        self._events.publish("client_removed", gone.ref, client_id=gone.client_id, name=gone.name, reason=gone.reason)

    def _view(self, row: Row[Any], network: Row[Any], relays: Mapping[str, str]) -> api.Client:
        ref, client_id = NetworkRef(network.ref), ClientID(row.id)
        presence = self._hub.presence.get(ref, {}).get(client_id) or Presence(client_id=client_id, online=False)
        return api.Client(
            id=row.id,
            network=network.ref,
            network_name=network.name,
            name=row.name,
            ip=str(ipaddress.IPv4Address(row.ip)),
            state=row.state,
            online=presence.online,
            tags=row.tags,
            wg_key=str(WireGuardPublicKey(row.wg_key)),
            device=device_id(row.device_key),
            device_key=str(DevicePublicKey(row.device_key)),
            owner=row.owner_id,
            invite=row.invite_id,
            created_at=row.created_at,
            approved_at=row.approved_at,
            last_seen=self._core.now() if presence.online else row.last_seen,
            relay=relays.get(presence.home or ""),
            endpoints=[str(e) for e in presence.endpoints],
            version=row.version,
            epoch=row.epoch_held,
        )


def relay_names(conn: Connection) -> Mapping[str, str]:
    r = schema.relays
    return {row.id: row.name for row in conn.execute(sa.select(r.c.id, r.c.name).where(r.c.removed_at.is_(None)))}


def remove_client(core: Core, conn: Connection, who: Principal, network: Row[Any], row: Row[Any], reason: str) -> Gone:
    """The transaction's part of a removal. The caller holds the network's row."""
    c, now = schema.clients, core.now()
    was_member = row.state == "approved"
    serial = bump(conn, network.ref) if was_member else network.serial
    state = reason if reason in ("denied", "expired") else "removed"
    conn.execute(
        c.update().where(c.c.id == row.id).values(state=state, removed_at=now, changed_serial=serial, epoch_held=None)
    )
    addresses.free(conn, network.ref, row.ip, now + epochs.seconds(core.timing.address_rest))
    network_id = NetworkID(network.network_id)
    revoked = revoke_client(core, conn, network, row, reason)
    rotated = epochs.rotate_or_merge(core, conn, network, now) if was_member else False
    more = {"before": shown(row._mapping, "name", "ip", "state", "tags", "owner_id"), "after": {"state": state}}
    record(
        core,
        conn,
        who,
        "client.remove",
        row.name,
        id=row.id,
        network=network.name,
        reason=reason,
        rotated=rotated,
        **more,
    )
    return Gone(NetworkRef(network.ref), network_id, ClientID(row.id), row.name, reason, revoked)
