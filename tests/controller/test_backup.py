"""Backups: of one moment while the controller runs, and back again: clients return, nothing that was given out is given out again."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backupkit
import pytest
import sqlalchemy as sa
from backupkit import (
    LOCKS,
    OPENERS,
    RECIPIENT,
    backup_of,
    contents_of,
    database_of,
    everything,
    put_back,
    rows_of,
)
from freeport import free_port
from pgserver import empty

import shadowmesh.controller.backup.restore as restoring
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.controller.backup.backupfile import read_backup
from shadowmesh.controller.backup.dbmove import move_database
from shadowmesh.controller.backup.restore import finish_interrupted
from shadowmesh.controller.backup.taking import back_up_to, open_directory
from shadowmesh.controller.initialise import InitOptions, InitResult, init
from shadowmesh.controller.settings import DataDir
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.migrate import migrate
from shadowmesh.controller.store.tablecopy import TableHead
from shadowmesh.model.api import InviteCreate, NetworkCreate, NetworkPatch
from shadowmesh.model.devicelink import Grant, Removed
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from conftest import World

    from shadowmesh.controller.store.database import Store

pytestmark = pytest.mark.whole


def refusal(call: Any) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as refused:
        call()
    assert refused.value.what and refused.value.remedy and "\n" not in str(refused.value)
    return refused.value


async def test_a_backup_of_a_controller_that_runs_is_of_one_moment(world: World) -> None:
    """Networks are made all the while; each has its key, its invite and its audit entry in the same transaction."""
    stop = False

    async def make() -> int:
        made = 0
        while not stop:
            made += 1
            await world.network(f"n{made}", f"10.{made // 250}.{made % 250}.0/24")
        return made

    making = asyncio.create_task(make())
    taken: list[bytes] = []
    async with asyncio.timeout(60):
        while len(taken) < 4 or len({len(t) for t in taken}) < 3:
            taken.append(await asyncio.to_thread(backup_of, world.data_dir))
    stop = True
    assert await making > 3
    for file in taken:
        contents, rows = contents_of(file), dict[str, list[list[Any]]]()
        for record in contents.records():
            if isinstance(record, TableHead):
                rows[table := record.table] = []
            else:
                rows[table].append(record)
        created = [r for r in rows["audit"] if "network.create" in r]
        assert len(rows["networks"]) == len(rows["epochs"]) == len(rows["invites"]) == len(created)
        assert contents.manifest.audit.seq == len(rows["audit"]) == rows["audit_head"][0][1]


async def test_clients_come_back_after_a_restore_and_go_on(data_dir: Path, serve: Callable[[Path, int], Any]) -> None:
    """They hold newer maps, higher serials and keys of epochs that the backup doesn't know."""
    port = free_port()
    async with serve(data_dir, port) as before:
        ref = (await before.network()).network_id
        ann, bob = await before.member(name="ann"), await before.member(name="bob")
        file = await asyncio.to_thread(backup_of, data_dir)
        late = await before.member(name="late")
        for letter in ("a", "b", "c"):
            await before.call("network_set", ref, NetworkPatch(name=f"office-{letter}"))
        await before.call("network_rotate_key", ref)
        old = await ann.until_map(lambda m: len(m.head.epochs) == 2 and m.head.name == "office-c")
        await bob.until_map(lambda m: m.order == old.order)
        keys_before = {k.epoch: k.sealed for k in (await ann.until_event(Grant, lambda g: len(g.keys) == 2)).keys}
        for device in (ann, bob, late):
            await device.close()
    report = await asyncio.to_thread(put_back, file, data_dir, replace=True)
    assert report.restored is not None and report.restored.networks == 1 and report.kept is not None
    async with serve(data_dir, port) as after:
        for device in (ann, bob, late):
            device.events.clear()
            await device.connect(maps=(old,))
        new = await ann.until_map(lambda m: m.head.name == "office")
        assert new.order > old.order and new.serial < old.serial, "an older map, and yet it is taken"
        assert {m.name for m in new.members} == {"ann", "bob"}
        await bob.until_map(lambda m: m.order >= new.order)
        assert await late.until_event(Removed), "who joined since joins anew"
        assert max(e.epoch for e in new.head.epochs) > max(keys_before), "no epoch's number is used twice"
        await ann.until_event(Grant, lambda g: {k.epoch for k in g.keys} == {e.epoch for e in new.head.epochs})
        await after.call("network_set", "office", NetworkPatch(name="renamed"))
        assert (await ann.until_map(lambda m: m.head.name == "renamed")).generation == new.generation
        assert (await after.call("audit_verify")).fault in (None, "missing"), "the chain itself goes on"
        actions = [e.action for e in await after.call("audit_list")]
        assert "network.set" in actions[actions.index("controller.restore") :]
        for device in (ann, bob, late):
            await device.close()


def make_controller(path: Path, *networks: str) -> InitResult:
    """One that ran and has networks."""
    port = free_port()
    result = init(InitOptions(path, (f"https://127.0.0.1:{port}",), listen=f"127.0.0.1:{port}"))
    for name in networks:
        _in_database(path, name)
    return result


def _in_database(path: Path, name: str) -> None:
    """A network by the real service, without sockets."""

    async def make() -> None:
        from shadowmesh.controller.authz import LOCAL
        from shadowmesh.controller.service.context import ServiceContext
        from shadowmesh.controller.service.services import Services
        from shadowmesh.controller.settings import Timing
        from shadowmesh.controller.store.database import open_store
        from shadowmesh.model.clock import utc_now

        opened = open_directory(path)
        store = open_store(opened.url)
        try:
            at = Services(ServiceContext(store, opened.keys, opened.settings, Timing(), utc_now))
            await at.networks.create(LOCAL, NetworkCreate(name=name))
        finally:
            store.close()

    asyncio.run(make())


def test_generations_rise_with_each_restore_of_one_backup(tmp_path: Path) -> None:
    """Clients may have seen those of the restore before."""
    make_controller(tmp_path / "c", "office", "lab")
    file, seen = backup_of(tmp_path / "c"), [1]
    for _ in range(3):
        put_back(file, tmp_path / "c", replace=True)
        with sqlite3.connect(tmp_path / "c" / "controller.db") as db:
            ((generation,),) = db.execute("SELECT DISTINCT generation FROM networks").fetchall()
            epochs = {epoch for (epoch,) in db.execute("SELECT epoch FROM epochs")}
        assert generation > seen[-1] and len(epochs) == 2 and max(epochs) > 1_000_000
        seen.append(generation)


def _node(where: Path, *, there: bool) -> None:
    """A client that is online at a node, which may be gone."""
    opened = database_of(where)
    engine = sa.create_engine(opened.url)
    now = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    node = {"id": "nod_1", "name": "n", "urls": [], "version": "1", "started_at": now, "seen_at": now, "links": 1,
            "relays": [], "draining": False}  # fmt: skip
    with engine.begin() as conn:  # without SQLite's own look at foreign keys
        if there:
            conn.execute(schema.nodes.insert().values(**node))
        conn.execute(
            schema.node_presences.insert().values(
                node_id="nod_1", client_id="cli_1", network_ref="net_1", number=1, boot_id="b", since=now, presence=None
            )
        )
    engine.dispose()


def _orphans(where: Path) -> list[Any]:
    with sqlite3.connect(where / "controller.db") as db:
        return db.execute("PRAGMA foreign_key_check").fetchall()


def test_nodes_of_before_and_who_was_online_at_them_are_forgotten(tmp_path: Path) -> None:
    """A database in which only half of that was left couldn't be upgraded any more."""
    make_controller(tmp_path / "c", "office")
    _node(tmp_path / "c", there=True)
    put_back(backup_of(tmp_path / "c"), tmp_path / "d")
    assert not _orphans(tmp_path / "d")
    move_database(tmp_path / "c", f"sqlite:///{tmp_path}/controller.db")
    assert not _orphans(tmp_path)


def test_a_database_that_an_older_restore_left_so_is_healed_by_the_next_start(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", "office")
    _node(tmp_path / "c", there=False)
    assert _orphans(tmp_path / "c")
    put_back(backup_of(tmp_path / "c"), tmp_path / "d")
    assert not _orphans(tmp_path / "d")
    engine = sa.create_engine(database_of(tmp_path / "c").url)
    migrate(engine)
    engine.dispose()
    assert not _orphans(tmp_path / "c")


def test_a_dry_run_says_what_would_be_and_changes_nothing(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", "office")
    file, before = backup_of(tmp_path / "c"), everything(tmp_path)
    report = put_back(file, tmp_path / "new", dry_run=True)
    assert (
        report.dry_run and report.restored is None and report.rows["networks"] == 1 and report.audit_broken_at is None
    )
    assert report.kept is None
    over = put_back(file, tmp_path / "c", dry_run=True, replace=True)
    assert over.kept is not None
    assert refusal(lambda: put_back(file, tmp_path / "c", dry_run=True)).code == "target_not_empty"
    assert everything(tmp_path) == before


def test_what_is_there_is_never_written_over_unasked_and_kept_when_asked(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", "office")
    file = backup_of(tmp_path / "c")
    _in_database(tmp_path / "c", "later")
    before = everything(tmp_path / "c")
    refused = refusal(lambda: put_back(file, tmp_path / "c"))
    assert (refused.code, refused.kind) == ("target_not_empty", Kind.CONFLICT)
    assert {k: v for k, v in everything(tmp_path / "c").items() if k != "controller.lock"} == before
    report = put_back(file, tmp_path / "c", replace=True)
    assert report.kept is not None
    kept = everything(Path(report.kept))
    assert kept == before
    other = make_controller(tmp_path / "other")
    assert refusal(lambda: put_back(file, tmp_path / "other", replace=True)).code == "other_controller"
    assert open_directory(tmp_path / "other").keys.identity.public.fingerprint == other.fingerprint


def test_each_restore_keeps_what_was_there_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also two within one second."""
    monkeypatch.setattr(restoring, "utc_now", lambda: dt.datetime(2026, 3, 4, tzinfo=dt.UTC))
    make_controller(tmp_path / "c", "office")
    file, kept = backup_of(tmp_path / "c"), list[str]()
    for _ in range(3):
        before = {
            k: v for k, v in everything(tmp_path / "c").items() if "before-restore" not in k and k != "controller.lock"
        }
        report = put_back(file, tmp_path / "c", replace=True)
        assert report.kept is not None and everything(Path(report.kept)) == before
        kept.append(Path(report.kept).name)
    assert kept == [f"before-restore-20260304T000000Z{end}" for end in ("", "-2", "-3")]


def test_a_controller_that_runs_keeps_its_directory(tmp_path: Path) -> None:
    from shadowmesh.controller.settings import only_one

    make_controller(tmp_path / "c")
    file = backup_of(tmp_path / "c")
    with only_one(DataDir(tmp_path / "c")):
        assert refusal(lambda: put_back(file, tmp_path / "c", replace=True)).code == "already_running"
        assert refusal(lambda: move_database(tmp_path / "c", f"sqlite:///{tmp_path}/x.db")).code == "already_running"


def test_a_damaged_or_cut_backup_leaves_nothing_behind(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", *(f"n{i}" for i in range(3)))
    file = backup_of(tmp_path / "c")
    flipped = bytearray(file)
    flipped[-40] ^= 1
    for wrong in (file[:-20], bytes(flipped)):
        assert refusal(lambda w=wrong: put_back(w, tmp_path / "new")).code in ("backup_truncated", "backup_damaged")  # type: ignore[misc]
        assert set(everything(tmp_path)) == {f"c/{name}" for name in everything(tmp_path / "c")} | (
            {"new/controller.lock"} if (tmp_path / "new").exists() else set()
        )


def test_an_audit_log_that_was_tampered_with_is_told(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", "office", "lab")
    with sqlite3.connect(tmp_path / "c" / "controller.db") as db:
        db.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 3")
    file = backup_of(tmp_path / "c")
    refused = refusal(lambda: put_back(file, tmp_path / "new"))
    assert refused.code == "audit_broken" and "entry 3" in refused.what
    assert refusal(lambda: put_back(file, tmp_path / "new", dry_run=True)).code == "audit_broken"
    assert put_back(file, tmp_path / "new", accept_broken_audit=True).audit_broken_at == 3


def test_rows_that_dont_fit_the_audit_log_or_the_count_are_missed(tmp_path: Path) -> None:
    """By who has the keys and leaves out the newest entries."""
    make_controller(tmp_path / "c", "office")
    with sqlite3.connect(tmp_path / "c" / "controller.db") as db:
        db.execute("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)")
    assert refusal(lambda: put_back(backup_of(tmp_path / "c"), tmp_path / "new")).code == "audit_broken"


def test_no_secret_is_in_an_encrypted_file_nor_in_the_plain_rows(tmp_path: Path) -> None:
    """All secrets of a run: passwords, API keys, invites, codes, network keys, the controller's keys and the passphrase."""
    first = make_controller(tmp_path / "c")
    made: set[bytes] = {
        first.admin_password.encode(),
        first.api_key.encode(),
        first.api_key.removeprefix("sk_").encode(),
    }
    made |= _secrets_of_a_run(tmp_path / "c")
    opened = open_directory(tmp_path / "c")
    own = [secret.reveal() for secret in opened.keys.secrets().values()]
    for raw in own:
        made |= {raw, base64.b64encode(raw), raw.hex().encode()}
    file = backup_of(tmp_path / "c")
    contents = contents_of(file)
    plain = repr(list(contents.records())).encode()
    assert len(made) > 25
    assert [s for s in made if s in plain] == [], "rows hold hashes and what the vault has sealed"
    assert [s for s in made if s in file] == []
    assert all(base64.b64encode(raw) in b"".join(contents.files.values()) for raw in own), "the keys are in it"


def _secrets_of_a_run(path: Path) -> set[bytes]:
    from shadowmesh.controller.authz import LOCAL
    from shadowmesh.controller.keyring import Vault
    from shadowmesh.controller.service.context import ServiceContext
    from shadowmesh.controller.service.grants import key_label
    from shadowmesh.controller.service.services import Services
    from shadowmesh.controller.settings import Timing
    from shadowmesh.controller.store.database import open_store
    from shadowmesh.model.accounts import ApiKeyCreate, UserCreate
    from shadowmesh.model.clock import utc_now

    found: set[bytes] = set()

    async def use() -> None:
        opened = open_directory(path)
        store = open_store(opened.url)
        vault: Vault = opened.keys.vault
        at = Services(ServiceContext(store, opened.keys, opened.settings, Timing(), utc_now))
        try:
            for name in ("office", "lab"):
                network = await at.networks.create(LOCAL, NetworkCreate(name=name))
                found.add(network.invitation_code.encode())
                invite = await at.invites.create(LOCAL, name, InviteCreate())
                found.update({invite.invite.encode(), invite.code.encode()})
            user = await at.users.create(LOCAL, UserCreate(email="ann@example.org"))
            assert user.password is not None
            found.add(user.password.encode())
            await at.users.create(LOCAL, UserCreate(email="backup@example.org", kind="service"))
            key = await at.api_keys.create(LOCAL, ApiKeyCreate(name="k", user="backup@example.org"))
            found.add(key.key.encode())
            with store.engine.connect() as conn:
                for row in conn.execute(sa.select(schema.epochs)):
                    raw = vault.decrypt(row.sealed_key, key_label(row.network_ref, row.epoch)).reveal()
                    found.update({raw, base64.b64encode(raw), raw.hex().encode()})
        finally:
            store.close()

    asyncio.run(use())
    return found


# killed


def kit(code: str, directory: Path, ends_by: int = 0) -> str:
    """What a process of its own prints that runs this with what is in `backupkit`; it forks, which this one can't safely."""
    begin = f"import sys; sys.path.insert(0, {str(Path(backupkit.__file__).parent)!r}); from backupkit import *; "
    done = subprocess.run([sys.executable, "-c", begin + code], cwd=directory, capture_output=True, text=True)
    assert done.returncode == -ends_by, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_restore_that_is_killed_loses_nothing_wherever_it_was(tmp_path: Path) -> None:
    """Before each of the renames by which it ends, and one before: what was there, or all of the new, is there afterwards."""
    make_controller(tmp_path / "c", "office")
    file = backup_of(tmp_path / "c")
    _in_database(tmp_path / "c", "later")
    old = rows_of(database_of(tmp_path / "c"))["networks"]
    (tmp_path / "backup").write_bytes(file)
    renames = int(kit("print(killed_at(-1, Path('backup').read_bytes(), Path('c'), Path('whole')))", tmp_path))
    assert renames > 15
    seen: set[str] = set()
    wanted = [0, *range(renames - 14, renames)]
    kit(f"[killed_at(n, Path('backup').read_bytes(), Path('c'), Path(f'c{{n}}')) for n in {wanted}]", tmp_path)
    for rename in wanted:
        where = tmp_path / f"c{rename}"
        finish_interrupted(DataDir(where))
        found = rows_of(database_of(where))["networks"]
        if len(found) == 2:
            assert found == old, "untouched"
            seen.add("old")
        else:
            assert len(found) == 1
            (kept,) = where.glob("before-restore-*")
            with sqlite3.connect(kept / "controller.db") as db:
                assert db.execute("SELECT count(*) FROM networks").fetchone() == (2,), "what was there is kept"
            seen.add("new")
    assert seen == {"old", "new"}


def test_a_backup_that_is_killed_leaves_the_file_of_before(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", "office")
    file = tmp_path / "backup"
    file.write_bytes(b"the one of before")
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "import shadowmesh.controller.backup.backupfile as b\n"
        "from shadowmesh.controller.backup.taking import back_up_to, open_directory\n"
        "from shadowmesh.controller.backup.sealedfile import Locks, parse_recipient\n"
        "def lines(records):\n"
        "    for n, r in enumerate(real(records)):\n"
        "        if n == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield r\n"
        "real, b.record_lines = b.record_lines, lines\n"
        "back_up_to(open_directory(Path(sys.argv[1])), Path(sys.argv[2]), Locks(recipients=(parse_recipient(sys.argv[3]),)), overwrite=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "c"), str(file), RECIPIENT])
    assert done.returncode == -signal.SIGKILL and file.read_bytes() == b"the one of before"
    opened = open_directory(tmp_path / "c")
    assert refusal(lambda: back_up_to(opened, file, LOCKS, overwrite=False)).code == "file_exists"
    back_up_to(opened, file, LOCKS, overwrite=True)
    with file.open("rb") as taken:
        assert read_backup(taken, OPENERS).manifest.database == "sqlite"
    assert [p.name for p in tmp_path.iterdir()].count("backup") == 1 and not list(tmp_path.glob(".backup*"))


# from one database to another


def test_to_another_sqlite_file_and_back(tmp_path: Path) -> None:
    make_controller(tmp_path / "c", "office", "lab")
    before = rows_of(database_of(tmp_path / "c"))
    moved = move_database(tmp_path / "c", f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "c" / "controller.db").exists() and Path(moved.left).exists()
    assert refusal(lambda: move_database(tmp_path / "c", f"sqlite:///{tmp_path}/other.db")).code == "same_database"
    move_database(tmp_path / "c", "sqlite")
    _same_but_for_the_audit_log(before, rows_of(database_of(tmp_path / "c")), entries=2)


def _same_but_for_the_audit_log(before: dict[str, list[Any]], after: dict[str, list[Any]], entries: int) -> None:
    assert len(after.pop("audit")) == len(before.pop("audit")) + entries
    del before["audit_head"], after["audit_head"]
    assert after == before


@pytest.mark.lab
async def test_to_postgresql_and_back_row_for_row(pg: Store, postgres: str, world: World, tmp_path: Path) -> None:
    """A controller that was used: every table that its use fills is the same afterwards, and works there."""
    await world.network()
    ann = await world.member(name="ann")
    await world.invite(ephemeral=True, tags=["a", "b"])
    await ann.close()
    path = tmp_path / "copy"
    path.mkdir()
    file = await asyncio.to_thread(backup_of, world.data_dir)
    await asyncio.to_thread(put_back, file, path)
    before = rows_of(database_of(path))
    empty(pg.engine)
    pg.engine.dispose()  # it counts as a node
    moved = await asyncio.to_thread(move_database, path, postgres)
    assert moved.rows["clients"] == 1 and moved.audit_entries == len(before["audit"])
    opened = open_directory(path)
    assert opened.url.get_backend_name() == "postgresql" and not (path / "controller.db").exists()
    there = rows_of(opened)
    _same_but_for_the_audit_log(dict(before), dict(there), entries=1)

    # a backup of PostgreSQL, into a new SQLite file and, over what is there, into PostgreSQL again
    file = await asyncio.to_thread(backup_of, path)
    assert contents_of(file).manifest.database == "postgresql"
    report = await asyncio.to_thread(put_back, file, tmp_path / "lite", database_url="sqlite")
    assert report.database == "sqlite" and report.rows["clients"] == 1
    assert refusal(lambda: put_back(file, tmp_path / "again")).code == "target_not_empty"
    again = await asyncio.to_thread(put_back, file, tmp_path / "again", replace=True)
    assert again.database.startswith("postgresql://")

    await asyncio.to_thread(move_database, tmp_path / "again", "sqlite")
    back = rows_of(database_of(tmp_path / "again"))
    for table in ("users", "clients", "invites", "addresses", "relays", "members", "health"):
        assert back[table] == before[table], table


@pytest.mark.lab
async def test_a_restore_into_postgresql_that_fails_or_is_killed_leaves_what_was_there(
    pg: Store, postgres: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(make_controller, tmp_path / "c", "office", "lab")
    file = backup_of(tmp_path / "c")
    with pg.engine.begin() as conn:
        conn.execute(schema.meta.insert().values(key="mark", value="before"))
    pg.engine.dispose()  # it counts as a node
    flipped = bytearray(file)
    flipped[-40] ^= 1
    options = {"replace": True, "database_url": postgres}
    failed = refusal(lambda: put_back(bytes(flipped), tmp_path / "new", **options))
    assert failed.code in ("backup_damaged", "backup_truncated")
    (tmp_path / "backup").write_bytes(file)
    pg.engine.dispose()
    code = f"killed_before_commit(Path('backup').read_bytes(), Path('new'), {postgres!r})"
    assert await asyncio.to_thread(kit, code, tmp_path, signal.SIGKILL) == ""
    with pg.engine.connect() as conn:
        assert conn.execute(sa.select(schema.meta.c.value).where(schema.meta.c.key == "mark")).scalar() == "before"
    pg.engine.dispose()
    assert put_back(file, tmp_path / "new", **options).rows["networks"] == 2


@pytest.mark.lab
async def test_nodes_that_run_keep_their_database(nodes: tuple[World, World], postgres: str, tmp_path: Path) -> None:
    """Seen from another process, whose connections have another name."""
    one, _ = nodes
    await asyncio.to_thread(make_controller, tmp_path / "c")
    (tmp_path / "backup").write_bytes(await asyncio.to_thread(backup_of, tmp_path / "c"))
    script = (
        "import sys; from pathlib import Path; from shadowmesh.controller.backup.dbmove import move_database\n"
        "from shadowmesh.model.errors import ShadowMeshError\n"
        "try: move_database(Path(sys.argv[1]), sys.argv[2], replace_there=True)\n"
        "except ShadowMeshError as e: print(e.code)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path / "c"), postgres, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "nodes_running"
    assert await one.call("network_list") == []


def test_a_backup_of_a_newer_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_controller(tmp_path / "c")
    monkeypatch.setattr("shadowmesh.controller.backup.backupfile.revision_of", lambda conn: "9999")
    file = backup_of(tmp_path / "c")
    refused = refusal(lambda: put_back(file, tmp_path / "new"))
    assert refused.code == "backup_newer" and "9999" in refused.what


def test_a_local_client_finds_what_was_restored(tmp_path: Path) -> None:
    """By a controller process, as an operator does it."""
    make_controller(tmp_path / "c", "office")
    put_back(backup_of(tmp_path / "c"), tmp_path / "new")
    run = [sys.executable, "-m", "shadowmesh", "controller", "run", "--data-dir", str(tmp_path / "new")]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "controller ready" in line:
                    break
            with ControllerClient.local(tmp_path / "new") as client:
                assert [n.name for n in client.network_list()] == ["office"]
                assert client.audit_verify().ok
        finally:
            process.terminate()
