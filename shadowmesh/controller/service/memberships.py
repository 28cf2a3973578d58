"""In which networks a device is: read for all at once that say hello while a read is under way.

Thousands come back when a controller starts again; a read for each costs more than all the rest of their hellos.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model.keys import DevicePublicKey

_AT_ONCE = 256


class Memberships:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._waiting: dict[DevicePublicKey, asyncio.Future[list[Row[Any]]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def of(self, device_key: DevicePublicKey) -> list[Row[Any]]:
        """The device's clients, each with `ref` and `network_id` of its network, as committed when this was called or
        later; of those it left, the newest is the last. Raises ShadowMeshError(storage_failed).
        """
        answer = self._waiting.get(device_key)
        if answer is None:
            answer = self._waiting[device_key] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(answer)

    async def _read(self) -> None:
        try:
            while self._waiting:
                batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:_AT_ONCE]}
                try:
                    rows = await self._context.read(partial(_load, keys=list(batch)))
                except Exception as e:
                    for answer in batch.values():
                        answer.set_exception(e)
                    continue
                found: dict[bytes, list[Row[Any]]] = {bytes(key): [] for key in batch}
                for row in rows:
                    found[row.device_key].append(row)
                for key, answer in batch.items():
                    answer.set_result(found[bytes(key)])
        finally:
            self._reading = None


def _load(conn: Connection, keys: Sequence[DevicePublicKey]) -> list[Row[Any]]:
    c, n = schema.clients, schema.networks
    query = (
        sa.select(
            c.c.id,
            c.c.device_key,
            c.c.ip,
            c.c.sealing_key,
            c.c.state,
            c.c.ephemeral,
            c.c.removed_at,
            n.c.ref,
            n.c.network_id,
        )
        .join(n, n.c.ref == c.c.network_ref)
        .where(c.c.device_key.in_([bytes(key) for key in keys]))
        .order_by(c.c.created_at)
    )
    return list(conn.execute(query))
