"""Sessions of people can be listed; their refresh tokens belong to them."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0009"
down_revision = "0008"

_LASTED = dt.timedelta(days=30)  # a refresh token


def upgrade() -> None:
    sessions = op.create_table(
        "sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.Column("last_used", Moment(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    t = sa.table("refresh_tokens", sa.column("family"), sa.column("user_id"), sa.column("expires_at", Moment()))
    first, last = sa.func.min(t.c.expires_at), sa.func.max(t.c.expires_at)
    query = sa.select(t.c.family, t.c.user_id, first.label("first"), last.label("last"))
    rows = op.get_bind().execute(query.group_by(t.c.family, t.c.user_id)).all()
    op.bulk_insert(
        sessions,
        [
            {
                "id": row.family,
                "user_id": row.user_id,
                "created_at": row.first - _LASTED,
                "expires_at": row.last,
                "source": "",
                "client": "",
            }
            for row in rows
        ],
    )
    with op.batch_alter_table("refresh_tokens") as tokens:
        tokens.create_foreign_key("refresh_tokens_family", "sessions", ["family"], ["id"], ondelete="CASCADE")
