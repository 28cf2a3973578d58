"""Revocations are numbered in the order of commits, and tell of users too; access tokens and API keys carry limits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    with op.batch_alter_table("revocations") as batch_op:
        batch_op.add_column(sa.Column("client_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("user_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.String(), nullable=False, server_default="removed"))
    with op.batch_alter_table("revocations") as batch_op:
        batch_op.alter_column("reason", server_default=None, existing_type=sa.String(), existing_nullable=False)
    newest = op.get_bind().execute(sa.text("SELECT coalesce(max(id), 0) FROM revocations")).scalar_one()
    op.bulk_insert(counters, [{"name": "revocations", "value": newest}])
