"""What the controller and its relays did is in the log of a network, beside what devices report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0021"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "controller_logs",
        sa.Column("log_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("network_ref", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("client_id", sa.String(), nullable=True),
        sa.Column("relay_id", sa.String(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("timestamp", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("log_id"),
    )
    op.create_index("ix_controller_logs_timestamp", "controller_logs", ["timestamp"])
    op.create_index("controller_logs_network", "controller_logs", ["network_ref", "log_id"])
