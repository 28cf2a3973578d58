"""A network's settings are called as the API calls them; the invite that is made with a network can show its code again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("ALTER TABLE networks RENAME COLUMN p2p TO p2p_enabled")
    op.add_column("invites", sa.Column("sealed_code", sa.LargeBinary()))
