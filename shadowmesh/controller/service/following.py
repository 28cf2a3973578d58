"""Following other controllers on the same database: what one of them took away ends here too, within a second."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service import revocations
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.hub import Hub
from shadowmesh.controller.service.maps import Maps
from shadowmesh.controller.service.watchers import Watchers
from shadowmesh.controller.store import schema, sequences
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey, NetworkID
from shadowmesh.serving.tasks import for_each


class Following:
    def __init__(self, context: ServiceContext, hub: Hub, maps: Maps, watchers: Watchers) -> None:
        self._context = context
        self._hub = hub
        self._maps = maps
        self._watchers = watchers
        self._done = 0  # the newest revocation that was read
        self._failed: list[Row[Any]] = []  # to be acted on again

    async def start(self) -> None:
        """What was revoked before is in force already: nobody is connected yet."""
        self._done = await self._context.read(lambda conn: sequences.newest(conn, sequences.REVOCATIONS))

    async def catch_up(self) -> None:
        """Acts on what is new. Of this controller's own it does so again, which is harmless."""
        new = await self._context.read(lambda conn: revocations.after(conn, self._done))
        rows = [*self._failed, *new]
        self._done = max([self._done, *(row.id for row in new)])
        event = "a revocation can't be acted on yet"
        self._failed = [
            row for row, _ in await for_each(rows, self._act, self._context.rare, event, lambda r: str(r.id))
        ]
        later = {row.id for row in self._failed}
        refs = [NetworkRef(row.ref) for row in rows if row.ref is not None and row.id not in later]
        await self._maps.refresh_all(dict.fromkeys(refs))

    async def _act(self, row: Row[Any]) -> None:
        if row.user_id is not None:
            self._watchers.changed(row.user_id)
            return
        back = row.client_id is not None and await self._context.read(lambda conn: _is_back(conn, row))
        # No waiting from here on: what can't be acted on yet is acted on as a whole, once.
        self._hub.revoke(revocations.relay_revocation(row))
        if row.ref is None or back:
            return
        ref, network_id = NetworkRef(row.ref), NetworkID(row.network_id)
        if row.client_id is None:
            self._maps.end(ref, network_id)
        else:
            device_key = DevicePublicKey(row.device_key)
            self._maps.cut_off(ref, network_id, ClientID(row.client_id), device_key, row.reason)


def _is_back(conn: Connection, row: Row[Any]) -> bool:
    """Whether the device has joined again since, as another client."""
    c = schema.clients
    query = sa.select(c.c.id).where(c.c.network_ref == row.ref, c.c.device_key == row.device_key, schema.LIVING)
    return conn.execute(query).first() is not None
