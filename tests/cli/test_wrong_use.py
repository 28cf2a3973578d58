"""What is wrong is said in one line with what to do about it, and the right exit code; no controller is needed for it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.daemon.state import State
from shadowmesh.model.ids import InviteID
from shadowmesh.model.invite import Invite

if TYPE_CHECKING:
    from clikit import Command, Controller

FAILED, USAGE, UNREACHABLE, NOT_ALLOWED, NOT_FOUND, CONFLICT = 1, 2, 3, 4, 5, 6
NOWHERE = "https://127.0.0.1:1"
ZEROES = "sha256:" + "0" * 64
INVITE = Invite(urls=(NOWHERE,), fingerprint=ZEROES, invite_id=InviteID("inv_x"), secret="A" * 22).encode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("netwrk", "did you mean 'network'?"),
        ("network crate", "did you mean 'create'?"),
        ("user create", "did you mean 'add'?"),
        ("network add", "did you mean 'create'?"),
        ("api-key delete", "did you mean 'revoke'?"),
        ("device rm", "did you mean 'remove'?"),
        ("client edit", "did you mean 'set'?"),
        ("xyzzy", "no such command 'xyzzy'; see `shadowmesh --help`"),
        ("network create x --subnt 10.0.0.0/24", "no such option: --subnt; did you mean --subnet?"),
        ("network set x --name y", "no such option: --name; did you mean --rename?"),
        ("status --bogus", "see `shadowmesh status --help`"),
        ("network show", "'NAME'; see `shadowmesh network show --help`"),
        ("network invite", "'NAME'; see"),
        ("network show a b", "extra argument"),
        ("ping x --count none", "'none' is not a whole number"),
        ("ping x --count 0", "'--count'"),
        ("ping x --count 1_0", "'1_0' is not a whole number"),
        ("ping x --count +5", "'+5' is not a whole number"),
        ("ping x --timeout nan", "'nan' is not a number"),
        ("wait x --timeout inf", "'inf' is not a number"),
        ("bench x --seconds nan", "'nan' is not a number"),
        ("network invite x --uses ٣", "'٣' is not a whole number"),
        ("network invite x --expires ٣h", "is not a duration"),
        ("wait x --state sideways", "--state up or direct"),
        ("wait x --direct", "no such option: --direct; say --state direct"),
        ("--json status", "no such option: --json; options stand after the verb: `shadowmesh VERB … --json`"),
        ("network set x", "nothing to change; name what is to be changed; see `shadowmesh network set --help`"),
        ("register --controller https://h:1", "'--invite'"),
        ("controller init --public-url https://h:1", "'--data-dir'"),
        ("relay run --data-dir r", "give --public-url"),
        ("network list", "--data-dir on the controller's host"),
        ("network invite x --expires 3x", "'3x' is not a duration; write it as"),
        ("network invite x --expires 0", "is not a duration"),
        ("login https://h:1", "--token"),
        ("login ftp://h --token t", "'ftp://h' is not a controller's URL; give it as https://"),
        ("login https://h:1 --email a@b", "--password"),
        ("login https://127.0.0.1:1 --token t --fingerprint sha256:12", "is not a fingerprint"),
        ("completion tcsh", "bash, zsh and fish"),
        ("controller init --data-dir d --public-url http://h:1", "give it as https://HOST:PORT"),
        ("controller init --data-dir d --public-url https://h:99999", "give it as https://HOST:PORT"),
        ("controller init --data-dir d --public-url https://h:1 --listen here", "give it as ADDRESS:PORT"),
        ("controller init --data-dir d --public-url https://h:1 --admin-email me", "NAME@HOST"),
        ("controller init --data-dir d --public-url https://h:1 --database-url foo://x", "postgresql://"),
        ("controller init --data-dir d --public-url https://h:1 --tls-cert /no --tls-key /no", "No such file"),
        ("controller init --data-dir d --public-url https://h:1 --tls-cert /no", "--tls-key"),
        ("controller init --data-dir d --public-url https://h:1 --join-secrets /no", "secrets export"),
        ("relay run --data-dir r --public-url http://x", "ws://HOST:9545"),
        ("relay run --data-dir r --public-url ws://h:1 --listen here", "ADDRESS:PORT"),
        ("relay run --data-dir r --public-url ws://h:1", "relay token"),
        ("relay run --data-dir r --public-url ws://h:1 --controller http://h --token t", "https://HOST:PORT"),
    ],
)  # fmt: skip
def test_wrong_use_is_code_2(sm: Command, home: Path, arguments: str, words: str) -> None:
    sm(*arguments.split()).refused(USAGE, words)
    assert not (home / "d").exists() or not any((home / "d").iterdir()), "nothing half-made"


@pytest.mark.parametrize(
    ("invite", "stdin", "words"),
    [
        ("-", "", "the invite from stdin is empty"),
        ("-", "\n", "the invite from stdin is empty"),
        ("", "", "the invite is empty"),
        ("-", "nonsense\n", "this is not an invite"),
        ("@missing", "", "can't read the invite from missing (No such file or directory)"),
        ("@/etc", "", "can't read the invite from /etc (Is a directory)"),
        ("garbage", "", "this is not an invite"),
        ("smi1_garbage", "", "damaged or cut off"),
        (INVITE[:60], "", "damaged or cut off"),
        (INVITE[:-9] + "AAAA" + INVITE[-5:], "", "this is not an invite"),
        ("office-abcd-efghijkl", "", "--controller https://HOST:8443"),
        ("office-abcd-efghijkl --controller http://h", "", "https://HOST:PORT"),
        (f"office-abcd-efghijkl --controller {NOWHERE} --fingerprint sha256:0", "", "is not a fingerprint"),
    ],
)
def test_what_is_no_invite_is_code_2(sm: Command, tmp_path: Path, invite: str, stdin: str, words: str) -> None:
    sm("join", *(invite.split() or [""]), "--state-dir", tmp_path / "state", stdin=stdin).refused(USAGE, words)
    assert not (tmp_path / "state").exists(), "nothing half-made"


@pytest.mark.parametrize(
    "arguments",
    ["status", "up", "down", "peers", "ping x", "why x", "wait x --timeout 0.2", "leave x --yes", "export wireguard x"],
)
def test_without_a_daemon_it_is_code_3(sm: Command, tmp_path: Path, arguments: str) -> None:
    sm(*arguments.split(), "--state-dir", tmp_path, "--json").refused(
        UNREACHABLE, f"no daemon answers in {tmp_path}", "shadowmesh daemon run"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_controller_out_of_reach_is_code_3(sm: Command, tmp_path: Path) -> None:
    sm("join", INVITE, "--state-dir", tmp_path).refused(UNREACHABLE, NOWHERE, "connection refused")
    sm("login", NOWHERE, "--token", "t", "--fingerprint", ZEROES).refused(UNREACHABLE, "connection refused")
    away = {"SHADOWMESH_CONTROLLER": "https://nowhere.invalid:1", "SHADOWMESH_TOKEN": "t"}
    sm("network", "list", env=away).refused(UNREACHABLE, "can't be resolved")
    sm("network", "list", env={"SHADOWMESH_CONTROLLER": NOWHERE}).refused(NOT_ALLOWED, "SHADOWMESH_TOKEN")
    sm("network", "list", "--data-dir", tmp_path).refused(UNREACHABLE, f"no controller runs in {tmp_path}")
    sm("controller", "run", "--data-dir", tmp_path).refused(NOT_FOUND, "shadowmesh controller init")
    sm("controller", "secrets", "export", "--data-dir", tmp_path).refused(NOT_FOUND, "shadowmesh controller init")


def test_help_says_when_it_knows_nothing(sm: Command) -> None:
    sm("help", "xyzzy").refused(NOT_FOUND, "shadowmesh --help")
    sm("help", "reason", "direct.magic").refused(NOT_FOUND, "help reason")


# the state on disk


@pytest.mark.parametrize("how", ["garbage", "cut off", "a newer format", "a strange format"])
def test_a_state_that_cant_be_read_is_left_as_it_is(sm: Command, tmp_path: Path, how: str) -> None:
    State(tmp_path).close()
    database = tmp_path / "state.db"
    if how == "garbage":
        database.write_bytes(os.urandom(5000))
    elif how == "cut off":
        os.truncate(database, database.stat().st_size // 2)
    else:
        with sqlite3.connect(database) as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'format'", ("9" if how == "a newer format" else "new",))
            db.execute("DROP TABLE enrolments")  # as if that version had other tables
        db.close()
    before = database.read_bytes()
    words = "install that version again" if how == "a newer format" else "restore state.db from a backup"
    sm("join", INVITE, "--state-dir", tmp_path).refused(FAILED, str(tmp_path), words)
    if os.geteuid() == 0:
        sm("daemon", "run", "--state-dir", tmp_path).refused(FAILED, str(tmp_path), words)
    assert database.read_bytes() == before


def test_a_state_directory_that_cant_be_one(sm: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    sm("join", INVITE, "--state-dir", tmp_path / "file").refused(FAILED, "--state-dir")
    sm("join", INVITE, "--state-dir", "/proc/nowhere").refused(FAILED, "--state-dir")


def test_a_directory_that_holds_other_things_keeps_its_permissions(sm: Command, tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    tmp_path.chmod(0o755)
    sm("join", INVITE, "--state-dir", tmp_path).refused(UNREACHABLE)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    sm("controller", "init", "--data-dir", tmp_path, "--public-url", "https://h:1", "--json").document(
        "controller-init/1"
    )
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert not [p for p in tmp_path.rglob("*") if p.name != "theirs" and p.stat().st_mode & 0o077 and p.is_file()]


@pytest.mark.root
def test_two_daemons_on_one_state_directory(sm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmesh.client_api.starting.LIMIT_S", 0.2)  # the one that is starting never answers
    monkeypatch.setattr("shadowmesh.daemon.app.JOIN_S", 0.2)
    state = State(tmp_path)
    try:
        sm("daemon", "run", "--state-dir", tmp_path).refused(CONFLICT, "another daemon uses", "--state-dir")
        sm("join", INVITE, "--state-dir", tmp_path).refused(CONFLICT, "another daemon uses")
    finally:
        state.close()


# the controller's directory


def test_init_twice_leaves_the_first_as_it_was(sm: Command, controller: Controller) -> None:
    files = {p: p.read_bytes() for p in controller.data_dir.rglob("*") if p.is_file() and "controller.db" not in p.name}
    again = sm("controller", "init", "--data-dir", controller.data_dir, "--public-url", "https://h:1", "--json")
    again.refused(CONFLICT, "there is a controller", "--data-dir")
    assert {p: p.read_bytes() for p in files} == files


def test_one_controller_runs_in_a_directory(sm: Command, controller: Controller) -> None:
    sm("controller", "run", "--data-dir", controller.data_dir).refused(CONFLICT, "runs in")


@pytest.fixture(scope="module")
def idle_controller(sm: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A controller that was made and doesn't run; to be copied."""
    path = tmp_path_factory.mktemp("idle") / "data"
    made = sm("controller", "init", "--data-dir", path, "--public-url", "https://127.0.0.1:8443")
    assert made.code == 0 and "shown only now" in made.out
    return path


def test_ports_in_use_are_named(sm: Command, controller: Controller, idle_controller: Path, tmp_path: Path) -> None:
    port = controller.url.rpartition(":")[2]
    taken = f"127.0.0.1:{port}"
    sm("controller", "run", "--data-dir", idle_controller, "--listen", taken).refused(CONFLICT, port, "--listen")
    relay = ("relay", "run", "--data-dir", tmp_path / "r", "--public-url", "ws://127.0.0.1:1", "--listen", taken)
    token = ("--controller", controller.url, "--token", "-", "--fingerprint", controller.fingerprint)
    sm(*relay, *token, stdin="x\n").refused(CONFLICT, port, "--listen")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{udp.getsockname()[1]}"
        sm("controller", "run", "--data-dir", idle_controller, "--listen", free).refused(CONFLICT, "UDP", "--listen")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("controller.db", b"garbage" * 999, "put the database back from a backup"),
        ("controller.json", b"{", "controller.json can't be read"),
        ("keys/identity.key", b"{", "identity.key is missing or damaged"),
        ("keys/secrets.key", None, "secrets.key is missing or damaged (No such file or directory)"),
        ("controller.db", None, "controller.db is missing; put it back"),
    ],
)
def test_a_damaged_controller_doesnt_start_and_says_why(
    sm: Command, idle_controller: Path, tmp_path: Path, file: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / "data"
    shutil.copytree(idle_controller, path)
    (path / file).unlink()
    if content is not None:
        (path / file).write_bytes(content)
    before = {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    sm("controller", "run", "--data-dir", path, "--listen", "127.0.0.1:9").refused(FAILED, words)
    after = {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert {name: after.get(name) for name in before} == before, "nothing was written over"


def test_a_newer_database_is_left_as_it_is(sm: Command, idle_controller: Path, tmp_path: Path) -> None:
    path = tmp_path / "data"
    shutil.copytree(idle_controller, path)
    with sqlite3.connect(path / "controller.db") as db:
        db.execute("UPDATE alembic_version SET version_num = 'zzzz'")
    db.close()
    sm("controller", "run", "--data-dir", path, "--listen", "127.0.0.1:9").refused(FAILED, "newer version", "zzzz")
    with sqlite3.connect(path / "controller.db") as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [("zzzz",)]
    db.close()


def test_a_damaged_relay_says_why(sm: Command, tmp_path: Path) -> None:
    relay = ("relay", "run", "--data-dir", tmp_path, "--public-url", "ws://h:1", "--listen", "127.0.0.1:9")
    (tmp_path / "relay.json").write_text("x")
    sm(*relay).refused(FAILED, "relay.json can't be read")
    (tmp_path / "relay.json").write_text(json.dumps({"format": 9}))
    sm(*relay).refused(FAILED, "newer version")
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sm(*relay).refused(CONFLICT, "a relay already runs from")


def test_an_argument_that_is_no_text_is_said(sm: Command) -> None:
    """Bytes that aren't UTF-8 arrive as lone surrogates, which no message and no file name of ours can carry."""
    for arguments in (("join", INVITE, "--name", "caf\udce9"), ("network", "show", "\udcff")):
        sm(*arguments).refused(USAGE, "is not UTF-8")
