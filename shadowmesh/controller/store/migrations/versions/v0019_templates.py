"""Templates of networks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0019"
down_revision = "0017"
OLDER_NODES_GO_ON = True  # they don't know templates; what they make and tell is the same


def upgrade() -> None:
    op.create_table(
        "templates",
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name_key"),
    )
