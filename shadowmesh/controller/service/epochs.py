"""Epochs of the network key: rotating, merging rotations, ending old ones. Functions of a connection.

A new epoch is handed out at once and becomes current 30 s later. An old one ends shortly after all members hold the
new one, or after 7 days; then its row, and so its key, is deleted.
"""

from __future__ import annotations

import datetime as dt
import os
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service.audit_log import record
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.grants import key_label
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.networks import bump
from shadowmesh.model.ids import NetworkRef
from shadowmesh.model.keys import NetworkID, Secret


def seconds(value: float) -> dt.timedelta:
    return dt.timedelta(seconds=value)


def add_first(context: ServiceContext, conn: Connection, ref: NetworkRef, key: Secret, now: dt.datetime) -> NetworkID:
    """Epoch 0, whose key names the network."""
    _insert(context, conn, ref, 0, key, now)
    return NetworkID.of(key)


def _insert(
    context: ServiceContext, conn: Connection, ref: str, epoch: int, key: Secret, current_from: dt.datetime
) -> None:
    sealed = context.keys.vault.encrypt(key, key_label(ref, epoch))
    conn.execute(
        schema.epochs.insert().values(network_ref=ref, epoch=epoch, sealed_key=sealed, current_from=current_from)
    )


def rotate(context: ServiceContext, conn: Connection, ref: NetworkRef, now: dt.datetime, least: int = 0) -> int:
    """Adds the next epoch (`least` or a later one) and lets the older ones run out; returns it. The caller bumped the serial or does."""
    e, n = schema.epochs, schema.networks
    newest = conn.execute(sa.select(sa.func.max(e.c.epoch)).where(e.c.network_ref == ref)).scalar_one()
    ends = now + seconds(context.timing.epoch_life)
    conn.execute(e.update().where(e.c.network_ref == ref, e.c.ends.is_(None)).values(ends=ends))
    epoch = max(int(newest) + 1, least)
    _insert(context, conn, ref, epoch, Secret(os.urandom(32)), now + seconds(context.timing.epoch_delay))
    conn.execute(n.update().where(n.c.ref == ref).values(rotated_at=now, rotation_due=None))
    return epoch


def rotate_or_merge(context: ServiceContext, conn: Connection, network: Row[Any], now: dt.datetime) -> bool:
    """After a removal: rotates now (True), or with the next one that is due."""
    last = network.rotated_at
    if last is None or not last <= now < last + seconds(context.timing.rotation_merge):  # or the clock was set back
        rotate(context, conn, NetworkRef(network.ref), now)
        return True
    if network.rotation_due is None:
        n = schema.networks
        due = last + seconds(context.timing.rotation_merge)
        conn.execute(n.update().where(n.c.ref == network.ref).values(rotation_due=due))
    return False


def due(context: ServiceContext, conn: Connection, now: dt.datetime) -> list[NetworkRef]:
    """Networks whose merged rotation is due, or so far off that the clock must have been set back since."""
    n = schema.networks
    far = now + seconds(context.timing.rotation_merge)
    is_due = sa.or_(n.c.rotation_due <= now, n.c.rotation_due > far)
    query = sa.select(n.c.ref).where(is_due, n.c.deleted_at.is_(None))
    return [NetworkRef(ref) for ref in conn.execute(query).scalars()]


def with_old(conn: Connection) -> list[NetworkRef]:
    """Networks that have more than one valid epoch."""
    e = schema.epochs
    query = sa.select(e.c.network_ref).group_by(e.c.network_ref).having(sa.func.count() > 1)
    return [NetworkRef(ref) for ref in conn.execute(query).scalars()]


def retire(context: ServiceContext, conn: Connection, ref: NetworkRef, now: dt.datetime) -> bool:
    """Ends what has run out and sets an end to what nobody needs; True if the map changed."""
    e, c, n = schema.epochs, schema.clients, schema.networks
    rows = conn.execute(sa.select(e).where(e.c.network_ref == ref).order_by(e.c.epoch)).all()
    if len(rows) < 2:
        return False
    newest, changed = rows[-1], False
    behind = sa.or_(c.c.epoch_held.is_(None), c.c.epoch_held < newest.epoch)
    waiting = conn.execute(
        sa.select(c.c.id).where(c.c.network_ref == ref, c.c.state == "approved", behind).limit(1)
    ).first()
    soon = max(now, newest.current_from) + seconds(context.timing.epoch_grace)
    ended = []
    for row in rows[:-1]:
        this = sa.and_(e.c.network_ref == ref, e.c.epoch == row.epoch)
        if row.ends is not None and row.ends <= now:
            conn.execute(e.delete().where(this))
            ended.append(row.epoch)
            changed = True
        elif waiting is None and (row.ends is None or row.ends > soon):
            conn.execute(e.update().where(this).values(ends=soon))
            changed = True
    if changed:
        bump(conn, ref)
    if ended:
        name = conn.execute(sa.select(n.c.name).where(n.c.ref == ref)).scalar_one()
        record(
            context,
            conn,
            SYSTEM,
            "network.end-epochs",
            name,
            id=ref,
            before={"epochs": [row.epoch for row in rows]},
            after={"epochs": [row.epoch for row in rows if row.epoch not in ended]},
        )
    return changed
