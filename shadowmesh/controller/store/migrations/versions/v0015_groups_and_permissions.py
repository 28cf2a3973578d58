"""Roles in networks may have a list of permissions in the place of their own; groups of users have roles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shadowmesh.controller.store.schema import Moment

revision = "0015"
down_revision = "0021"


def upgrade() -> None:
    op.add_column("members", sa.Column("permissions", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "groups",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name_key"),
    )
    op.create_table(
        "group_users",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group_id", "user_id"),
    )
    op.create_index("ix_group_users_user_id", "group_users", ["user_id"])
    op.create_table(
        "group_roles",
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("network_ref", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("permissions", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["network_ref"], ["networks.ref"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group_id", "network_ref"),
    )
    op.create_index("ix_group_roles_network_ref", "group_roles", ["network_ref"])
