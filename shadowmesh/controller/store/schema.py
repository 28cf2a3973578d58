"""The tables, all of a database in one place, whatever its length. Every rule of uniqueness is a constraint here, so that it holds whoever writes.

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
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
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
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),  # person, or service: one that signs in by API keys alone
    Column("password_hash", String),  # None: they can't sign in with one
    Column("must_change", Boolean, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("last_used", Moment),
    Column("source", String, nullable=False),  # where they signed in from
    Column("client", String, nullable=False),  # and with what, as that says
)

second_factors = Table(
    "second_factors",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("confirmed_at", Moment),  # None: a code of it was never shown, and none is asked for
    Column("last_step", BigInteger),  # of the newest code that was used: neither it nor an older one is taken again
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("mac", String, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("mac", String, primary_key=True),
    Column("family", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
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
    Column("scopes", JSON(none_as_null=True)),  # permissions; None: all of its owner's
    Column("networks", JSON(none_as_null=True)),  # their ids; None: all of its owner's
    Column("read_only", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used", Moment),
)

user_invitations = Table(
    "user_invitations",
    metadata,
    Column("id", String, primary_key=True),
    Column("mac", String, nullable=False, unique=True),
    Column("email", String, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("network_ref", String),
    Column("network_role", String),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String, nullable=False),
    Column("owner_id", String),
    Column("expires_at", Moment, nullable=False),
    Column("ended_at", Moment),  # accepted or revoked
    Column("made_by", String, index=True),  # the API key that it was made with: it ends with it
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
    Column("certified", Boolean, nullable=False, server_default=text("false")),  # linked only with its certificate
    Column("networks", JSON(none_as_null=True)),  # the refs of those it is for; None: all
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
    Column("made_by", String, index=True),  # the API key that it was made with: it ends with it
    Column("networks", JSON(none_as_null=True)),  # for which its relays are; None: all
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
    Column("p2p_enabled", Boolean, nullable=False),
    Column("relay_fallback", Boolean, nullable=False),
    Column("reports", String, nullable=False),  # off, health, full
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

templates = Table(
    "templates",
    metadata,
    Column("name_key", String, primary_key=True),  # the name in lower case
    Column("name", String, nullable=False),
    Column("description", Text, nullable=False),
    Column("settings", JSON, nullable=False),  # of networks, as far as it says them: templates.TemplateSettings
    Column("created_at", Moment, nullable=False),
    Column("created_by", String, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), primary_key=True),
    Column("email", String, primary_key=True),  # whether there is such a user is nobody's business
    Column("role", String, nullable=False),
    Column("permissions", JSON(none_as_null=True)),  # None: the role's, and what groups give; else these alone
)

groups = Table(
    "groups",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False, unique=True),  # the name in lower case
    Column("description", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
)

group_users = Table(
    "group_users",
    metadata,
    Column("group_id", ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
)

group_roles = Table(
    "group_roles",
    metadata,
    Column("group_id", ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True),
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String, nullable=False),
    Column("permissions", JSON(none_as_null=True)),  # None: the role's
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
    Column("sealed_code", LargeBinary),  # of the invite that is made with a network: it can be shown again
    Column("made_by", String, index=True),  # the API key that it was made with: it ends with it
)

clients = Table(
    "clients",
    metadata,
    Column("id", String, primary_key=True),
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    Column("ip", BigInteger, nullable=False),
    Column("state", String, nullable=False),  # approved, pending, removed, denied, deleted
    Column("device_key", LargeBinary, index=True),  # None: registered, and not proved yet
    Column("wg_key", LargeBinary, nullable=False),
    Column("sealing_key", LargeBinary),
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
    Column("unproven_until", Moment),  # the key that it was registered with has to be proved by then
    Column("nat", JSON),  # what whoever registered it said of its NAT: api.NatCapability
    Index("clients_name", "network_ref", "name", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_ip", "network_ref", "ip", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_wg_key", "network_ref", "wg_key", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_device", "network_ref", "device_key", unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("clients_unproven", "unproven_until"),
    Index("clients_changed", "network_ref", "changed_serial"),
)

# A condition on `clients`, with the words and not with parameters for them: neither database uses an index over a part
# of the rows where it can't see that this part is meant, and reads all rows of the network instead.
LIVING = clients.c.state.in_([literal_column("'approved'"), literal_column("'pending'")])

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

# What devices say of their connections: their own word.

health = Table(
    "health",  # of each client, as it was reported last
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("nat_type", String, nullable=False),
    Column("capabilities", JSON, nullable=False),
    Column("connection_type", String),  # p2p, relay, hybrid; None: no peer is in use
    Column("latency_ms", Float),
    Column("rx_rate", Float),  # bytes per second since the report before; None: they aren't reported
    Column("tx_rate", Float),
    Column("at", Moment, nullable=False),
)

pairs = Table(
    "pairs",  # peers in use, as one side sees it
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("peer_id", String, primary_key=True),
    Column("reason", String, nullable=False),
    Column("relay_id", String),
    Column("latency_ms", Float),
    Column("since", Moment, nullable=False),
    Column("at", Moment, nullable=False),
)

connection_logs = Table(
    "connection_logs",
    metadata,
    Column("log_id", NUMBER, primary_key=True, autoincrement=False),
    Column("network_ref", String, nullable=False),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("remote_peer_id", String, nullable=False),
    Column("event_type", String, nullable=False),
    Column("connection_type", String),  # p2p, relay; None: not in use
    Column("reason", String, nullable=False),
    Column("latency_ms", Float),
    Column("timestamp", Moment, nullable=False, index=True),
    Index("connection_logs_network", "network_ref", "log_id"),
    Index("connection_logs_network_time", "network_ref", "timestamp"),
    Index("connection_logs_client", "client_id", "log_id"),
)

traffic = Table(
    "traffic",  # bytes of each hour, as one side counted them
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("peer_id", String, primary_key=True),
    Column("hour", Moment, primary_key=True),
    Column("rx_bytes", BigInteger, nullable=False),
    Column("tx_bytes", BigInteger, nullable=False),
    Index("traffic_hour", "hour"),
)

controller_logs = Table(
    "controller_logs",  # what the controller and its relays did, numbered with `connection_logs`
    metadata,
    Column("log_id", NUMBER, primary_key=True, autoincrement=False),
    Column("network_ref", String),  # None: of all networks that a relay serves
    Column("source", String, nullable=False),  # controller, relay
    Column("event_type", String, nullable=False),
    Column("client_id", String),
    Column("relay_id", String),
    Column("detail", JSON, nullable=False),
    Column("timestamp", Moment, nullable=False, index=True),
    Index("controller_logs_network", "network_ref", "log_id"),
)

# What clients use. Bytes of inner packets: relayed ones as relays count them, direct ones as who got them counts.


def _usage(name: str, unit: str) -> Table:
    return Table(
        name,
        metadata,
        Column("client_id", String, primary_key=True),
        Column(unit, Moment, primary_key=True),  # when it began
        Column("network_ref", String, nullable=False),
        Column("owner_id", String),
        Column("relayed_sent", BigInteger, nullable=False),
        Column("relayed_received", BigInteger, nullable=False),
        Column("direct_sent", BigInteger, nullable=False),
        Column("direct_received", BigInteger, nullable=False),
        Index(f"{name}_network", "network_ref", unit),
        Index(f"{name}_{unit}", unit),
    )


usage_hours = _usage("usage_hours", "hour")
usage_days = _usage("usage_days", "day")

usage_ledgers = Table(
    "usage_ledgers",
    metadata,
    Column("relay_id", String, primary_key=True),
    Column("ledger", String, primary_key=True),
    Column("number", BigInteger, nullable=False),  # of the newest message that was taken
    Column("at", Moment, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("name", String, primary_key=True),
    Column("max_clients", Integer),  # None: no limit, in each of these
    Column("monthly_bytes", BigInteger),
    Column("relay_kbit", Integer),  # of each client, what it sends through relays
    Column("network_relay_kbit", Integer),  # of all of a network together, through each relay
    Column("over_quota_kbit", Integer, nullable=False),  # the same, once the month's bytes are used up
)

network_plans = Table(
    "network_plans",
    metadata,
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), primary_key=True),
    Column("plan", ForeignKey("plans.name"), nullable=False, index=True),
    Column("month", String, nullable=False),  # YYYY-MM, of which
    Column("told", Integer, nullable=False),  # so many percent of its bytes were told
)

# Where events and logs are sent.

sinks = Table(
    "sinks",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),  # webhook, syslog
    Column("name", String, nullable=False, server_default=text("''")),  # its id, where nobody gave one
    Column("name_key", String, nullable=False, server_default=text("''")),  # the name in lower case
    Column("network_ref", ForeignKey("networks.ref", ondelete="CASCADE"), index=True),  # None: of all networks
    Column("owner_id", String),  # whose rights it lives by; None: someone at the controller's own socket
    Column("made_by", String, index=True),  # the API key that it was made with, and ends with
    Column("anywhere", Boolean, nullable=False),  # made by an administrator without limits
    Column("created_by", String, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("place", String, nullable=False),  # scheme, host and port
    Column("sealed", LargeBinary, nullable=False),  # the whole URL, and the secret
    Column("ca", Text),
    Column("stream", String, nullable=False),  # events, logs, audit
    Column("events", JSON, nullable=False),  # types; none: all
    Column("after", BigInteger, nullable=False),  # the number up to which all was delivered
    Column("delivered", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),  # since the last that succeeded
    Column("last_success", Moment),
    Column("last_error", String),
    Column("failing_since", Moment),
    Column("next_attempt", Moment),
    Column("gone", Boolean, nullable=False),  # the receiver wants no more
    Index("sinks_name", "network_ref", "kind", "name_key", unique=True),
    Index(
        "sinks_name_of_all",
        "kind",
        "name_key",
        unique=True,
        sqlite_where=text("network_ref IS NULL"),
        postgresql_where=text("network_ref IS NULL"),
    ),
)

leases = Table(
    "leases",  # what one node of several does
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", Moment, nullable=False),
)

nodes = Table(
    "nodes",  # the controllers on this database that live, where several may
    metadata,
    Column("id", String, primary_key=True),  # of one start of a process
    Column("name", String, nullable=False),  # of its host
    Column("urls", JSON, nullable=False),
    Column("version", String, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),  # by the database's clock
    Column("links", Integer, nullable=False),  # of devices
    Column("relays", JSON, nullable=False),  # the ids of those that are connected there, with their load
    Column("draining", Boolean, nullable=False),
)

node_presences = Table(
    "node_presences",  # who is online, at which node
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("client_id", String, primary_key=True),
    Column("network_ref", String, nullable=False),
    Column("number", BigInteger, nullable=False),  # of the node's, in the order in which it tells
    Column("boot_id", String, nullable=False),
    Column("since", Moment, nullable=False),
    Column("presence", Text),  # None: it has gone
    Index("node_presences_number", "node_id", "number"),
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
