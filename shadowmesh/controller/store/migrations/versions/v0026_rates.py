"""Devices' reports say how much they send and receive a second, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.add_column("health", sa.Column("rx_rate", sa.Float(), nullable=True))
    op.add_column("health", sa.Column("tx_rate", sa.Float(), nullable=True))
