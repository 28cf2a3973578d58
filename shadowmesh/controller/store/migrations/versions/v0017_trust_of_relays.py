"""Relays may have a certificate without which they aren't linked any more, and be for some networks alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("relays", sa.Column("certified", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("relays", sa.Column("networks", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("relay_tokens", sa.Column("networks", sa.JSON(none_as_null=True), nullable=True))
