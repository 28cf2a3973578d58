"""API keys may be for less than their owner may do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("scopes", sa.JSON(), nullable=True))
        keys.add_column(sa.Column("networks", sa.JSON(), nullable=True))
        keys.add_column(sa.Column("read_only", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("api_keys") as keys:  # only rows of before needed it
        keys.alter_column("read_only", existing_type=sa.Boolean(), server_default=None)
