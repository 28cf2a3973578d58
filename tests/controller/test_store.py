"""The store: groups that share a commit but no fate; migrations; the same functions on PostgreSQL."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pgserver import empty

from shadowmesh.controller.edge.problems import of_error
from shadowmesh.controller.store import migrate as migrate_module
from shadowmesh.controller.store import schema, sequences
from shadowmesh.controller.store.database import (
    SqliteStore,
    StorageFailed,
    StorageInDoubt,
    Store,
    database_url,
    is_lost_race,
    make_engine,
    without_password,
)
from shadowmesh.controller.store.migrate import migrate
from shadowmesh.model.errors import Kind, ShadowMeshError

META = schema.meta


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    found = SqliteStore(database_url(None, tmp_path / "db"))
    migrate(found.engine)
    yield found
    found.close()


def put(key: str, value: str = "") -> Any:
    return lambda conn: conn.execute(META.insert().values(key=key, value=value)) and None


def count(conn: sa.Connection) -> int:
    """But for what migrations note."""
    return int(conn.execute(sa.select(sa.func.count()).where(META.c.key != "oldest_schema")).scalar_one())


async def test_one_that_fails_in_a_group_takes_nobody_along(store: SqliteStore) -> None:
    def fails(conn: sa.Connection) -> None:
        conn.execute(META.insert().values(key="half", value=""))
        raise KeyError("its own")

    results = await asyncio.gather(
        *(store.write(put(f"k{i % 10}")) for i in range(20)), store.write(fails), return_exceptions=True
    )
    assert sum(r is None for r in results) == 10
    assert sum(isinstance(r, sa.exc.IntegrityError) for r in results) == 10
    assert isinstance(results[-1], KeyError)
    assert await store.read(count) == 10


async def test_what_was_answered_is_on_disk(store: SqliteStore, tmp_path: Path) -> None:
    await store.write(put("a"))
    other = make_engine(database_url(None, tmp_path / "db"))
    with other.connect() as conn:
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL"
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert count(conn) == 1
    other.dispose()


async def test_a_reader_cant_write_and_sees_only_what_is_committed(store: SqliteStore) -> None:
    with pytest.raises(StorageFailed):
        await store.read(put("x"))
    assert await store.read(count) == 0


async def test_who_comes_after_its_end_is_refused_and_waits_for_nothing(tmp_path: Path) -> None:
    store = SqliteStore(database_url(None, tmp_path / "db"))
    store.close()
    with pytest.raises(StorageFailed):
        await asyncio.wait_for(store.write(lambda conn: None), 5)


async def test_a_caller_that_goes_away_leaves_its_transaction_whole(store: SqliteStore) -> None:
    task = asyncio.create_task(store.write(put("a")))
    await asyncio.sleep(0)
    task.cancel()
    await store.write(put("b"))
    assert await store.read(count) == 2


async def test_only_what_others_did_first_counts_as_a_lost_race(store: Store) -> None:
    """What is wrong in itself is wrong at every try."""
    with pytest.raises(sa.exc.IntegrityError) as mistake:
        await store.write(lambda c: c.execute(sa.text("INSERT INTO meta (key) VALUES ('x')")))
    assert not is_lost_race(mistake.value)
    await store.write(put("k"))
    with pytest.raises(sa.exc.IntegrityError) as taken:
        await store.write(put("k"))
    with pytest.raises(sa.exc.IntegrityError) as orphan:
        await store.write(lambda c: c.execute(schema.members.insert().values(network_ref="x", email="x", role="x")))
    assert is_lost_race(taken.value) and is_lost_race(orphan.value)


async def test_a_connection_that_breaks_while_it_commits_leaves_a_doubt_that_is_said(pg: Store) -> None:
    dialect, broken = pg.engine.dialect, [True]
    commit = dialect.do_commit

    def breaks(connection: Any) -> None:
        commit(connection)
        if broken:
            broken.pop()
            connection.dbapi_connection.close()
            raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    with patch.object(dialect, "do_commit", breaks):
        with pytest.raises(StorageInDoubt) as caught:
            await pg.write(put("a"))
        assert "nothing was changed" not in json.loads(bytes(of_error(caught.value).body))["detail"]
        await pg.write(put("b"))
    assert await pg.read(count) == 2

    def away(conn: sa.Connection) -> None:
        conn.connection.dbapi_connection.close()  # type: ignore[union-attr]
        conn.execute(sa.select(META))

    with pytest.raises(StorageFailed) as certain:
        await pg.write(away)
    assert not isinstance(certain.value, StorageInDoubt), "it broke before"


async def test_a_database_that_fails_is_said_and_works_again(store: SqliteStore) -> None:
    def full(conn: sa.Connection) -> None:
        conn.execute(META.insert().values(key="a", value=""))
        raise sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))

    with pytest.raises(StorageFailed, match="disk is full"):
        await store.write(full)
    assert await store.read(count) == 0
    await store.write(put("a"))


def test_the_migrations_make_what_the_schema_says(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    migrate(engine)
    migrate(engine)  # again is nothing
    with engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), schema.metadata) == []
    engine.dispose()


def test_networks_whose_names_are_alike_get_names_of_their_own(tmp_path: Path) -> None:
    """The older keeps its name; each owner has names of their own; members stay who they were."""
    engine = make_engine(database_url(None, tmp_path / "db"))
    migrate(engine, to="0002")
    at, none = "2026-01-01T00:00:00.000000+00:00", "NULL"
    user = "INSERT INTO users VALUES ('usr_{0}', '{0}@x', 'h', 0, 1, 0, '" + at + "')"
    network = (
        "INSERT INTO networks (ref, network_id, name, description, subnet, approval, code_approval, max_clients, p2p,"
        " relay_fallback, created_at, created_by, generation, serial, lowest_free, deleted_at)"
        " VALUES ('net_{0}', '{0}', '{1}', '', '10.0.0.0/24', 0, 0, 9, 1, 1, '2026-01-0{0}', '{2}', 1, 1, 0, {3})"
    )
    with engine.begin() as conn:
        for name in ("ann", "bob"):
            conn.exec_driver_sql(user.format(name))
        for n, (name, by, deleted) in enumerate(
            [
                ("Home", "ann@x", none), ("home", "ann@x by laptop", none), ("HOME", "bob@x", none),
                ("hOme", "local", none), ("HOME", "ann@x", f"'{at}'"), ("net_abc", "local", none),
                ("home-2", "ann@x", none),
            ]
        ):  # fmt: skip
            conn.exec_driver_sql(network.format(n + 1, name, by, deleted))
        conn.exec_driver_sql("INSERT INTO members VALUES ('net_1', 'usr_bob', 'guest')")
    migrate(engine)
    with engine.connect() as conn:
        t, m = schema.networks, schema.members
        named = conn.execute(sa.select(t.c.owner_id, t.c.name).order_by(t.c.ref)).all()
        assert [tuple(row) for row in named] == [
            ("usr_ann", "Home"), ("usr_ann", "home-2"), ("usr_bob", "HOME"), ("", "hOme"), ("usr_ann", "HOME"),
            ("", "net-abc"), ("usr_ann", "home-2-2"),
        ]  # fmt: skip
        assert [tuple(row) for row in conn.execute(sa.select(m))] == [("net_1", "bob@x", "guest", None)]
    engine.dispose()


def _events_of_before(engine: sa.Engine) -> None:
    """A database of the version before, in which the newest of three events has run out."""
    migrate(engine, to="0005")
    with engine.begin() as conn:
        for _ in range(3):
            conn.exec_driver_sql("INSERT INTO events (at, type, data) VALUES ('2026-01-01T00:00:00+00:00', 'x', '{}')")
        conn.exec_driver_sql("DELETE FROM events WHERE seq > 1")


def _numbers(engine: sa.Engine) -> tuple[list[int], int]:
    """The events' numbers, and the next one."""
    with engine.begin() as conn:
        kept = conn.execute(sa.select(schema.events.c.seq).order_by(schema.events.c.seq)).scalars().all()
        return list(kept), sequences.take(conn, sequences.EVENTS)


def test_the_numbers_of_events_go_on_where_they_were(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    _events_of_before(engine)
    migrate(engine)
    assert _numbers(engine) == ([1], 4)
    with engine.connect() as conn:
        made = conn.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'events'").scalar_one()
        assert "AUTOINCREMENT" not in made
    engine.dispose()


def test_networks_of_before_have_their_connections_reported_without_bytes(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    migrate(engine, to="0011")
    with engine.begin() as conn:
        conn.exec_driver_sql(
            "INSERT INTO networks (ref, network_id, owner_id, name, name_key, description, subnet, approval, code_approval,"
            " max_clients, p2p_enabled, relay_fallback, created_at, created_by, generation, serial, lowest_free)"
            " VALUES ('net_1', '1', '', 'a', 'a', '', '10.0.0.0/24', 0, 0, 9, 1, 1, '2026-01-01', 'local', 1, 1, 0)"
        )
    migrate(engine)
    with engine.begin() as conn:
        assert conn.execute(sa.select(schema.networks.c.reports)).scalar_one() == "health"
        assert sequences.take(conn, sequences.CONNECTION_LOGS) == 1
    engine.dispose()


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    migrate(engine)
    with engine.begin() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ShadowMeshError) as caught:
        migrate(engine)
    assert caught.value.code == "database_newer" and "9999" in str(caught.value)
    engine.dispose()


def test_a_url_that_is_none_is_wrong_use(tmp_path: Path) -> None:
    for url in ("mysql://x", "nonsense", "sqlite://", "://"):
        with pytest.raises(ShadowMeshError) as caught:
            database_url(url, tmp_path / "db")
        assert caught.value.kind is Kind.USAGE
    assert database_url("postgresql://u:p@h/d", tmp_path).drivername == "postgresql+psycopg"


def test_a_database_url_is_kept_without_its_password() -> None:
    for url, shown, password in (
        ("postgresql://u:p%40ss@h/d", "postgresql://u@h/d", "p@ss"),
        ("postgresql://u@h/d?password=secret&sslmode=require", "postgresql://u@h/d?sslmode=require", "secret"),
        ("postgresql://u@h/d", "postgresql://u@h/d", None),
        ("sqlite:////x/y", "sqlite:////x/y", None),
        ("nonsense", "nonsense", None),
    ):
        assert without_password(url) == (shown, password)
    assert database_url("postgresql://u@h/d", Path(), "p@ss").password == "p@ss"
    assert database_url("postgresql://u:own@h/d", Path(), "p@ss").password == "own"


@pytest.mark.lab
async def test_the_database_password_lies_in_a_file_of_its_own(pg: Store, postgres: str, tmp_path: Path) -> None:
    from shadowmesh.controller.initialise import InitOptions, init
    from shadowmesh.controller.settings import DataDir

    empty(pg.engine)
    url = postgres.replace("shadowmesh@", "shadowmesh:geheim@")
    where = DataDir(tmp_path / "controller")
    init(InitOptions(where.path, ("https://127.0.0.1:18443",), database_url=url))
    assert "geheim" not in where.config.read_text()
    assert where.database_password() == "geheim"
    assert stat.S_IMODE((where.keys / "database-password").stat().st_mode) == 0o600
    settings = where.read()
    assert database_url(settings.database_url, where.database, where.database_password()).password == "geheim"


async def test_times_are_utc_with_zone(store: SqliteStore) -> None:
    at = dt.datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    t = schema.events
    await store.write(lambda c: c.execute(t.insert().values(seq=1, at=at, type="x", data={})))
    (found,) = await store.read(lambda c: list(c.execute(sa.select(t.c.at)).scalars()))
    assert found == at and found.utcoffset() == dt.timedelta()


# PostgreSQL


@pytest.mark.lab
async def test_postgresql_has_the_same_schema(pg: Store) -> None:
    with pg.engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), schema.metadata) == []


@pytest.mark.lab
async def test_the_numbers_of_events_go_on_in_postgresql(pg: Store) -> None:
    for events, following in (True, ([1], 4)), (False, ([], 1)):
        empty(pg.engine)
        if events:
            _events_of_before(pg.engine)
        else:
            migrate(pg.engine, to="0005")
        migrate(pg.engine)
        assert _numbers(pg.engine) == following
        with pg.engine.connect() as conn:
            assert compare_metadata(MigrationContext.configure(conn), schema.metadata) == []


@pytest.mark.lab
async def test_postgresql_keeps_the_same_promises(pg: Store) -> None:
    results = await asyncio.gather(*(pg.write(put(f"k{i % 10}")) for i in range(20)), return_exceptions=True)
    assert sum(r is None for r in results) == 10
    assert sum(isinstance(r, sa.exc.IntegrityError) for r in results) == 10
    with pytest.raises(StorageFailed):
        await pg.read(put("x"))


@pytest.mark.lab
async def test_two_controllers_on_one_database_give_nothing_twice_and_follow_each_other(
    pg: Store, template: tuple[Path, Any]
) -> None:
    """Two controllers on one database: their services, without sockets."""
    from shadowmesh.controller.authz import LOCAL
    from shadowmesh.controller.keyring import KeyRing
    from shadowmesh.controller.service.context import ServiceContext
    from shadowmesh.controller.service.hub import DeviceLink, RelayLink
    from shadowmesh.controller.service.services import Services
    from shadowmesh.controller.settings import Settings, Timing
    from shadowmesh.model.api import InviteCreate, NetworkCreate
    from shadowmesh.model.enrol import ChallengeRequest, EnrolAnswer, EnrolRequest
    from shadowmesh.model.ids import RelayID
    from shadowmesh.model.invite import Invite
    from shadowmesh.model.keys import DevicePublicKey
    from shadowmesh.protocol.noise import generate_private_key, public_key
    from shadowmesh.protocol.possession import Challenge, prove
    from shadowmesh.protocol.sealing import generate_sealing_keys
    from shadowmesh.protocol.signing import Context, Signer, registration_message, sign_text

    keys = KeyRing.load(template[0] / "keys")
    settings = Settings(public_urls=("https://192.0.2.1:8443",), listen="127.0.0.1:8443")
    context = ServiceContext(pg, keys, settings, Timing(), lambda: dt.datetime.now(dt.UTC))
    nodes = [Services(context), Services(context)]
    sealing_private, sealing = generate_sealing_keys()

    async def join(number: int, invite: Invite) -> EnrolAnswer:
        """Asks one node for the challenge and answers the other."""
        asked, answered = nodes[number % 2].enrolment, nodes[1 - number % 2].enrolment
        device, wg_private = Signer.generate(), generate_private_key()
        public: Any = {"device_key": device.device_key, "wg_key": public_key(wg_private), "sealing_key": sealing}
        redeemed: Any = {"invite_id": invite.invite_id, "secret": invite.secret}
        challenge = await asked.challenge(ChallengeRequest(**public, **redeemed), "test")
        assert challenge.ephemeral is not None and challenge.sealed is not None
        message = registration_message(
            bytes.fromhex(challenge.nonce), keys.identity.public, invite=invite.invite_id, **public
        )
        question = Challenge(challenge.ephemeral, base64.b64decode(challenge.sealed))
        request = EnrolRequest(
            nonce=challenge.nonce,
            signature=sign_text(device, Context.REGISTRATION, message),
            proof=base64.b64encode(prove(question, wg_private, sealing_private, message)).decode(),
            hostname="h",
            **public,
            **redeemed,
        )
        return await answered.enrol(request, "test")

    async def storm(uses: int) -> list[EnrolAnswer]:
        made = await nodes[0].invites.create(LOCAL, "office", InviteCreate(uses=uses))
        invite = Invite.decode(made.invite)
        results = await asyncio.gather(*(join(i, invite) for i in range(50)), return_exceptions=True)
        for result in results:
            assert isinstance(result, EnrolAnswer) or getattr(result, "code", "") == "invite_used_up", result
        return [r for r in results if isinstance(r, EnrolAnswer)]

    await nodes[0].networks.create(LOCAL, NetworkCreate(name="office", subnet="10.42.0.0/24"))
    made = await asyncio.gather(
        *(nodes[i % 2].networks.create(LOCAL, NetworkCreate(name=f"auto{i}")) for i in range(12))
    )
    assert {network.subnet for network in made} == {f"10.100.{i}.0/24" for i in range(12)}
    assert len(await storm(uses=1)) == 1
    many = await storm(uses=30)
    assert len(many) == 30
    assert len({a.ip for a in many}) == len({a.name for a in many}) == 30
    assert (await nodes[1].audit.verify(LOCAL)).ok
    # What one node does, clients and relays of the other hear of.
    removed = many[0]
    device = next(
        row.device_key
        for row in await pg.read(lambda c: c.execute(sa.select(schema.clients)).all())
        if row.id == removed.client_id
    )
    heard: list[str] = []
    link = DeviceLink(
        DevicePublicKey(device), "b", "", "", context.now(), heard.append, lambda code, why: heard.append(why)
    )
    live = await nodes[1].maps.get(removed.network)
    assert live is not None
    nodes[1].hub.devices[link.device_key] = link
    nodes[1].hub.join(link, removed.network, removed.client_id)
    nodes[1].hub.relays[RelayID("rly_x")] = RelayLink(RelayID("rly_x"), "b", heard.append, lambda *_: None)
    await nodes[0].clients.remove(LOCAL, "office", removed.client_id)
    assert heard == []
    await nodes[1].follow()
    assert any('"removed"' in text for text in heard), heard
    assert any('"revocations"' in text for text in heard), heard
    assert "no network left" in heard
    assert not nodes[1].hub.online(removed.network)
    for node in nodes:
        node.presences.close()
        await node.events.flush()


def _network_with_a_client_of_before(engine: sa.Engine) -> None:
    migrate(engine, to="0009")
    at = "2026-01-01T00:00:00+00:00"
    with engine.begin() as conn:
        tables = sa.MetaData()
        tables.reflect(conn, only=["networks", "clients"])
        network = {
            "ref": "net_1", "network_id": b"1" * 32, "owner_id": "", "name": "office", "name_key": "office",
            "description": "", "subnet": "10.0.0.0/24", "approval": False, "code_approval": False, "max_clients": 9,
            "p2p": False, "relay_fallback": True, "created_at": at, "created_by": "", "generation": 1, "serial": 1,
            "lowest_free": 0,
        }  # fmt: skip
        client = {
            "id": "cli_1", "network_ref": "net_1", "name": "a", "ip": 167772161, "state": "approved",
            "device_key": b"d" * 32, "wg_key": b"w" * 32, "sealing_key": b"s", "tags": [], "created_at": at,
            "version": "", "changed_serial": 1, "ephemeral": False, "idle": 0,
        }  # fmt: skip
        conn.execute(tables.tables["networks"].insert().values(network))
        conn.execute(tables.tables["clients"].insert().values(client))


def _check_what_became_of_it(engine: sa.Engine) -> None:
    migrate(engine)
    n, c = schema.networks, schema.clients
    with engine.connect() as conn:
        assert conn.execute(sa.select(n.c.name, n.c.p2p_enabled)).one() == ("office", False)
        assert conn.execute(sa.select(c.c.device_key, c.c.unproven_until)).one() == (b"d" * 32, None)
    with engine.begin() as conn, pytest.raises(sa.exc.IntegrityError):
        conn.execute(c.insert().from_select(list(c.columns.keys()), sa.select(*_as_another(c))))


def _as_another(c: sa.Table) -> list[Any]:
    """The client's columns, of one with another id, name, address and device: what it has in common is the WireGuard key."""
    changed = {"id": "cli_2", "name": "b", "ip": 2, "device_key": None}
    return [sa.literal(changed[k.name], k.type) if k.name in changed else k for k in c.columns]


def test_networks_and_clients_of_before_are_there_under_the_names_of_the_api(tmp_path: Path) -> None:
    engine = make_engine(database_url(None, tmp_path / "db"))
    _network_with_a_client_of_before(engine)
    _check_what_became_of_it(engine)
    engine.dispose()


@pytest.mark.lab
async def test_so_they_are_on_postgresql(pg: Store) -> None:
    empty(pg.engine)
    _network_with_a_client_of_before(pg.engine)
    _check_what_became_of_it(pg.engine)


def test_migrations_are_one_line_and_no_two_have_one_number() -> None:
    """Two branches may each add one of the same number, or after the same one, and merge without a conflict."""
    versions = Path(migrate_module.__file__).parent / "migrations" / "versions"
    numbers, before = [], []
    for path in sorted(versions.glob("v*.py")):
        text = path.read_text()
        (number,), (after,) = (
            re.findall(rf'^{what} = (?:"(\d+)"|None)$', text, re.M) for what in ("revision", "down_revision")
        )
        assert path.name.startswith(f"v{number}_"), path.name
        numbers.append(number)
        before.append(after)
    assert len(set(numbers)) == len(numbers) and len(set(before)) == len(before)
    assert set(before) - {""} <= set(numbers)
