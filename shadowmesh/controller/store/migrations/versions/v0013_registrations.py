"""A client may be registered by its WireGuard key alone; it has the other keys when it has proved that one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    with op.batch_alter_table("clients") as clients:
        for key in ("device_key", "sealing_key"):
            clients.alter_column(key, existing_type=sa.LargeBinary(), nullable=True)
        clients.add_column(sa.Column("unproven_until", Moment()))
        clients.add_column(sa.Column("nat", sa.JSON()))
    op.create_index("clients_unproven", "clients", ["unproven_until"])
