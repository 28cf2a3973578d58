"""What a map is made of: read from the database, which alone decides it.

Each client's row says in which serial it last changed, so what is newer than a serial is a selection, whoever made the
change. Who was removed longer ago than HISTORY serials is forgotten: to an older map no delta leads, a snapshot does.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.addresspool import address6
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.grants import Keys, open_keys
from shadowmesh.controller.service.usagesums import plan_of, relay_limits
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.announced import announce, announced
from shadowmesh.controller.store.mapsettings import MapSettings, is_told, keep_map_settings, map_settings
from shadowmesh.controller.store.networks import bump, living_network
from shadowmesh.controller.store.prepared import prepared
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import to_json
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey, WireGuardPublicKey
from shadowmesh.model.netmap import EpochInfo, MapHead, Member, RelayInfo
from shadowmesh.protocol.token import RelayLimits
from shadowmesh.serving.tasks import tell_failure

HISTORY = 4096


@dataclass(frozen=True, slots=True)
class Changes:
    """What a read found newer than a live map, or all there is (`whole`). `clients`: in order of their change."""

    whole: bool
    network: Row[Any]
    head: MapHead
    keys: Keys
    clients: Sequence[Row[Any]]
    limits: RelayLimits  # of relay tokens, by the network's plan


def read_changes(
    context: ServiceContext, conn: Connection, ref: NetworkRef, since: tuple[int, int] | None, known: Keys
) -> Changes | None:
    """What is newer than `since` (generation, serial); None if the network is no more. `known`: keys that are open."""
    network = living_network(conn, ref)
    if network is None:
        return None
    whole = since is None or since[0] != network.generation
    query = _changed(ref, since[1]) if since is not None and not whole else _all(ref, network.serial - HISTORY)
    head, epochs = load_head(conn, network)
    keys, clients = open_keys(context, ref, epochs, known), conn.execute(*query).all()
    return Changes(whole, network, head, keys, clients, relay_limits(plan_of(conn, ref), context.now()))


# Who still waits for approval isn't told of; who is gone and never was a member neither.
@prepared
def _changed(ref: str, serial: int) -> sa.Select[Any]:
    c = schema.clients
    told = sa.and_(c.c.network_ref == ref, c.c.approved_at.is_not(None))
    return sa.select(c).where(told, c.c.changed_serial > serial).order_by(c.c.changed_serial)


@prepared
def _all(ref: str, oldest: int) -> sa.Select[Any]:
    c = schema.clients
    told = sa.and_(c.c.network_ref == ref, c.c.approved_at.is_not(None))
    return (
        sa.select(c)
        .where(told, sa.or_(c.c.state == "approved", c.c.changed_serial > oldest))
        .order_by(c.c.changed_serial)
    )


@prepared
def _epochs(ref: str) -> sa.Select[Any]:
    return sa.select(schema.epochs).where(schema.epochs.c.network_ref == ref).order_by(schema.epochs.c.epoch)


@prepared
def _relays() -> sa.Select[Any]:
    r = schema.relays
    return sa.select(r).where(r.c.removed_at.is_(None), r.c.draining.is_(False)).order_by(r.c.id)


def relay_info(row: Row[Any]) -> RelayInfo:
    return RelayInfo(
        relay_id=RelayID(row.id),
        name=row.name,
        key=SigningPublicKey(row.key),
        udp=None if row.udp is None else SockAddr.parse(row.udp),
        url=row.url,
        region=row.region,
    )


def load_head(conn: Connection, network: Row[Any]) -> tuple[MapHead, Sequence[Row[Any]]]:
    """The head, and the rows of the valid epochs."""
    epochs = conn.execute(*_epochs(network.ref)).all()
    said = map_settings(conn)
    relays = [row for row in conn.execute(*_relays()) if is_told(row, network, said)]
    urls, stun = announced(conn)
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
        p2p=network.p2p_enabled and said.p2p,
        relay_fallback=network.relay_fallback,
        reports=network.reports,
        relays=tuple(relay_info(row) for row in relays),
        controller_urls=urls,
        stun=(*stun, *(a for a in said.stun if a not in stun)),
        stun_names=said.stun_names,
    )
    return head, epochs


def announce_urls(context: ServiceContext, conn: Connection) -> None:
    """What is set differently now (public URLs, the port) is in new serials, never in old ones.

    All nodes read it from the database: the same serial has the same content, whichever node is asked.
    """
    settings, t = context.settings, schema.networks
    announce(conn, settings.announced_urls, settings.stun_ports[0], context.now(), alone=not context.store.shared)
    for network in conn.execute(sa.select(t).where(t.c.deleted_at.is_(None))).all():
        try:
            head, _ = load_head(conn, network)
        except sa.exc.DBAPIError:
            raise
        except Exception as e:  # whatever ails one network's rows, the others go on
            tell_failure(context.rare, "a network's map can't be read", e, network.ref)
            continue
        digest = hashlib.sha256(to_json(head)).digest()
        if digest != network.head_digest:
            bump(conn, network.ref)
            conn.execute(t.update().where(t.c.ref == network.ref).values(head_digest=digest))


def set_maps(context: ServiceContext, conn: Connection) -> None:
    """At the start: what the operator set is in new serials."""
    settings = context.settings
    said = MapSettings(
        p2p=settings.p2p_enabled,
        stun_servers=settings.stun_servers,
        relays=settings.relay_enabled,
        fallback_relay=settings.fallback_relay,
    )
    keep_map_settings(conn, said)
    announce_urls(context, conn)


def make_member(row: Row[Any], subnet6: str | None) -> Member:
    return Member(
        client_id=ClientID(row.id),
        name=row.name,
        ip=ipaddress.IPv4Address(row.ip),
        ip6=address6(subnet6, row.ip),
        wg_key=WireGuardPublicKey(row.wg_key),
        device_key=DevicePublicKey(row.device_key),
        tags=tuple(row.tags),
    )
