"""The state on disk: kept through kill -9, readable by its owner only, never written over when it isn't understood."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mapkit import a_map, update_of

from shadowmesh.daemon.state import FORMAT, FormerNetwork, NetworkRecord, NetworkSecrets, State
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.model.netmap import MapDelta
from shadowmesh.protocol.checkpoints import sign_checkpoint
from shadowmesh.protocol.signing import Signer

Membership = tuple[NetworkRecord, NetworkSecrets]


def test_what_is_kept_is_there_again(tmp_path: Path, joined: Membership) -> None:
    record, keys = joined
    state = State(tmp_path)
    device, port = state.device()
    state.put_network(record, keys)
    state.save_grant(record.network_id, {3: Secret(b"k" * 32)}, "token")
    state.keep_timestamp(1234567890.123456)
    state.set_port(port + 1)
    state.close()

    state = State(tmp_path)
    assert state.device() == (device, port + 1)
    assert state.networks() == [record]
    kept = state.secrets_of(record.network_id)
    assert (kept.wg_private, kept.sealing_private, kept.sealing_public) == (
        keys.wg_private, keys.sealing_private, keys.sealing_public,
    )  # fmt: skip
    assert state.load_grant(record.network_id) == ({3: Secret(b"k" * 32)}, "token")
    assert state.timestamp() == 1234567890.123456
    former = FormerNetwork(record=record, state="removed", what="removed", at=1.0)
    state.end_network(former)
    assert state.networks() == [] and state.load_grant(record.network_id) == ({}, ""), "keys go with their network"
    state.close()

    state = State(tmp_path)
    assert state.former_networks() == [former]
    state.put_network(record, keys)
    assert state.former_networks() == [], "joined anew"
    netmap = a_map(record.network_id, record)
    state.save_map(netmap, update_of(record, snapshot=netmap.snapshot()))
    assert state.load_map(record.network_id) == netmap
    state.reset_identity()
    assert state.networks() == [] and state.device()[0] != device
    assert not list((tmp_path / "maps").iterdir())
    state.close()


def test_an_enrolment_that_was_begun_keeps_its_keys(tmp_path: Path, joined: Membership) -> None:
    state = State(tmp_path)
    keys, fresh = state.enrolment_keys(b"mark", lambda: joined[1])
    assert fresh and keys is joined[1]
    state.close()
    state = State(tmp_path)
    again, fresh = state.enrolment_keys(b"mark", pytest.fail)
    assert not fresh and again.wg_private == keys.wg_private
    state.end_enrolment(b"mark")
    assert state.enrolment_keys(b"mark", lambda: joined[1])[1]
    state.close()


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        state = State(tmp_path / "new")
        state.device()
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "new").iterdir()}
    assert modes.pop("daemon.lock") == 0o600 and set(modes.values()) == {0o600}, "also what SQLite puts beside it"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o711
    state.close()


def test_others_may_pass_a_directory_that_was_made_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    State(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o711


def test_a_second_daemon_is_held_out_until_the_first_ends(tmp_path: Path) -> None:
    first = State(tmp_path)
    with pytest.raises(ShadowMeshError) as caught:
        State(tmp_path)
    assert (caught.value.code, caught.value.kind) == ("daemon_running", Kind.CONFLICT)
    first.close()
    State(tmp_path).close()


def test_a_failed_start_holds_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"garbage" * 999)
    for _ in range(2):
        with pytest.raises(ShadowMeshError) as caught:
            State(tmp_path)
        assert caught.value.code == "state_unreadable"
    (tmp_path / "state.db").unlink()
    State(tmp_path).close()


@pytest.mark.parametrize("left", [b"", b"\0", b"S" * 100])
def test_a_state_that_was_cut_short_is_not_made_anew(tmp_path: Path, left: bytes) -> None:
    State(tmp_path).close()
    (tmp_path / "state.db").write_bytes(left)
    (tmp_path / "state.db-wal").write_bytes(b"the last of what was saved")
    for _ in range(2):
        with pytest.raises(ShadowMeshError) as caught:
            State(tmp_path)
        assert caught.value.code == "state_unreadable"
    assert (tmp_path / "state.db").read_bytes() == left
    assert (tmp_path / "state.db-wal").read_bytes() == b"the last of what was saved"


def test_a_state_without_its_tables_is_not_made_anew(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        db.execute("CREATE TABLE other (a)")
    with pytest.raises(ShadowMeshError) as caught:
        State(tmp_path)
    assert caught.value.code == "state_unreadable"


def test_a_first_start_that_was_killed_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        killing.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            State(tmp_path)
    assert (tmp_path / "state.db.new").exists() and not (tmp_path / "state.db").exists()
    state = State(tmp_path)
    state.device()
    state.close()
    assert {path.name for path in tmp_path.iterdir()} == {"state.db", "daemon.lock", "current"}


def test_a_new_state_takes_nothing_of_the_journal_of_one_that_was_moved_away(
    tmp_path: Path, joined: Membership
) -> None:
    state = State(tmp_path / "old")
    state.put_network(*joined)  # it is in the journal, as the state is open
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "old" / "state.db-wal", tmp_path / "new" / "state.db-wal")
    state.close()
    state = State(tmp_path / "new")
    assert state.networks() == []
    state.close()


def test_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    State(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(FORMAT + 1),))
        db.execute("DROP TABLE enrolments")
    db.close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(ShadowMeshError) as caught:
        State(tmp_path)
    assert caught.value.code == "state_newer"
    assert (tmp_path / "state.db").read_bytes() == before


def test_a_record_that_isnt_understood_is_an_error_not_a_loss(tmp_path: Path, joined: Membership) -> None:
    state = State(tmp_path)
    state.put_network(*joined)
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE networks SET record = ?", (b"{}",))
    db.close()
    with pytest.raises(ShadowMeshError) as caught:
        state.networks()
    assert caught.value.code == "state_unreadable"
    state.close()


WRITER = """
import sys
from contextlib import closing
from pathlib import Path
from shadowmesh.daemon.state import State
from shadowmesh.model.keys import Secret
state = State(Path(sys.argv[1]))
(network,) = state.networks()
start = int(sys.argv[2])
for n in range(start, start + 100000):
    state.save_grant(network.network_id, {e: Secret(n.to_bytes(32, "big")) for e in range(1 + n % 7)}, str(n))
    print(n, flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_committed(tmp_path: Path, joined: Membership) -> None:
    state = State(tmp_path)
    state.put_network(*joined)
    state.close()
    told = 0
    for lines in (1, 2, 3, 5, 9):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(told + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            told = int(rest[-1]) if rest else told
        state = State(tmp_path)
        keys, token = state.load_grant(joined[0].network_id)
        state.close()
        assert told <= int(token) <= told + 1, "what was told to be kept is there, and at most what came after"
        assert keys == {e: Secret(int(token).to_bytes(32, "big")) for e in range(1 + int(token) % 7)}, "whole"
        told = int(token)


def test_a_map_is_kept_as_it_came_with_what_only_a_newer_version_understands(
    tmp_path: Path, joined: Membership
) -> None:
    record, keys = joined
    first, second = (
        a_map(record.network_id, record, *names, serial=n) for n, names in enumerate((("a", "b"), ("b", "c")))
    )
    state = State(tmp_path)
    state.put_network(record, keys)
    state.save_map(first, update_of(record, snapshot=first.snapshot()))
    assert state.load_map(record.network_id) == first
    state.save_map(second, update_of(record, delta=MapDelta.between(first, second)))
    state.close()

    state = State(tmp_path)
    found = state.load_map(record.network_id)
    state.close()
    assert found == second and found.snapshot() == second.snapshot()
    assert json.loads(found.encoded_head.raw)["policy"] == ["later"]
    assert [json.loads(found.entries[c].raw)["zone"] for c in found.ids] == ["b", "c"]


def test_the_newest_hundred_checkpoints_of_each_controller_are_kept(tmp_path: Path) -> None:
    signer = Signer.generate()
    state = State(tmp_path)
    for number in range(120):
        state.keep_checkpoint("sha256:a", sign_checkpoint(signer, f"{number:064x}", float(number)))
    other = sign_checkpoint(signer, "ff" * 32, 1.0)
    state.keep_checkpoint("sha256:b", other)
    state.keep_checkpoint("sha256:b", other)
    state.close()
    state = State(tmp_path)
    assert [c.at for c in state.checkpoints("sha256:a")] == [float(n) for n in range(20, 120)]
    assert state.checkpoints("sha256:b") == [other]
    state.forget_checkpoints("sha256:a")
    assert (state.checkpoints("sha256:a"), len(state.checkpoints("sha256:b"))) == ([], 1)
    state.close()


def read_all(directory: Path) -> None:
    """What a daemon reads at its start, and a join."""
    state = State(directory)
    try:
        state.device()
        state.timestamp()
        state.former_networks()
        state.checkpoints("sha256:x")
        for record in state.networks():
            state.secrets_of(record.network_id)
            state.load_grant(record.network_id)
        state.enrolment_keys(b"mark", pytest.fail)
    finally:
        state.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE device SET private_key = 'text'",
        "UPDATE device SET private_key = x'01'",
        "UPDATE device SET port = 'many'",
        "UPDATE device SET port = 70000",
        "UPDATE device SET port = -1",
        "UPDATE device SET port = 9e999",
        "DELETE FROM device",
        "UPDATE meta SET value = CAST(x'c1' AS TEXT) WHERE key = 'format'",
        "UPDATE meta SET value = 'noon' WHERE key = 'timestamp'",
        "UPDATE meta SET value = '1e300' WHERE key = 'timestamp'",
        "UPDATE networks SET record = 5",
        "UPDATE networks SET network_id = x'02'",
        "UPDATE networks SET wg_private = x'02'",
        "UPDATE networks SET sealing_private = 5",
        "UPDATE networks SET sealing_private = 4611686018427387904",
        "UPDATE networks SET sealing_private = x'02'",
        "UPDATE networks SET sealing_public = 7",
        "UPDATE epoch_keys SET key = 'k'",
        "UPDATE epoch_keys SET epoch = 9e999",
        "UPDATE epoch_keys SET epoch = -1",
        "UPDATE enrolments SET wg_private = ''",
        "INSERT INTO former VALUES (x'02', 5)",
        "INSERT INTO checkpoints VALUES ('sha256:x', 'c', 1.0, 5)",
    ],
)
def test_what_was_not_written_like_this_is_told_and_left_as_it_is(
    tmp_path: Path, joined: Membership, damage: str
) -> None:
    record, keys = joined
    state = State(tmp_path)
    state.device()
    state.put_network(record, keys)
    state.save_grant(record.network_id, {3: Secret(b"k" * 32)}, "token")
    state.keep_timestamp(1.5)
    state.enrolment_keys(b"mark", lambda: keys)
    state.close()
    read_all(tmp_path)
    db = sqlite3.connect(tmp_path / "state.db")
    with db:
        db.execute(damage)
    before = list(db.iterdump()) if "c1" not in damage else []
    db.close()
    for _ in range(2):
        with pytest.raises(ShadowMeshError) as caught:
            read_all(tmp_path)
        assert caught.value.code == "state_unreadable"
    db = sqlite3.connect(tmp_path / "state.db")
    assert not before or list(db.iterdump()) == before
    db.close()


def test_rows_lost_with_a_damaged_page_are_told(tmp_path: Path, joined: Membership) -> None:
    state = State(tmp_path)
    state.device()
    state.put_network(*joined)
    state.close()
    db = sqlite3.connect(tmp_path / "state.db")
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'networks'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek((page - 1) * size + 3)  # the page's number of rows
        file.write(b"\0\0")
    with pytest.raises(ShadowMeshError) as caught:
        State(tmp_path)
    assert caught.value.code == "state_unreadable"
