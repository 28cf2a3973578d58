"""Events are numbered in the order of commits, as revocations are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    conn = op.get_bind()
    sqlite = conn.dialect.name == "sqlite"
    # The numbers go on where they were, also where the newest events have been deleted: people hold on to them.
    given = (
        "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
        if sqlite
        else "SELECT last_value FROM events_seq_seq WHERE is_called"
    )
    newest = conn.execute(sa.text(given)).scalar() or 0
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "events", "value": newest}])
    if sqlite:
        with op.batch_alter_table("events", recreate="always"):
            pass  # the copy doesn't count by itself
    else:
        op.alter_column("events", "seq", server_default=None)
        op.execute("DROP SEQUENCE events_seq_seq")
