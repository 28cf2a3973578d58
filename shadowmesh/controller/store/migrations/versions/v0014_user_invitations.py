"""People are invited: they choose their password themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "user_invitations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("network_ref", sa.String(), nullable=True),
        sa.Column("network_role", sa.String(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("owner_id", sa.String(), nullable=True),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("mac"),
    )
