"""The tables. Every rule of uniqueness is a constraint here, so that it holds whoever writes.

Changed here, changed by a migration in `migrations/versions` too; a test compares the two.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[dt.datetime]):
    """An aware datetime in UTC: timestamptz in PostgreSQL, sortable RFC 3339 text in SQLite."""

    impl = String(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(String(32))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        value = value.astimezone(dt.UTC)
        return value if dialect.name == "postgresql" else value.isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:
        if isinstance(value, str):
            value = dt.datetime.fromisoformat(value)
        return value.astimezone(dt.UTC) if value is not None else None


metadata = MetaData()

ALIVE = text("state IN ('approved', 'pending')")
# From `counters`; SQLite's own row numbers are what it calls INTEGER.
NUMBER = BigInteger().with_variant(Integer, "sqlite")

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False, unique=True),
    Column("password_hash", String, nullable=False),
    Column("must_change", Boolean, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("mac", String, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires_at", Moment, nullable=False),
    Column("used_at", Moment),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("mac", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("made_by", String),  # the key that it was made with: it ends no later
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used", Moment),
)

relays = Table(
    "relays",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("url", String),
    Column("udp", String),
    Column("region", String, nullable=False),
    Column("capacity_mbit", Integer),
    Column("version", String, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("last_seen", Moment),
    Column("removed_at", Moment),
    Index(
        "relays_name",
        "name",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
    Index(
        "relays_key",
        "key",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
)

relay_tokens = Table(
    "relay_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("mac", String, nullable=False, unique=True),
    Column("uses_left", Integer, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String, nullable=False),
)

announced_urls = Table(
    "announced_urls",
    metadata,
    Column("url", String, primary_key=True),
    Column("stun_port", Integer, nullable=False),
    Column("seen_at", Moment, nullable=False),
)

networks = Table(
    "networks",
    metadata,
    Column("ref", String, primary_key=True),
    Column("network_id", LargeBinary, nullable=False, unique=True),
    Column("owner_id", String, nullable=False),  # who named it; empty: someone at the controller's own socket
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),  # the name in lower case
    Column("description", Text, nullable=False),
    Column("subnet", String, nullable=False),
    Column("subnet6", String),
    Column("approval", Boolean, nullable=False),
    Column("code_approval", Boolean, nullable=False),
    Column("max_clients", Integer, nullable=False),
    Column("p2p", Boolean, nullable=False),
    Column("relay_fallback", Boolean, nullable=False),
    Column("relay_id", ForeignKey("relays.id")),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("head_digest", LargeBinary),
    Column("lowest_free", BigInteger, nullable=False),  # nothing below is free
    Column("rotated_at", Moment),
    Column("rotation_due", Moment),
    Column("deleted_at", Moment),
    Index(
        "networks_name",
        "owner_id",
        "name_key",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
    Index("networks_name_key", "name_key"),
)

members = Table(
    "members",
    metadata,
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), primary_key=True),
    Column("email", String, primary_key=True),  # whether there is such a user is nobody's business
    Column("role", String, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("current_from", Moment, nullable=False),
    Column("ends", Moment),
)

addresses = Table(
    "addresses",
    metadata,
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), primary_key=True),
    Column("ip", BigInteger, primary_key=True),
    Column("client_id", String),  # None: it rests
    Column("rests_until", Moment),
    Index("addresses_resting", "network_ref", "rests_until"),
)

invites = Table(
    "invites",
    metadata,
    Column("id", String, primary_key=True),
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), nullable=False, index=True),
    Column("secret_mac", String, nullable=False),
    Column("code_mac", String, nullable=False, unique=True),
    Column("uses", Integer, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String, nullable=False),
    Column("owner_id", String),
    Column("client_name", String),
    Column("ip", BigInteger),
    Column("tags", JSON, nullable=False),
    Column("ephemeral", Boolean, nullable=False),
    Column("idle", Integer, nullable=False),
)

clients = Table(
    "clients",
    metadata,
    Column("id", String, primary_key=True),
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    Column("ip", BigInteger, nullable=False),
    Column("state", String, nullable=False),  # approved, pending, removed, denied, deleted
    Column("device_key", LargeBinary, nullable=False, index=True),
    Column("wg_key", LargeBinary, nullable=False),
    Column("sealing_key", LargeBinary, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("owner_id", String),
    Column("invite_id", String),
    Column("created_at", Moment, nullable=False),
    Column("approved_at", Moment),
    Column("removed_at", Moment),
    Column("last_seen", Moment),
    Column("version", String, nullable=False),
    Column("epoch_held", Integer),
    Column("changed_serial", BigInteger, nullable=False),  # the map's serial in which this row last changed
    Column("ephemeral", Boolean, nullable=False),
    Column("idle", Integer, nullable=False),
    Index("clients_name", "network_ref", "name", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_ip", "network_ref", "ip", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_wg_key", "network_ref", "wg_key", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_device", "network_ref", "device_key", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_changed", "network_ref", "changed_serial"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("id", NUMBER, primary_key=True, autoincrement=False),
    Column("device_key", LargeBinary),
    Column("network_id", LargeBinary),
    Column("client_id", String),
    Column("user_id", String),  # whose rights have changed; none of the above then
    Column("reason", String, nullable=False, default=""),
    Column("before", Moment, nullable=False),
    Column("until", Moment, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("target", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("seq", NUMBER, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False, index=True),
    Column("type", String, nullable=False),
    Column("network_ref", String),
    Column("data", JSON, nullable=False),
)

answers = Table(
    "answers",
    metadata,
    Column("actor", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("at", Moment, nullable=False, index=True),
)
