"""Ephemeral clients: removed once they were away for longer than their invite allows, whichever controller they were at.

The controller that holds a client's link notes each minute (`Timing.alive_every`) that it is alive, so that others leave
it alone. Removing looks once more, at a row that nobody can renew meanwhile.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service.clients import Clients, RemovedClient, remove_client
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import living_network
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey
from shadowmesh.serving.tasks import for_each

_AT_ONCE = 500
_MISSED = 2.5  # of the notes that another controller makes, so many may be late


class Ephemeral:
    def __init__(self, context: ServiceContext, hub: Hub, clients: Clients) -> None:
        self._context = context
        self._hub = hub
        self._clients = clients

    async def note_alive(self) -> None:
        """Of all whose link is here."""
        keys = list(self._hub.devices)
        for start in range(0, len(keys), _AT_ONCE):
            await self._context.write(partial(note_alive, keys=keys[start : start + _AT_ONCE], now=self._context.now()))

    async def remove_idle(self) -> None:
        c = schema.clients
        query = sa.select(c).where(c.c.ephemeral, schema.LIVING)
        rows = await self._context.read(lambda conn: [row for row in conn.execute(query) if self._is_away(row)])
        failed = "an ephemeral client can't be removed"
        await for_each(rows, self._expire, self._context.rare, failed, lambda row: str(row.id))

    async def _expire(self, row: Row[Any]) -> None:
        gone = await self._context.write(partial(self._remove, ref=row.network_ref, client_id=row.id))
        if gone is not None:
            await self._clients.tell_gone(gone)

    def _remove(self, conn: Connection, ref: str, client_id: str) -> RemovedClient | None:
        c = schema.clients
        network = living_network(conn, ref, lock=True)
        this = sa.select(c).where(c.c.id == client_id, schema.LIVING).with_for_update()
        row = conn.execute(this).first()
        if network is None or row is None or not self._is_away(row):
            return None
        return remove_client(self._context, conn, SYSTEM, network, row, "expired")

    def _is_away(self, row: Row[Any]) -> bool:
        if DevicePublicKey(row.device_key) in self._hub.devices:
            return False
        if self._hub.is_online(NetworkRef(row.network_ref), ClientID(row.id)):
            return False  # at another controller, whose clock may differ
        allowed = float(row.idle)
        if self._context.store.shared:
            allowed = max(allowed, _MISSED * self._context.timing.alive_every)
        return bool(self._context.now() - (row.last_seen or row.created_at) > dt.timedelta(seconds=allowed))


def note_alive(conn: Connection, keys: list[DevicePublicKey], now: dt.datetime) -> None:
    """The devices' ephemeral clients are alive now."""
    c = schema.clients
    theirs = sa.and_(c.c.device_key.in_(keys), c.c.ephemeral, schema.LIVING)
    conn.execute(c.update().where(theirs).values(last_seen=now))
