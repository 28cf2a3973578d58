"""When API keys and sessions were last used. Who signs in doesn't wait for it to be written, and doesn't need it."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.service.context import ServiceContext


class LastUses:
    """`table` has the columns `id` and `last_used`."""

    def __init__(self, context: ServiceContext, table: sa.Table) -> None:
        self._context = context
        self._table = table
        self._used: dict[str, dt.datetime] = {}  # as far as it isn't in the database yet

    def add(self, key: str, at: dt.datetime) -> None:
        self._used[key] = at

    def of(self, key: str) -> dt.datetime | None:
        """When it was used since the last note, if it was."""
        return self._used.get(key)

    async def note(self) -> None:
        """Writes all at once."""
        t, used = self._table, self._used
        if not used:
            return

        def tx(conn: Connection) -> None:
            for key, at in sorted(used.items()):  # in one order on all controllers, as rows stay locked
                later = sa.or_(t.c.last_used.is_(None), t.c.last_used < at)
                conn.execute(t.update().where(t.c.id == key, later).values(last_used=at))

        self._used = {}
        try:
            await self._context.write(tx)
        except BaseException:
            self._used = used | self._used
            raise
