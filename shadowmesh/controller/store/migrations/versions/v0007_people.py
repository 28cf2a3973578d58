"""Users have a name and a kind; service accounts have no password."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("name", sa.String(), nullable=False, server_default=""))
        users.add_column(sa.Column("kind", sa.String(), nullable=False, server_default="person"))
        users.alter_column("password_hash", existing_type=sa.String(), nullable=True)
    with op.batch_alter_table("users") as users:  # only rows of before needed these
        users.alter_column("name", existing_type=sa.String(), server_default=None)
        users.alter_column("kind", existing_type=sa.String(), server_default=None)
