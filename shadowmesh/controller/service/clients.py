"""Clients of a network: list, show, approve, deny, rename, set, remove."""

from __future__ import annotations

import builtins
import datetime as dt
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, permissions_in, require_in
from shadowmesh.controller.refusals import MOST_NAMES, conflict, unknown
from shadowmesh.controller.service import addresspool, epochs
from shadowmesh.controller.service.audit_log import difference, record, shown
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import Hub, encode
from shadowmesh.controller.service.invites import name_taken
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.reports import NOTHING_KNOWN, ClientHealth, Reports
from shadowmesh.controller.service.revocations import revoke_client
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump
from shadowmesh.model import api
from shadowmesh.model.devicelink import Presence
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID, NetworkRef, device_id, is_id
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey, WireGuardPublicKey
from shadowmesh.model.relaylink import Revocation

ALIVE = ("approved", "pending")


@dataclass(frozen=True, slots=True)
class RemovedClient:
    """A client that was removed, and what has to be told of it."""

    ref: NetworkRef
    network_id: NetworkID
    client_id: ClientID
    name: str
    reason: str
    revoked: Revocation | None  # None: it never proved a key, and never had a token


def find_client(conn: Connection, network: Row[Any], name: str, who: Principal | None = None) -> Row[Any]:
    """By id, name or overlay address. Raises ShadowMeshError(client_unknown), which tells `who` may see the network what they
    may have meant."""
    c = schema.clients
    if is_id(name, "cli"):
        by: sa.ColumnElement[bool] = c.c.id == name
    else:
        try:
            by = c.c.ip == int(ipaddress.IPv4Address(name))
        except ValueError:
            by = c.c.name == name
    row = conn.execute(sa.select(c).where(by, c.c.network_ref == network.ref, schema.LIVING)).first()
    if row is None:
        known: Sequence[str] = ()
        if who is not None and Permission.NETWORK_VIEW in permissions_in(conn, who, network.ref):
            there = sa.select(c.c.name).where(c.c.network_ref == network.ref, schema.LIVING).limit(MOST_NAMES)
            known = conn.execute(there).scalars().all()
        raise client_unknown(network, name, known)
    return row


def client_unknown(network: Row[Any], name: str, known: Sequence[str] = ()) -> ShadowMeshError:
    what = f"{network.name} has no client {name[:80]!r}"
    return unknown("client_unknown", what, name, known, f"shadowmesh client list {network.name}")


class Clients:
    def __init__(self, context: ServiceContext, hub: Hub, maps: Maps, events: Events, reports: Reports) -> None:
        self._context = context
        self._hub = hub
        self._maps = maps
        self._events = events
        self._reports = reports

    async def list(
        self, who: Principal, network_name: str, after: str | None, limit: int, state: str | None = None
    ) -> api.ClientList:
        """By id."""
        c = schema.clients

        def tx(conn: Connection) -> api.ClientList:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            of_state = sa.and_(schema.LIVING, c.c.state == state) if state in ALIVE else schema.LIVING
            query = sa.select(c).where(c.c.network_ref == network.ref, of_state).order_by(c.c.id).limit(limit + 1)
            if after is not None:
                query = query.where(c.c.id > after)
            rows = conn.execute(query).all()
            more = rows[limit - 1].id if len(rows) > limit else None
            return api.ClientList(clients=self._views(conn, who, network, rows[:limit]), next=more)

        return await self._context.read(tx)

    async def arrived(
        self, who: Principal, network_name: str, since: dt.datetime, limit: int
    ) -> builtins.list[api.Client]:
        """Who came since then, the newest first."""
        c = schema.clients

        def tx(conn: Connection) -> builtins.list[api.Client]:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            came = sa.select(c).where(c.c.network_ref == network.ref, schema.LIVING, c.c.created_at >= since)
            newest = came.order_by(c.c.created_at.desc(), c.c.id).limit(limit)
            return self._views(conn, who, network, conn.execute(newest).all())

        return await self._context.read(tx)

    def _views(
        self, conn: Connection, who: Principal, network: Row[Any], rows: Sequence[Row[Any]]
    ) -> builtins.list[api.Client]:
        relays, healths = relay_names(conn), self._reports.of(conn, [row.id for row in rows])
        where = may_connect(conn, who, network)
        return [self._view(row, network, relays, healths, where=where) for row in rows]

    async def show(self, who: Principal, network_name: str, name: str) -> api.Client:
        def tx(conn: Connection) -> api.Client:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            where = may_connect(conn, who, network)
            return self._view_of(conn, find_client(conn, network, name, who), network, where=where)

        return await self._context.read(tx)

    async def approve(self, who: Principal, network_name: str, name: str) -> api.Client:
        """Lets a waiting client in; approving twice is no error."""

        def tx(conn: Connection) -> tuple[api.Client, Row[Any], bool]:
            network = find_network(conn, who, network_name, Permission.NETWORK_INVITE, lock=True)
            row = find_client(conn, network, name, who)
            if row.unproven_until is not None:
                raise conflict(
                    "key_not_proved",
                    f"{row.name} was registered and hasn't proved its key",
                    "let it enrol with the same key first, or declare it a plain WireGuard device (--plain-wireguard);"
                    " until then it can only be denied or removed",
                )
            changed = row.state == "pending"
            if changed:
                c = schema.clients
                serial = bump(conn, network.ref)
                conn.execute(
                    c.update()
                    .where(c.c.id == row.id)
                    .values(state="approved", approved_at=self._context.now(), changed_serial=serial)
                )
                more = difference(row, {"state": "approved"})
                record(self._context, conn, who, "client.approve", row.name, id=row.id, network=network.name, **more)
                row = find_client(conn, network, row.id)
            return self._view_of(conn, row, network), row, changed

        answer, row, changed = await self._context.write(tx)
        if changed:
            ref = NetworkRef(answer.network_id)
            live = await self._maps.refresh(ref)
            if live is not None:
                self._maps.admit(live, row)
            self._events.publish(
                "network_changed", ref, change="client_approved", client_id=answer.client_id, name=answer.name
            )
        return answer

    async def set(self, who: Principal, network_name: str, name: str, wish: api.ClientPatch) -> api.Client:
        """Renames, moves to another address, sets tags."""
        changes = wish.model_dump(exclude_none=True)

        def tx(conn: Connection) -> api.Client:
            network = find_network(conn, who, network_name, Permission.NETWORK_CONFIGURE, lock=True)
            row = find_client(conn, network, name, who)
            values: dict[str, Any] = dict(changes)
            c = schema.clients
            if wish.name is not None and wish.name != row.name:
                taken = sa.select(c.c.id).where(c.c.network_ref == network.ref, c.c.name == wish.name, schema.LIVING)
                if conn.execute(taken).first() is not None:
                    raise name_taken(wish.name, network.name)
            if wish.ip is not None:
                values["ip"] = int(wish.ip)
                if values["ip"] != row.ip:
                    now = self._context.now()
                    addresspool.claim(conn, network, row.id, values["ip"], now)
                    addresspool.free(conn, network.ref, row.ip, now + epochs.seconds(self._context.timing.address_rest))
            if values:
                conn.execute(
                    c.update().where(c.c.id == row.id).values(**values, changed_serial=bump(conn, network.ref))
                )
                more = difference(row, values)
                record(self._context, conn, who, "client.set", row.name, id=row.id, network=network.name, **more)
            return self._view_of(conn, find_client(conn, network, row.id), network)

        answer = await self._context.write(tx)
        ref = NetworkRef(answer.network_id)
        await self._maps.refresh(ref)
        if wish.ip is not None:
            await self._regrant(ref, ClientID(answer.client_id))
        self._events.publish(
            "network_changed", ref, change="client_set", client_id=answer.client_id, fields=sorted(changes)
        )
        return answer

    async def _regrant(self, ref: NetworkRef, client_id: ClientID) -> None:
        """The relay token names the address: a client that moved needs a new one."""
        c = schema.clients
        row = await self._context.read(lambda conn: conn.execute(sa.select(c).where(c.c.id == client_id)).one())
        if is_plain(row):
            return
        grant = self._maps.grant(ref, client_id, SealingPublicKey(row.sealing_key))
        link = self._hub.link_of(ref, client_id)
        if grant is not None and link is not None:
            link.post(encode(grant))

    async def deny(self, who: Principal, network_name: str, name: str) -> None:
        """Refuses a client that waits for approval."""

        def tx(conn: Connection) -> RemovedClient:
            network = find_network(conn, who, network_name, Permission.NETWORK_INVITE, lock=True)
            row = find_client(conn, network, name, who)
            if row.state != "pending":
                raise conflict("not_pending", f"{row.name} doesn't wait for approval", "use `shadowmesh client remove`")
            return remove_client(self._context, conn, who, network, row, "denied")

        await self.tell_gone(await self._context.write(tx))

    async def remove(self, who: Principal, network_name: str, name: str) -> None:
        """Out of the map, off the relays, and the key rotates. Who may bring in machines may remove their own."""

        def tx(conn: Connection) -> RemovedClient:
            needed = (Permission.CLIENT_REMOVE, Permission.CLIENT_REGISTER)
            network = find_network(conn, who, network_name, *needed, lock=True)
            row = find_client(conn, network, name, who)
            if row.owner_id is None or row.owner_id != who.user_id:
                require_in(conn, who, network, Permission.CLIENT_REMOVE)
            return remove_client(self._context, conn, who, network, row, "removed")

        await self.tell_gone(await self._context.write(tx))

    async def tell_gone(self, gone: RemovedClient) -> None:
        """To the client, the relays, the members, the watchers."""
        self.end(gone)
        await self.tell_others(gone)

    def end(self, gone: RemovedClient) -> None:
        """At the relays and here, at once."""
        if gone.revoked is None:
            return
        self._hub.revoke(gone.revoked)
        assert gone.revoked.device_key is not None
        self._maps.cut_off(gone.ref, gone.network_id, gone.client_id, gone.revoked.device_key, gone.reason)

    async def tell_others(self, gone: RemovedClient) -> None:
        """The members, the watchers."""
        await self._maps.refresh(gone.ref)
        self._events.publish("client_removed", gone.ref, client_id=gone.client_id, name=gone.name, reason=gone.reason)

    def _status(self, ref: NetworkRef, client_id: ClientID) -> api.ClientStatus:
        if client_id in self._hub.presence.get(ref, {}):
            return "online"
        return "connecting" if self._hub.waiting_link(ref, client_id) is not None else "offline"

    def _view_of(self, conn: Connection, row: Row[Any], network: Row[Any], *, where: bool = True) -> api.Client:
        return self._view(row, network, relay_names(conn), self._reports.of(conn, [row.id]), where=where)

    def _view(
        self,
        row: Row[Any],
        network: Row[Any],
        relays: Mapping[str, str],
        healths: Mapping[str, ClientHealth],
        *,
        where: bool = True,
    ) -> api.Client:
        """`where`: also where it can be reached."""
        health = healths.get(row.id, NOTHING_KNOWN)
        ref, client_id = NetworkRef(network.ref), ClientID(row.id)
        presence = self._hub.presence.get(ref, {}).get(client_id) or Presence(client_id=client_id, online=False)
        return api.Client(
            client_id=row.id,
            network_id=network.ref,
            network_name=network.name,
            name=row.name,
            ip=str(ipaddress.IPv4Address(row.ip)),
            state=row.state,
            status=self._status(ref, client_id),
            connection_type=health.connection_type,
            latency_ms=health.latency_ms,
            rx_rate=health.rx_rate,
            tx_rate=health.tx_rate,
            nat_type=health.nat_type or (row.nat or {}).get("nat_type"),
            tags=row.tags,
            public_key=str(WireGuardPublicKey(row.wg_key)),
            device="" if row.device_key is None else device_id(row.device_key),
            device_key=None if row.device_key is None or is_plain(row) else str(DevicePublicKey(row.device_key)),
            plain_wireguard=is_plain(row),
            owner=row.owner_id,
            invite=row.invite_id,
            created_at=row.created_at,
            approved_at=row.approved_at,
            last_seen=self._context.now() if presence.online else row.last_seen,
            relay=relays.get(presence.home or ""),
            endpoints=[str(e) for e in presence.endpoints] if where else [],
            expires_at=row.unproven_until,
            version=row.version,
            epoch=row.epoch_held,
        )


def is_plain(row: Row[Any]) -> bool:
    """Whether it is a plain WireGuard device (`service.plainwireguard`): a member that nothing can be sealed to."""
    return row.state == "approved" and row.sealing_key is None


def may_connect(conn: Connection, who: Principal, network: Row[Any]) -> bool:
    """Whether `who` may have clients of their own there, and so know where others are reached."""
    return Permission.CLIENT_REGISTER in permissions_in(conn, who, network.ref)


def relay_names(conn: Connection) -> Mapping[str, str]:
    r = schema.relays
    return {row.id: row.name for row in conn.execute(sa.select(r.c.id, r.c.name).where(r.c.removed_at.is_(None)))}


def remove_client(
    context: ServiceContext, conn: Connection, who: Principal, network: Row[Any], row: Row[Any], reason: str
) -> RemovedClient:
    """The transaction's part of a removal. The caller holds the network's row."""
    c, now = schema.clients, context.now()
    was_member = row.state == "approved"
    serial = bump(conn, network.ref) if was_member else network.serial
    state = reason if reason in ("denied", "expired") else "removed"
    conn.execute(
        c.update().where(c.c.id == row.id).values(state=state, removed_at=now, changed_serial=serial, epoch_held=None)
    )
    addresspool.free(conn, network.ref, row.ip, now + epochs.seconds(context.timing.address_rest))
    network_id = NetworkID(network.network_id)
    revoked = None if row.device_key is None else revoke_client(context, conn, network, row, reason)
    # Who was registered may have been given the key before it was a member.
    knew_key = was_member or row.epoch_held is not None
    rotated = epochs.rotate_or_merge(context, conn, network, now) if knew_key else False
    more = {"before": shown(row._mapping, "name", "ip", "state", "tags", "owner_id"), "after": {"state": state}}
    record(
        context,
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
    return RemovedClient(NetworkRef(network.ref), network_id, ClientID(row.id), row.name, reason, revoked)
