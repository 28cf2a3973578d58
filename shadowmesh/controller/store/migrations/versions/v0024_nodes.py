"""The nodes of a controller that has several, and who is online at each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("urls", sa.JSON(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("seen_at", Moment(), nullable=False),
        sa.Column("links", sa.Integer(), nullable=False),
        sa.Column("relays", sa.JSON(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "node_presences",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("network_ref", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("presence", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", "client_id"),
    )
    op.create_index("node_presences_number", "node_presences", ["node_id", "number"])
