"""What a database that was put back from a backup needs before it serves: nothing that was given out since is given out again.

Clients hold maps, keys of epochs and tokens of the time that the backup doesn't know. So each network gets a *generation*
above all that there were (clients take its map, however low its serial is), and an epoch whose number none of that time had.
Both follow the clock, so that two restores of one backup don't get the same.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service import epochs
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model.ids import NetworkRef

_EPOCHS_BEGIN = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)  # their numbers are minutes since, after a restore


@dataclass(frozen=True, slots=True)
class Restored:
    """`generation`: of all networks. The others: how much is good again that may have been used or taken away since."""

    generation: int
    networks: int
    clients: int
    open_invites: int
    api_keys: int


def forget_nodes(conn: Connection) -> None:
    """Those of another time, with who was connected to them: where whole databases are filled nothing cascades."""
    conn.execute(schema.node_presences.delete())
    conn.execute(schema.nodes.delete())


def after_restore(
    context: ServiceContext, conn: Connection, made_at: dt.datetime, version: str, above: int
) -> Restored:
    """Raises every network's generation over `above`, rotates its key, ends sessions, and writes the audit entry."""
    n, i, k, c = schema.networks, schema.invites, schema.api_keys, schema.clients
    now = context.now()
    living = conn.execute(sa.select(n.c.ref, n.c.generation).where(n.c.deleted_at.is_(None))).all()
    generation = max([above, *(row.generation for row in living)]) + 1
    generation = max(generation, int(now.timestamp()))
    epoch = int((now - _EPOCHS_BEGIN).total_seconds() // 60)
    for row in living:
        epochs.rotate(context, conn, NetworkRef(row.ref), now, least=epoch)
        conn.execute(n.update().where(n.c.ref == row.ref).values(generation=generation, serial=n.c.serial + 1))
    conn.execute(schema.refresh_tokens.delete())
    conn.execute(schema.sessions.delete())
    forget_nodes(conn)

    def count(table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        return int(conn.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())

    restored = Restored(
        generation=generation,
        networks=len(living),
        clients=count(c, c.c.state.in_(("approved", "pending"))),
        open_invites=count(i, i.c.revoked_at.is_(None), i.c.uses_left > 0, i.c.expires_at > now),
        api_keys=count(k, k.c.revoked_at.is_(None), sa.or_(k.c.expires_at.is_(None), k.c.expires_at > now)),
    )
    record(
        context,
        conn,
        SYSTEM,
        "controller.restore",
        context.keys.identity.public.fingerprint,
        after={
            "backup_of": made_at.isoformat(timespec="microseconds"),
            "version": version,
            "generation": generation,
            "networks": len(living),
        },
    )
    return restored
