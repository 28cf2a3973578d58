"""Names of networks are unique per owner whatever their case, and never look like an id. Members are known by address."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_LONGEST = 63
_LIKE_IDS = ("net_", "cli_", "usr_", "rly_", "inv_", "key_", "rtk_", "dev_")


def upgrade() -> None:
    _members()
    _networks()


def _members() -> None:
    op.create_table(
        "members_by_address",
        sa.Column("network_ref", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["network_ref"], ["networks.ref"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("network_ref", "email"),
    )
    op.execute(
        "INSERT INTO members_by_address (network_ref, email, role)"
        " SELECT m.network_ref, u.email, m.role FROM members m JOIN users u ON u.id = m.user_id"
    )
    op.drop_table("members")
    op.rename_table("members_by_address", "members")


def _networks() -> None:
    op.drop_index("networks_name", table_name="networks")
    op.add_column("networks", sa.Column("owner_id", sa.String(), nullable=False, server_default=""))
    op.add_column("networks", sa.Column("name_key", sa.String(), nullable=False, server_default=""))
    _fill(op.get_bind())
    living = sa.text("deleted_at IS NULL")
    columns = ["owner_id", "name_key"]
    op.create_index("networks_name", "networks", columns, unique=True, sqlite_where=living, postgresql_where=living)
    op.create_index("networks_name_key", "networks", ["name_key"])


def _fill(conn: sa.Connection) -> None:
    """The older of two whose names are alike keeps its name. `created_by` is an address, or one with a key's name."""
    users = {row.email: row.id for row in conn.execute(sa.text("SELECT id, email FROM users"))}
    rows = conn.execute(
        sa.text("SELECT ref, name, created_by, deleted_at FROM networks ORDER BY created_at, ref")
    ).all()
    taken: set[tuple[str, str]] = set()
    for row in rows:
        owner, name = users.get(row.created_by.split(" by ")[0], ""), row.name
        if row.deleted_at is None:
            name = _free(owner, name, taken)
            taken.add((owner, name.lower()))
        conn.execute(
            sa.text("UPDATE networks SET owner_id = :owner, name = :name, name_key = :key WHERE ref = :ref"),
            {"owner": owner, "name": name, "key": name.lower(), "ref": row.ref},
        )


def _free(owner: str, name: str, taken: set[tuple[str, str]]) -> str:
    if name.lower().startswith(_LIKE_IDS):
        name = name.replace("_", "-", 1)
    wanted, number = name, 1
    while (owner, name.lower()) in taken:
        number += 1
        name = f"{wanted[: _LONGEST - len(str(number)) - 1]}-{number}"
    return name
