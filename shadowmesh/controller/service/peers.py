"""How a member of a network is reached, for programs that connect to it themselves."""

from __future__ import annotations

import ipaddress
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, find_network
from shadowmesh.controller.refusals import not_found
from shadowmesh.controller.service.clients import find_client, may_connect
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.reports import Reports
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.mapsettings import is_told, map_settings
from shadowmesh.model import api
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import WireGuardPublicKey


class Peers:
    def __init__(self, context: ServiceContext, hub: Hub, reports: Reports) -> None:
        self._context = context
        self._hub = hub
        self._reports = reports

    async def show(self, who: Principal, network_name: str, name: str) -> api.Peer:
        """Raises ShadowMeshError(client_unknown), also of a client that isn't in the map."""

        def tx(conn: Connection) -> api.Peer:
            network = find_network(conn, who, network_name, Permission.NETWORK_VIEW)
            row = find_client(conn, network, name, who)
            if row.state != "approved":
                raise not_found(
                    "client_unknown",
                    f"{row.name} waits to be let into {network.name}, and is nobody's peer yet",
                    f"`shadowmesh client approve {network.name} {row.name}` lets it in",
                )
            endpoints = [*self._direct(conn, network, row), *self._relayed(conn, network, row)]
            if not may_connect(conn, who, network):
                endpoints = [e.model_copy(update={"address": None}) for e in endpoints]
            return api.Peer(
                peer_id=row.id,
                name=row.name,
                ip=str(ipaddress.IPv4Address(row.ip)),
                public_key=str(WireGuardPublicKey(row.wg_key)),
                endpoints=endpoints,
            )

        return await self._context.read(tx)

    def direct(self, conn: Connection, network: Row[Any], row: Row[Any]) -> list[str]:
        """Addresses at which it is reached without a relay, as far as they are known."""
        return [e.address for e in self._direct(conn, network, row) if e.address is not None]

    def _direct(self, conn: Connection, network: Row[Any], row: Row[Any]) -> list[api.PeerEndpoint]:
        """Where its daemon says that it is; else what was said of it when it was registered."""
        if not (network.p2p_enabled and map_settings(conn).p2p):
            return []
        presence = self._hub.presence.get(NetworkRef(network.ref), {}).get(ClientID(row.id))
        told = None if row.nat is None else api.NatCapability.model_validate(row.nat)
        address = None if told is None else str(SockAddr(str(told.public_ip), told.public_port))
        here = [str(e) for e in presence.endpoints] if presence is not None else []
        if not here and address is not None:
            here = [address]
        health = self._reports.of(conn, [row.id]).get(row.id)
        reported = next((known for known in get_args(api.NatType) if health and health.nat_type == known), None)
        return [
            api.PeerEndpoint(type="direct", address=e, nat_type=told.nat_type if told and e == address else reported)
            for e in here
        ]

    def _relayed(self, conn: Connection, network: Row[Any], row: Row[Any]) -> list[api.PeerEndpoint]:
        """Its home and its standby while it is here; else the relay that one would be given."""
        presence = self._hub.presence.get(NetworkRef(network.ref), {}).get(ClientID(row.id))
        urls = relay_urls(conn, self._hub, network)
        homes = [r for r in (presence.home, presence.standby) if r in urls] if presence is not None else []
        return [api.PeerEndpoint(type="relay", address=urls[r]) for r in homes or list(urls)[:1] if r is not None]


def relay_urls(conn: Connection, hub: Hub, network: Row[Any]) -> dict[str, str]:
    """The relays of the network's map that have a URL, by id: those that are connected first."""
    if not network.relay_fallback:
        return {}
    r = schema.relays
    said = map_settings(conn)
    query: sa.Select[Any] = sa.select(r.c.id, r.c.url, r.c.networks).where(
        r.c.removed_at.is_(None), r.c.draining.is_(False), r.c.url.is_not(None)
    )
    told = [row for row in conn.execute(query.order_by(r.c.id)) if is_told(row, network, said)]
    rows = sorted(told, key=lambda row: not hub.relay_online(RelayID(row.id)))
    return {row.id: row.url for row in rows}
