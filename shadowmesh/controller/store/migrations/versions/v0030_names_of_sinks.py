"""Webhooks and syslog receivers have a name, by which a file tells them; those that there are get their ids for one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0026"


def upgrade() -> None:
    for column in ("name", "name_key"):
        op.add_column("sinks", sa.Column(column, sa.String(), nullable=False, server_default=""))
    sinks = sa.table("sinks", *(sa.column(name, sa.String()) for name in ("id", "name", "name_key")))
    op.execute(sinks.update().values(name=sinks.c.id, name_key=sa.func.lower(sinks.c.id)))
    op.create_index("sinks_name", "sinks", ["network_ref", "kind", "name_key"], unique=True)
    of_all = sa.text("network_ref IS NULL")
    op.create_index(
        "sinks_name_of_all", "sinks", ["kind", "name_key"], unique=True, sqlite_where=of_all, postgresql_where=of_all
    )
