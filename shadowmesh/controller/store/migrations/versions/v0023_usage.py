"""What clients use, and plans: how much they may."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    for name, unit in (("usage_hours", "hour"), ("usage_days", "day")):
        op.create_table(
            name,
            sa.Column("client_id", sa.String(), nullable=False),
            sa.Column(unit, Moment(), nullable=False),
            sa.Column("network_ref", sa.String(), nullable=False),
            sa.Column("owner_id", sa.String(), nullable=True),
            sa.Column("relayed_sent", sa.BigInteger(), nullable=False),
            sa.Column("relayed_received", sa.BigInteger(), nullable=False),
            sa.Column("direct_sent", sa.BigInteger(), nullable=False),
            sa.Column("direct_received", sa.BigInteger(), nullable=False),
            sa.PrimaryKeyConstraint("client_id", unit),
        )
        op.create_index(f"{name}_network", name, ["network_ref", unit])
        op.create_index(f"{name}_{unit}", name, [unit])
    op.create_table(
        "usage_ledgers",
        sa.Column("relay_id", sa.String(), nullable=False),
        sa.Column("ledger", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("relay_id", "ledger"),
    )
    op.create_table(
        "plans",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("max_clients", sa.Integer(), nullable=True),
        sa.Column("monthly_bytes", sa.BigInteger(), nullable=True),
        sa.Column("relay_kbit", sa.Integer(), nullable=True),
        sa.Column("network_relay_kbit", sa.Integer(), nullable=True),
        sa.Column("over_quota_kbit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "network_plans",
        sa.Column("network_ref", sa.String(), nullable=False),
        sa.Column("plan", sa.String(), nullable=False),
        sa.Column("month", sa.String(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["network_ref"], ["networks.ref"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["plan"], ["plans.name"]),
        sa.PrimaryKeyConstraint("network_ref"),
    )
    op.create_index("ix_network_plans_plan", "network_plans", ["plan"])
