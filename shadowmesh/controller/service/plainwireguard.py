"""Plain WireGuard devices: members that have a WireGuard key and nothing else of ours, neither a daemon nor an identity.

Whoever may let clients in declares a registered client to be one, in the place of the proof that it can't give: they vouch
for the key. In the map it is a member like others, with a device key of which nobody has the private half: nothing can ever
connect as that device. It speaks first, to members whose endpoint is known, under the preshared keys of the current epoch.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network, require_signed_in
from shadowmesh.controller.refusals import conflict, not_found
from shadowmesh.controller.service.audit_log import difference, record
from shadowmesh.controller.service.clients import Clients, find_client, is_plain
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.grants import open_keys
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.peers import Peers
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump
from shadowmesh.model import api
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.keys import NetworkID, WireGuardPublicKey
from shadowmesh.protocol.psk import derive_psk
from shadowmesh.protocol.signing import Signer


class PlainWireGuard:
    def __init__(self, context: ServiceContext, maps: Maps, events: Events, clients: Clients, peers: Peers) -> None:
        self._context = context
        self._maps = maps
        self._events = events
        self._clients = clients
        self._peers = peers

    async def declare(self, who: Principal, network_name: str, name: str) -> api.Client:
        """Raises ShadowMeshError: network_unknown, not_allowed, client_unknown, not_registered."""
        c = schema.clients

        def tx(conn: Connection) -> tuple[str, str, bool]:
            require_signed_in(conn, who, self._context.now())
            network = find_network(conn, who, network_name, Permission.NETWORK_INVITE, lock=True)
            row = find_client(conn, network, name, who)
            if is_plain(row):
                return network.ref, row.id, False
            if row.unproven_until is None:
                raise conflict(
                    "not_registered",
                    f"{row.name} runs shadowmesh: it has proved its key",
                    "only a client that was registered by its public key alone can be a plain WireGuard device",
                )
            now, serial = self._context.now(), bump(conn, network.ref)
            values: dict[str, Any] = {"state": "approved", "unproven_until": None}
            made = {"device_key": Signer.generate().device_key, "approved_at": now, "changed_serial": serial}
            conn.execute(c.update().where(c.c.id == row.id).values(**values, **made))
            more = difference(row, {"state": "approved"})
            record(self._context, conn, who, "client.declare-plain", row.name, id=row.id, network=network.name, **more)
            return network.ref, row.id, True

        ref, client_id, changed = await self._context.write(tx)
        answer = await self._clients.show(who.whole, ref, client_id)
        if changed:
            await self._maps.refresh(NetworkRef(ref))
            change = {"change": "client_approved", "client_id": client_id, "name": answer.name}
            self._events.publish("network_changed", NetworkRef(ref), **change)
        return answer

    async def configuration(self, who: Principal, network_name: str, name: str) -> api.PlainConfiguration:
        """What the device has to be told. Raises ShadowMeshError: network_unknown, not_allowed, client_unknown, not_plain."""
        c = schema.clients

        def tx(conn: Connection) -> api.PlainConfiguration:
            network = find_network(conn, who, network_name, Permission.NETWORK_INVITE)
            row = find_client(conn, network, name, who)
            if not is_plain(row):
                raise not_found(
                    "not_plain",
                    f"{row.name} is no plain WireGuard device",
                    f"`shadowmesh client approve {network.name} {row.name} --plain-wireguard` declares a registered client to be one",
                )
            others = sa.and_(c.c.network_ref == network.ref, c.c.state == "approved", c.c.id != row.id)
            rows = [r for r in conn.execute(sa.select(c).where(others).order_by(c.c.name)) if not is_plain(r)]
            epoch, keys = self._current(conn, network.ref)
            network_id, mine = NetworkID(network.network_id), WireGuardPublicKey(row.wg_key)
            peers = []
            for other in rows:
                theirs = WireGuardPublicKey(other.wg_key)
                psk = derive_psk(keys, network_id, epoch, mine, theirs)
                peers.append(
                    api.PlainPeer(
                        client_id=other.id,
                        name=other.name,
                        public_key=str(theirs),
                        preshared_key=base64.b64encode(psk.reveal()).decode(),
                        allowed_ips=[f"{ipaddress.IPv4Address(other.ip)}/32"],
                        endpoints=self._peers.direct(conn, network, other),
                    )
                )
            return api.PlainConfiguration(
                client_id=row.id,
                name=row.name,
                network_id=network.ref,
                network_name=network.name,
                address=f"{ipaddress.IPv4Address(row.ip)}/32",
                public_key=str(mine),
                epoch=epoch,
                peers=peers,
            )

        return await self._context.read(tx)

    def _current(self, conn: Connection, ref: str) -> tuple[int, Any]:
        """The current epoch and its key."""
        e = schema.epochs
        rows: list[Row[Any]] = list(conn.execute(sa.select(e).where(e.c.network_ref == ref).order_by(e.c.epoch)))
        chosen = [r for r in rows if r.current_from <= self._context.now()][-1:] or rows[:1]
        ((epoch, key),) = open_keys(self._context, ref, chosen, {}).items()
        return epoch, key
