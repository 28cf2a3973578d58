"""Invites, relay tokens and invitations know the API key that they were made with: they end with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0024"


def upgrade() -> None:
    for table in ("invites", "relay_tokens", "user_invitations"):
        op.add_column(table, sa.Column("made_by", sa.String(), nullable=True))
        op.create_index(f"ix_{table}_made_by", table, ["made_by"])
