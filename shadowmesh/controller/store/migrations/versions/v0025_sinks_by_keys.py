"""Sinks know the API key that they were made with, and whether they may lead anywhere.

Of those that there are it isn't known whether a key with limits made them: an administrator's go on leading anywhere.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("sinks", sa.Column("made_by", sa.String(), nullable=True))
    op.create_index("ix_sinks_made_by", "sinks", ["made_by"])
    op.add_column("sinks", sa.Column("anywhere", sa.Boolean(), nullable=False, server_default=sa.false()))
    sinks = sa.table("sinks", sa.column("owner_id", sa.String()), sa.column("anywhere", sa.Boolean()))
    users = sa.table("users", sa.column("id", sa.String()), sa.column("admin", sa.Boolean()))
    admins = sa.select(users.c.id).where(users.c.admin)
    by_admins = sa.or_(sinks.c.owner_id.is_(None), sinks.c.owner_id.in_(admins))
    op.execute(sinks.update().where(by_admins).values(anywhere=True))
