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

from shadowmesh.controller.service.addresses import address6
from shadowmesh.controller.service.core import Core
from shadowmesh.controller.service.grants import Keys, open_keys
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.announced import announce, announced
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.codec import to_json
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SigningPublicKey, WireGuardPublicKey
from shadowmesh.model.netmap import EpochInfo, MapHead, Member, RelayInfo
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


def read_changes(
    core: Core, conn: Connection, ref: NetworkRef, since: tuple[int, int] | None, known: Keys
) -> Changes | None:
    """What is newer than `since` (generation, serial); None if the network is no more. `known`: keys that are open."""
    network = living_network(conn, ref)
    if network is None:
        return None
    c = schema.clients
    whole = since is None or since[0] != network.generation
    # Who still waits for approval isn't told of; who is gone and never was a member neither.
    query = sa.select(c).where(c.c.network_ref == ref, c.c.approved_at.is_not(None)).order_by(c.c.changed_serial)
    if since is not None and not whole:
        query = query.where(c.c.changed_serial > since[1])
    else:
        query = query.where(sa.or_(c.c.state == "approved", c.c.changed_serial > network.serial - HISTORY))
    head, epochs = load_head(conn, network)
    return Changes(whole, network, head, open_keys(core, ref, epochs, known), conn.execute(query).all())


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
    e, r = schema.epochs, schema.relays
    epochs = conn.execute(sa.select(e).where(e.c.network_ref == network.ref).order_by(e.c.epoch)).all()
    query = sa.select(r).where(r.c.removed_at.is_(None), r.c.draining.is_(False)).order_by(r.c.id)
    if network.relay_id is not None:
        query = query.where(r.c.id == network.relay_id)
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
        p2p=network.p2p,
        relay_fallback=network.relay_fallback,
        relays=tuple(relay_info(row) for row in conn.execute(query)),
        controller_urls=urls,
        stun=stun,
    )
    return head, epochs


def announce_urls(core: Core, conn: Connection) -> None:
    """What is set differently now (public URLs, the port) is in new serials, never in old ones.

    All nodes read it from the database: the same serial has the same content, whichever node is asked.
    """
    settings, t = core.settings, schema.networks
    announce(conn, settings.announced_urls, settings.stun_ports[0], core.now(), alone=not core.store.shared)
    for network in conn.execute(sa.select(t).where(t.c.deleted_at.is_(None))).all():
        try:
            head, _ = load_head(conn, network)
        except sa.exc.DBAPIError:
            raise
        except Exception as e:  # whatever ails one network's rows, the others go on
            tell_failure(core.rare, "a network's map can't be read", e, network.ref)
            continue
        digest = hashlib.sha256(to_json(head)).digest()
        if digest != network.head_digest:
            conn.execute(t.update().where(t.c.ref == network.ref).values(serial=t.c.serial + 1, head_digest=digest))


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
