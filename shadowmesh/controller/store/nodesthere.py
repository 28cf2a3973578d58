"""Which nodes have a shared database open: PostgreSQL knows, as each node's connections carry its id."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.notices import PREFIX


@dataclass(frozen=True, slots=True)
class NodeThere:
    """A node, by its host's name (its id where it hasn't said it yet), and the version that it runs."""

    name: str
    version: str


def others_there(conn: Connection) -> list[NodeThere]:
    """The other nodes that are connected; none on SQLite, which has one."""
    if conn.dialect.name != "postgresql":
        return []
    query = sa.text(
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE :like AND application_name <> current_setting('application_name') ORDER BY 1"
    )
    ids = [name.removeprefix(PREFIX) for name in conn.execute(query, {"like": f"{PREFIX}nod\\_%"}).scalars()]
    said = {}
    if ids and sa.inspect(conn).has_table(schema.nodes.name):
        n = schema.nodes
        said = {row.id: row for row in conn.execute(sa.select(n.c.id, n.c.name, n.c.version).where(n.c.id.in_(ids)))}
    return [
        NodeThere(said[i].name, said[i].version) if i in said else NodeThere(i, "of a version unknown") for i in ids
    ]
