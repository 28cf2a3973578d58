"""The URLs of all nodes, which maps announce, are in the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "announced_urls",
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("stun_port", sa.Integer(), nullable=False),
        sa.Column("seen_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("url"),
    )
