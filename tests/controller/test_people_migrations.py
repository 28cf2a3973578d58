"""A database of the version before: the people in it stay who they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from pgserver import empty

from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import Store, database_url, make_engine
from shadowmesh.controller.store.migrate import migrate

AT = "2026-01-01T00:00:00.000000+00:00"


def _users_of_before(engine: sa.Engine) -> None:
    migrate(engine, to="0006")
    with engine.begin() as conn:
        false, true = ("false", "true") if engine.dialect.name == "postgresql" else ("0", "1")
        conn.exec_driver_sql(f"INSERT INTO users VALUES ('usr_a', 'a@x', 'h', {false}, {true}, {false}, '{AT}')")
        conn.exec_driver_sql(
            f"INSERT INTO api_keys (id, mac, name, user_id, created_at) VALUES ('key_a', 'm', 'k', 'usr_a', '{AT}')"
        )


def _sessions_of_before(engine: sa.Engine) -> None:
    with engine.begin() as conn:
        for mac, family, expires in (
            ("m1", "f1", "2026-02-01"),
            ("m2", "f1", "2026-02-02"),
            ("m3", "f2", "2026-03-01"),
        ):
            conn.exec_driver_sql(
                "INSERT INTO refresh_tokens (mac, family, user_id, expires_at)"
                f" VALUES ('{mac}', '{family}', 'usr_a', '{expires}T00:00:00.000000+00:00')"
            )


def _check(engine: sa.Engine) -> None:
    _users_of_before(engine)
    _sessions_of_before(engine)
    migrate(engine)
    u = schema.users
    with engine.begin() as conn:
        row = conn.execute(sa.select(u)).one()
        assert (row.id, row.name, row.kind, row.password_hash, row.admin) == ("usr_a", "", "person", "h", True)
        key = conn.execute(sa.select(schema.api_keys)).one()
        assert key.user_id == "usr_a", "they belong to someone still"
        assert (key.scopes, key.networks, key.read_only) == (None, None, False)
        s, t = schema.sessions, schema.refresh_tokens
        rows = conn.execute(sa.select(s.c.id, s.c.user_id, s.c.created_at, s.c.expires_at).order_by(s.c.id)).all()
        assert [(r.id, r.user_id, r.created_at.date().isoformat(), r.expires_at.date().isoformat()) for r in rows] == [
            ("f1", "usr_a", "2026-01-02", "2026-02-02"), ("f2", "usr_a", "2026-01-30", "2026-03-01")
        ]  # fmt: skip
        conn.execute(s.delete().where(s.c.id == "f1"))
        assert conn.execute(sa.select(t.c.mac)).scalars().all() == ["m3"], "its tokens go with it"
        conn.execute(u.update().values(password_hash=None))
        with pytest.raises(sa.exc.IntegrityError), conn.begin_nested():
            conn.exec_driver_sql("UPDATE users SET kind = NULL")


def test_users_of_before_are_people(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    _check(engine)
    engine.dispose()


@pytest.mark.lab
async def test_users_of_before_are_people_in_postgresql(pg: Store) -> None:
    empty(pg.engine)
    _check(pg.engine)


def _check_relays(engine: sa.Engine) -> None:
    """Relays of before are linked without a certificate, and for all networks; so are those that register by tokens of before."""
    migrate(engine, to="0023")
    false = "false" if engine.dialect.name == "postgresql" else "0"
    with engine.begin() as conn:
        conn.exec_driver_sql(
            "INSERT INTO relays (id, name, key, region, version, draining, created_at)"
            f" VALUES ('rly_1', 'r', '\\x6b', '', '', {false}, '{AT}')"
        )
        conn.exec_driver_sql(
            "INSERT INTO relay_tokens (id, mac, uses_left, expires_at, created_at, created_by)"
            f" VALUES ('rtk_1', 'm', 1, '{AT}', '{AT}', 'local')"
        )
    migrate(engine)
    with engine.connect() as conn:
        r = schema.relays
        row = conn.execute(sa.select(r.c.id, r.c.certified, r.c.networks)).one()
        assert (row.id, row.certified, row.networks) == ("rly_1", False, None)
        assert conn.execute(sa.select(schema.relay_tokens)).one().networks is None


def test_relays_of_before_need_no_certificate(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    _check_relays(engine)
    engine.dispose()


@pytest.mark.lab
async def test_relays_of_before_need_no_certificate_in_postgresql(pg: Store) -> None:
    empty(pg.engine)
    _check_relays(pg.engine)


def _check_roles(engine: sa.Engine) -> None:
    """Roles of before have no list of permissions; groups are made and their users go with users."""
    migrate(engine, to="0014")
    false = "false" if engine.dialect.name == "postgresql" else "0"
    with engine.begin() as conn:
        columns = "(ref, network_id, owner_id, name, name_key, description, subnet, approval, code_approval, max_clients, p2p_enabled,"
        conn.exec_driver_sql(
            f"INSERT INTO networks {columns} relay_fallback, reports, created_at, created_by, generation, serial, lowest_free)"
            f" VALUES ('net_1', 'n', '', 'a', 'a', '', '10.0.0.0/24', {false}, {false}, 9, {false}, {false}, 'off', '{AT}', '', 1, 1, 0)"
        )
        conn.exec_driver_sql("INSERT INTO members (network_ref, email, role) VALUES ('net_1', 'a@x', 'owner')")
    migrate(engine)
    m = schema.members
    with engine.connect() as conn:
        row = conn.execute(sa.select(m)).one()
        assert (row.network_ref, row.email, row.role, row.permissions) == ("net_1", "a@x", "owner", None)


def test_roles_of_before_have_no_list(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    _check_roles(engine)
    engine.dispose()


@pytest.mark.lab
async def test_roles_of_before_have_no_list_in_postgresql(pg: Store) -> None:
    empty(pg.engine)
    _check_roles(pg.engine)
