"""Upgrades of a database: the copy before, what is said of them, and nodes of two versions side by side."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from backupkit import database_of, rows_of
from pgserver import empty

from shadowmesh.controller.backup import upgrading
from shadowmesh.controller.backup.oldcopy import read_sqlite_copy
from shadowmesh.controller.backup.restore import RestoreOptions, restore
from shadowmesh.controller.backup.taking import open_directory
from shadowmesh.controller.backup.upgrading import plan_upgrade, upgrade
from shadowmesh.controller.initialise import InitOptions, InitResult, init
from shadowmesh.controller.store import migrate as migrating
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import database_url, make_engine, open_store
from shadowmesh.controller.store.migrate import Step, migrate, revision_of, steps
from shadowmesh.controller.store.nodesthere import NodeThere
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.controller.store.database import Store

pytestmark = pytest.mark.whole

NEWEST = steps()[-1].revision
BEFORE = steps()[-2].revision
NEEDED = next(step.revision for step in reversed(steps()[:-1]) if not step.older_nodes_go_on)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A controller whose database has the schema of before, as a version of that time made it."""
    path = tmp_path / "c"
    with monkeypatch.context() as then:
        known = steps()[:-1]
        then.setattr("shadowmesh.controller.initialise.migrate", lambda engine: migrate(engine, BEFORE))
        then.setattr(migrating, "steps", lambda: known)
        init(InitOptions(path, ("https://127.0.0.1:18443",)))
    return path


def found(path: Path) -> str | None:
    engine = make_engine(database_url(None, path))
    with engine.connect() as conn:
        revision = revision_of(conn)
    engine.dispose()
    return revision


def test_the_check_says_what_is_missing_and_changes_nothing(old: Path) -> None:
    before = {p.name: p.read_bytes() for p in old.iterdir() if p.is_file()}
    plan = plan_upgrade(open_directory(old))
    assert (plan.found, plan.wanted, [s.revision for s in plan.missing]) == (BEFORE, NEWEST, [NEWEST])
    assert plan.refusal is None and plan.missing[0].what
    assert {p.name: p.read_bytes() for p in old.iterdir() if p.is_file()} == before


def test_before_an_upgrade_the_database_is_copied_beside_itself(old: Path) -> None:
    before = rows_of(database_of(old))
    done = upgrade(old)
    assert done.copy is not None
    copy = Path(done.copy)
    assert copy.parent == old and stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert found(copy) == BEFORE and found(old / "controller.db") == NEWEST
    copied = database_of(old, f"sqlite:///{copy}")
    assert rows_of(copied) == before
    again = upgrade(old)
    assert again.missing == () and again.copy is None


def test_such_a_copy_is_put_back_as_a_backup_is(old: Path) -> None:
    copy = Path(str(upgrade(old).copy))
    with sqlite3.connect(old / "controller.db") as db:
        db.execute("INSERT INTO meta VALUES ('since', 'then')")
    before = copy.read_bytes()
    report = restore(read_sqlite_copy(copy, old), RestoreOptions(old, replace=True))
    assert report.schema_revision == BEFORE and found(old / "controller.db") == NEWEST
    assert copy.read_bytes() == before, "it is read only"
    with sqlite3.connect(old / "controller.db") as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'since'").fetchone() is None


def test_without_room_for_the_copy_nothing_is_done(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000})())
    refused = plan_upgrade(open_directory(old)).refusal
    assert refused is not None and refused.code == "disk_full"
    with pytest.raises(ShadowMeshError, match="no room"):
        upgrade(old)
    monkeypatch.undo()
    monkeypatch.setattr(
        upgrading, "_copy_sqlite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ShadowMeshError, match="couldn't be copied") as failed:
        upgrade(old)
    monkeypatch.undo()
    assert failed.value.code == "no_copy" and found(old / "controller.db") == BEFORE


def test_only_the_newest_copies_are_kept(old: Path) -> None:
    for name in ("0001", "0002", "0003", "0004"):
        (old / f"controller.db.before-{name}").write_bytes(b"")
        os.utime(old / f"controller.db.before-{name}", (int(name), int(name)))
    upgrade(old)
    kept = sorted(p.name.rpartition("-")[2] for p in old.glob("controller.db.before-*"))
    assert kept == sorted(["0003", "0004", NEWEST])


@pytest.mark.parametrize("go_on", [True, False])
def test_nodes_that_run_go_on_or_are_the_reason_why_not(
    old: Path, monkeypatch: pytest.MonkeyPatch, go_on: bool
) -> None:
    known = [*steps()[:-1], Step(NEWEST, "Something more.", go_on)]
    monkeypatch.setattr(migrating, "steps", lambda: known)
    monkeypatch.setattr(upgrading, "others_there", lambda conn: [NodeThere("two:7", "0.2.9")])
    plan = plan_upgrade(open_directory(old))
    assert plan.nodes and plan.older_nodes_go_on is go_on
    if go_on:
        assert plan.refusal is None
        upgrade(old)
        with sqlite3.connect(old / "controller.db") as db:
            assert db.execute("SELECT value FROM meta WHERE key = 'oldest_schema'").fetchone() == (
                f"{NEEDED} {NEWEST}",
            )
    else:
        assert plan.refusal is not None and plan.refusal.kind is Kind.CONFLICT
        for word in ("two:7 (0.2.9)", NEWEST, "Something more"):
            assert word in plan.refusal.what
        with pytest.raises(ShadowMeshError) as refused:
            upgrade(old)
        assert refused.value.code == "nodes_running" and found(old / "controller.db") == BEFORE


def newer(path: Path, oldest: str | None) -> None:
    """As a node of a newer version leaves a database."""
    with sqlite3.connect(path / "controller.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        if oldest is not None:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('oldest_schema', ?)", (oldest,))


@pytest.mark.parametrize(
    ("oldest", "works"),
    [
        (f"{NEWEST} 9999", True),
        (f"{BEFORE} 9999", True),
        ("9998 9999", False),
        (f"{NEWEST} 9998", False),
        (None, False),
    ],
)
def test_an_older_node_starts_on_a_newer_database_if_that_says_so(
    data_dir: Path, oldest: str | None, works: bool
) -> None:
    newer(data_dir, oldest)
    opened = open_directory(data_dir)
    plan = plan_upgrade(opened)
    assert plan.missing == () and (plan.refusal is None) is works
    engine = make_engine(opened.url)
    try:
        if works:
            migrate(engine)
        else:
            with pytest.raises(ShadowMeshError) as refused:
                migrate(engine)
            assert refused.value.code == "database_newer"
    finally:
        engine.dispose()
    assert found(data_dir / "controller.db") == "9999"


@pytest.mark.lab
async def test_a_node_is_seen_by_its_connections_and_a_copy_of_postgresql_is_put_back(
    pg: Store, postgres: str, tmp_path: Path, template: tuple[Path, InitResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shadowmesh.controller.backup.backupfile import read_backup
    from shadowmesh.controller.backup.sealedfile import Openers

    empty(pg.engine)
    path = tmp_path / "c"
    with monkeypatch.context() as then:
        known = steps()[:-1]
        then.setattr("shadowmesh.controller.initialise.migrate", lambda engine: migrate(engine, BEFORE))
        then.setattr(migrating, "steps", lambda: known)
        init(InitOptions(path, ("https://127.0.0.1:18443",), database_url=postgres))
    opened = open_directory(path)
    known = [*steps()[:-1], Step(NEWEST, "Something more.", older_nodes_go_on=False)]
    monkeypatch.setattr(migrating, "steps", lambda: known)
    other = open_store(database_url(postgres, tmp_path))
    await other.read(lambda conn: conn.execute(sa.select(schema.meta)).all())
    plan = plan_upgrade(opened)
    assert other.node in [node.name for node in plan.nodes], "it hasn't said its name yet"
    assert plan.refusal is not None and plan.refusal.code == "nodes_running"
    other.close()
    monkeypatch.undo()
    pg.engine.dispose()
    before = rows_of(opened)
    done = upgrade(path)
    with open(str(done.copy), "rb") as copy:  # noqa: ASYNC230, PTH123
        assert stat.S_IMODE(os.fstat(copy.fileno()).st_mode) == 0o600
        contents = read_backup(copy, Openers(vault=opened.keys.vault))
        assert contents.manifest.revision == BEFORE
        report = restore(contents, RestoreOptions(path, replace=True))
    assert report.restored is not None
    assert rows_of(opened)["users"] == before["users"]
