"""Whose turn it is to make the controller as a file says: two who do so at once would each undo half of the other's.

An administrator's turn is of the whole controller. Who isn't one changes what is theirs, and takes turns with themselves.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import Principal, require_signed_in
from shadowmesh.controller.refusals import conflict
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import leases, schema
from shadowmesh.model.api import ApplyTurn
from shadowmesh.model.ids import new_id

LASTS = dt.timedelta(seconds=60)  # after its last change: who dies in the midst keeps nobody longer


class Applying:
    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def take(self, who: Principal, turn: str | None = None) -> ApplyTurn:
        """`turn`: one's own, which goes on. Raises ShadowMeshError(apply_running)."""
        name, mine = _name(who), turn or new_id("apl")

        def tx(conn: Connection) -> ApplyTurn:
            require_signed_in(conn, who, self._context.now())
            if not leases.hold(conn, name, f"{mine} {who.name}", LASTS):
                raise conflict(
                    "apply_running",
                    f"{_holder(conn, name)} applies a file at this moment",
                    "wait until that is done, see with `diff` what is left, and apply again",
                )
            return ApplyTurn(turn=mine, seconds=int(LASTS.total_seconds()))

        return await self._context.write(tx)

    async def give_up(self, who: Principal, turn: str) -> None:
        """One that isn't there, or is another's, is left as it is."""
        await self._context.write(lambda conn: leases.release(conn, _name(who), f"{turn} {who.name}"))


def _name(who: Principal) -> str:
    return "apply" if who.whole.administers else f"apply {who.user_id}"


def _holder(conn: Connection, name: str) -> str:
    t = schema.leases
    found = conn.execute(sa.select(t.c.holder).where(t.c.name == name)).scalar()
    return str(found or "").partition(" ")[2] or "somebody"
