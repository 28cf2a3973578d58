"""Devices: one machine over all the networks that it is in, as far as who asks may remove clients there.

What is in other networks is neither named nor counted. A device is known by its key; its id is the key's beginning.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import Permission, Principal, visible
from shadowmesh.controller.refusals import not_found, usage
from shadowmesh.controller.service.clients import Clients, RemovedClient, remove_client
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import DEVICE_ID_LENGTH, ClientID, NetworkRef, device_id, is_id
from shadowmesh.model.keys import DevicePublicKey
from shadowmesh.serving.tasks import for_each

_CANDIDATES = 5

_Rows = Sequence[Row[Any]]  # of `_theirs`


class Inventory:
    def __init__(self, context: ServiceContext, hub: Hub, clients: Clients) -> None:
        self._context = context
        self._hub = hub
        self._clients = clients

    async def list(self, who: Principal, after: str | None, limit: int) -> api.Page[api.Device]:
        """By id."""
        key = schema.clients.c.device_key

        def tx(conn: Connection) -> api.Page[api.Device]:
            theirs = _theirs(conn, who)
            keys = theirs.with_only_columns(key).distinct().order_by(None).order_by(key).limit(limit + 1)
            if after is not None:
                keys = keys.where(key > _cursor(after))
            page = list(conn.execute(keys).scalars())
            more = bytes(page[limit - 1]).hex() if len(page) > limit else None
            found = _by_device(conn.execute(theirs.where(key.in_(page[:limit]))))
            return api.Page(items=[self._view(found[bytes(k)]) for k in page[:limit]], next=more)

        return await self._context.read(tx)

    async def show(self, who: Principal, name: str) -> api.Device:
        """By id, a client's id, name, NAME@NETWORK or address. Raises ShadowMeshError: device_unknown, device_ambiguous."""
        return self._view(await self._context.read(lambda conn: _find(conn, who, name)))

    async def remove(self, who: Principal, name: str) -> api.Device:
        """Cuts the device off in all these networks, together. Returns it as it was."""

        def tx(conn: Connection) -> tuple[api.Device, list[RemovedClient]]:
            rows, held = _find(conn, who, name), set[str]()
            device = device_id(rows[0].device_key)
            # Until all that the device is in is held: it may join, or be let in, while others' changes are waited for.
            while more := {row.network_ref for row in rows} - held:
                for ref in sorted(more):  # in one order, as whoever else takes several
                    living_network(conn, ref, lock=True)
                held |= more
                rows = _find(conn, who, device)
            shown = self._view(rows)
            gone = []
            for row in rows:
                network = living_network(conn, row.network_ref)
                assert network is not None, "its row is held"
                gone.append(remove_client(self._context, conn, who, network, row, "removed"))
            return shown, gone

        shown, gone = await self._context.write(tx)
        for client in gone:  # out everywhere before anything is waited for, or fails
            self._clients.end(client)
        untold = "a network's members can't be told of a removal"
        await for_each(gone, self._clients.tell_others, self._context.rare, untold, lambda client: client.ref)
        return shown

    def _view(self, rows: _Rows) -> api.Device:
        memberships = [self._membership(row) for row in rows]
        online, seen = any(m.online for m in memberships), [row.last_seen for row in rows if row.last_seen is not None]
        return api.Device(
            id=device_id(rows[0].device_key),
            name=rows[0].name,
            key=str(DevicePublicKey(rows[0].device_key)),
            version=rows[-1].version,
            online=online,
            last_seen=self._context.now() if online else max(seen, default=None),
            networks=memberships,
        )

    def _membership(self, row: Row[Any]) -> api.DeviceMembership:
        return api.DeviceMembership(
            network_id=row.network_ref,
            network_name=row.network_name,
            client_id=row.id,
            name=row.name,
            ip=str(ipaddress.IPv4Address(row.ip)),
            state=row.state,
            online=self._hub.is_online(NetworkRef(row.network_ref), ClientID(row.id)),
        )


def _theirs(conn: Connection, who: Principal) -> sa.Select[Any]:
    """Living clients that `who` may remove, with their networks' names; oldest first."""
    c, n = schema.clients, schema.networks
    own = sa.and_(visible(conn, who, Permission.CLIENT_REGISTER), c.c.owner_id == who.user_id)
    return (
        sa.select(c, n.c.name.label("network_name"))
        .join(n, n.c.ref == c.c.network_ref)
        .where(
            n.c.deleted_at.is_(None),
            schema.LIVING,
            c.c.device_key.is_not(None),
            sa.or_(visible(conn, who, Permission.CLIENT_REMOVE), own),
        )
        .order_by(c.c.created_at, c.c.id)
    )


def _find(conn: Connection, who: Principal, name: str) -> _Rows:
    found = _by_device(conn.execute(_theirs(conn, who).where(_meant(name))))
    if not found:
        raise not_found(
            "device_unknown",
            f"there is no device {name[:80]!r} in the networks whose clients you may remove",
            "`shadowmesh device list` names them",
        )
    if len(found) > 1:
        raise _ambiguous(name, found)
    (key,) = found
    return conn.execute(_theirs(conn, who).where(schema.clients.c.device_key == key)).all()


def _meant(name: str) -> sa.ColumnElement[bool]:
    c, n = schema.clients, schema.networks
    if is_id(name, "cli"):
        return c.c.id == name
    if is_id(name, "dev"):
        return _begins(name.removeprefix("dev_"))
    name, _, network = name.lower().partition("@")
    try:
        by = c.c.ip == int(ipaddress.IPv4Address(name))
    except ValueError:
        by = c.c.name == name
    return sa.and_(by, sa.or_(n.c.ref == network, n.c.name_key == network)) if network else by


def _begins(text: str) -> sa.ColumnElement[bool]:
    """A condition on `clients`: the device's key begins so. An index serves it."""
    key = schema.clients.c.device_key
    try:
        low, high = (base64.b32decode(text.upper().ljust(32, fill)) for fill in "A7")
    except ValueError:
        return sa.false()
    return sa.and_(key >= low, key <= high + b"\xff" * 12) if len(text) == DEVICE_ID_LENGTH else sa.false()


def _by_device(rows: Iterable[Row[Any]]) -> Mapping[bytes, _Rows]:
    found: dict[bytes, list[Row[Any]]] = {}
    for row in rows:
        found.setdefault(bytes(row.device_key), []).append(row)
    return found


def _ambiguous(name: str, found: Mapping[bytes, _Rows]) -> ShadowMeshError:
    candidates = [
        f"{device_id(key)} ({', '.join(f'{row.name}@{row.network_name}' for row in rows)})"
        for key, rows in sorted(found.items())
    ]
    more = ", …" if len(candidates) > _CANDIDATES else ""
    listed = ", ".join(candidates[:_CANDIDATES])
    return usage("device_ambiguous", f"{name[:80]!r} names several devices: {listed}{more}", "use an id")


def _cursor(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as e:
        raise usage("bad_cursor", "this is not a cursor that this list gave out") from e
