"""Registering a client by its WireGuard key alone, for programs: it waits until whoever has the key has proved it.

What is registered is in nobody's map and has neither a device's key nor a relay token. It holds a name and an address
for an hour: `service.enrolment` makes it a member when the same key is proved there by the same invite. Who proves the
key by another invite doesn't find it in the way; what nobody has proved by then is removed.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM, Permission, Principal, find_network, require_signed_in
from shadowmesh.controller.service import addresspool, invites
from shadowmesh.controller.service.addresspool import PoolEmpty
from shadowmesh.controller.service.audit_log import record, shown
from shadowmesh.controller.service.clients import Clients, RemovedClient, remove_client
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.grants import open_keys, sealed_key
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.idempotency import IdempotentRequest
from shadowmesh.controller.service.newcomers import (
    InviteGuesses,
    check_key_free,
    check_room,
    free_name,
    pool_empty,
    waits,
)
from shadowmesh.controller.service.peers import relay_urls
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model import api
from shadowmesh.model.ids import ClientID, NetworkRef, new_id
from shadowmesh.model.keys import NetworkID, SealingPublicKey, WireGuardPublicKey
from shadowmesh.protocol.points import check_x25519
from shadowmesh.serving.tasks import for_each

UNPROVEN_LIFE = dt.timedelta(hours=1)


class Registration:
    def __init__(
        self, context: ServiceContext, hub: Hub, clients: Clients, events: Events, guesses: InviteGuesses
    ) -> None:
        self._context = context
        self._hub = hub
        self._clients = clients
        self._events = events
        self._guesses = guesses

    async def register(
        self,
        who: Principal,
        network_name: str,
        wish: api.ClientRegister,
        source: str,
        once: IdempotentRequest | None = None,
    ) -> api.ClientRegistered:
        """Raises ShadowMeshError: invite_invalid (also of a network that the code isn't of) and what else a code may be
        refused by, network_unknown, not_allowed, network_full, name_taken, key_taken, pool_empty.
        """
        key = WireGuardPublicKey.parse(wish.public_key)
        check_x25519(key, "WireGuard key")
        empty: list[str] = []  # the network whose pool is

        def tx(conn: Connection) -> tuple[api.ClientRegistered, bool]:
            require_signed_in(conn, who, self._context.now())
            network, invite = self._admitted(conn, who, network_name, wish.invitation_code)
            if once and (earlier := once.found(self._context, conn, who, api.ClientRegistered)):
                return earlier, False
            empty[:] = [network.ref]
            answer = self._insert(conn, who, network, invite, wish, key)
            if once:
                once.keep(self._context, conn, who, answer)
            return answer, True

        try:
            if wish.invitation_code is None:
                answer, fresh = await self._context.write(tx)
            else:
                now = self._context.now().timestamp()
                answer, fresh = await self._guesses.counted(True, source, now, lambda: self._context.write(tx))
        except PoolEmpty as e:
            raise await self._context.read(lambda conn: pool_empty(conn, self._hub, empty[0])) from e
        if fresh:
            change = {"change": "client_registered", "client_id": answer.client_id, "name": wish.client_name}
            self._events.publish("network_changed", NetworkRef(answer.network_id), **change)
        return answer

    def _admitted(
        self, conn: Connection, who: Principal, name: str, code: str | None
    ) -> tuple[Row[Any], Row[Any] | None]:
        """The network, and the code's invite."""
        if code is None:
            return find_network(conn, who, name, Permission.CLIENT_REGISTER, lock=True), None
        invite = invites.by_code(self._context, conn, code)
        network = living_network(conn, invite.network_ref, lock=True)
        if network is None or name.lower() not in (network.ref, network.name_key):
            raise invites.invalid()  # whether there is a network of this name is nobody's business
        return network, invite

    def _insert(
        self,
        conn: Connection,
        who: Principal,
        network: Row[Any],
        invite: Row[Any] | None,
        wish: api.ClientRegister,
        key: WireGuardPublicKey,
    ) -> api.ClientRegistered:
        context, now = self._context, self._context.now()
        client_id, until, text = ClientID(new_id("cli")), now + UNPROVEN_LIFE, None
        check_room(conn, network)
        check_key_free(conn, network, key, client_id)
        if invite is not None:
            invites.use(conn, invite, now)
        else:
            invite, text = invites.add_for_one(context, conn, who, network, until)
        name = free_name(conn, network, invite.client_name or wish.client_name)
        ip = addresspool.claim(conn, network, client_id, invite.ip, now)
        given, reason = self._key(conn, network, wish, wait=waits(network, by_code=text is None))
        told = {"name": name, "ip": ip, "state": "pending", "wg_key": key, "tags": invite.tags, "owner_id": who.user_id}
        nat = None if wish.nat_capability is None else wish.nat_capability.model_dump(mode="json")
        conn.execute(
            schema.clients.insert().values(
                id=client_id,
                network_ref=network.ref,
                **told,
                invite_id=invite.id,
                created_at=now,
                version="",
                changed_serial=network.serial,
                epoch_held=None if given is None else given.epoch,
                ephemeral=False,
                idle=invite.idle,
                unproven_until=until,
                nat=sa.null() if nat is None else nat,
            )
        )
        more = {"network": network.name, "invite": invite.id, "key_given": given is not None}
        record(context, conn, who, "client.register", name, id=client_id, **more, after=shown(told, *told))
        return api.ClientRegistered(
            client_id=client_id,
            network_id=network.ref,
            assigned_ip=str(ipaddress.IPv4Address(ip)),
            network_key=given,
            network_key_reason=reason,
            relay_server=next(iter(relay_urls(conn, self._hub, network).values()), None),
            expires_at=until,
            invite=text,
        )

    def _key(
        self, conn: Connection, network: Row[Any], wish: api.ClientRegister, *, wait: bool
    ) -> tuple[api.SealedNetworkKey | None, Literal["no_sealing_key", "waits_for_approval"] | None]:
        """The key of the current epoch, sealed, or why there is none."""
        if wish.sealing_key is None:
            return None, "no_sealing_key"
        if wait:
            return None, "waits_for_approval"
        e = schema.epochs
        rows = conn.execute(sa.select(e).where(e.c.network_ref == network.ref).order_by(e.c.epoch)).all()
        row = [x for x in rows if x.current_from <= self._context.now()][-1:] or rows[:1]
        ((epoch, key),) = open_keys(self._context, network.ref, row, {}).items()
        sealed = sealed_key(NetworkID(network.network_id), epoch, key, SealingPublicKey.parse(wish.sealing_key))
        return api.SealedNetworkKey(sealed=sealed, epoch=epoch), None

    async def expire(self) -> None:
        """Removes what hasn't been proved in time."""
        c, now = schema.clients, self._context.now()
        query = sa.select(c.c.network_ref, c.c.id).where(c.c.unproven_until <= now, c.c.state == "pending")
        due = await self._context.read(lambda conn: [(str(ref), str(client)) for ref, client in conn.execute(query)])

        async def remove(client: tuple[str, str]) -> None:
            gone = await self._context.write(lambda conn: self._remove(conn, *client))
            if gone is not None:
                await self._clients.tell_gone(gone)

        failed = "a client that never proved its key can't be removed"
        await for_each(due, remove, self._context.rare, failed, lambda client: client[1])

    def _remove(self, conn: Connection, ref: str, client_id: str) -> RemovedClient | None:
        c = schema.clients
        network = living_network(conn, ref, lock=True)
        due = sa.and_(c.c.id == client_id, c.c.state == "pending", c.c.unproven_until <= self._context.now())
        row = conn.execute(sa.select(c).where(due).with_for_update()).first()
        if network is None or row is None:
            return None  # proved, or removed, a moment ago
        return remove_client(self._context, conn, SYSTEM, network, row, "expired")
