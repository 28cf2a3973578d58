"""Help, the conventions of output, secrets in arguments, completion, and how little is imported for a quick answer."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import typer.main

from shadowmesh.__main__ import SYSTEM_PATH, daemon_main, search_path
from shadowmesh.cli import base, main
from shadowmesh.cli.base import Call, details, hide_argument, read_secret, table
from shadowmesh.cli.client import _network_text, _peer_row, _why_text
from shadowmesh.daemon.state import State
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import NetworkStatus, PeerStatus, Status, Why

if TYPE_CHECKING:
    from clikit import Command


class _Heard(Call):
    """What was noted, as an event to wait for."""

    heard: ClassVar = threading.Event()

    def note(self, text: str) -> None:
        self.heard.set()


def test_a_connected_controller_that_says_nothing_is_shown_as_such() -> None:
    def shown(silence: float | None) -> str:
        network = NetworkStatus(
            name="office", network_id="x", ip="10.0.0.2", interface="shadowmesh0", state="up", controller="connected",
            controller_silent_s=silence,
        )  # fmt: skip
        return _network_text(network)

    assert "controller connected, nothing heard for 17 s" in shown(17.2)
    assert "heard" not in shown(1.9) and "heard" not in shown(None)


def test_a_peer_that_nobody_spoke_to_is_idle_and_not_without_a_path() -> None:
    peer = PeerStatus(name="b", client_id="cli_b", ip="10.0.0.3", path="none", reason="none.idle", explanation="…")
    assert _peer_row(peer)[3] == "idle"
    assert _why_text(Why(network="office", peer=peer)).startswith("b (10.0.0.3) in office: idle, none.idle")
    away = PeerStatus(name="b", client_id="cli_b", ip="10.0.0.3", path="none", reason="none.no_relay", explanation="…")
    assert _peer_row(away)[3] == "none"


def test_the_daemons_old_name_says_in_a_few_lines_how_networks_are_connected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peer(path: str) -> PeerStatus:
        return PeerStatus(name="b", client_id="c", ip="10.0.0.3", path=path, reason="r", explanation="…")  # type: ignore[arg-type]

    def network(name: str, state: str, *paths: str) -> NetworkStatus:
        return NetworkStatus(
            name=name, network_id="x", ip="10.0.0.2", interface="", state=state, controller="connected",  # type: ignore[arg-type]
            peers=tuple(map(peer, paths)),
        )  # fmt: skip

    networks = (
        network("a", "up", "direct", "none"), network("b", "up", "relay"), network("c", "up", "direct", "relay"),
        network("d", "up", "none"), network("e", "pending-approval"), network("f", "removed"),
    )  # fmt: skip
    status = Status(version="1", pump="python", networks=networks)
    monkeypatch.setattr("shadowmesh.cli.client.DaemonClient.status", lambda _: status)
    monkeypatch.setattr("sys.argv", ["shadowmesh-daemon", "status"])
    with pytest.raises(SystemExit) as end:
        daemon_main()
    assert end.value.code == 0
    assert capsys.readouterr().out.split("\n\n") == [
        "Network: a\nIP: 10.0.0.2\nStatus: Connected (P2P)\nConnection: P2P (direct)",
        "Network: b\nIP: 10.0.0.2\nStatus: Connected (Relay)\nConnection: Relay (fallback)",
        "Network: c\nIP: 10.0.0.2\nStatus: Connected (Hybrid)\nConnection: Hybrid (P2P and relay)",
        "Network: d\nIP: 10.0.0.2\nStatus: Connected\nConnection: none yet",
        "Network: e\nIP: 10.0.0.2\nStatus: Waiting for approval",
        "Network: f\nIP: 10.0.0.2\nStatus: Removed\n",
    ]


def test_a_packet_that_came_twice_is_not_told_as_a_loss_or_an_attack() -> None:
    peer = PeerStatus(name="b", client_id="cli_b", ip="10.0.0.3", path="direct", reason="direct.lan", explanation="…")
    text = _why_text(Why(network="office", peer=peer, drops={"duplicate": 1}))
    assert "packets that came twice: 1" in text and "dropped" not in text and "replay" not in text
    text = _why_text(Why(network="office", peer=peer, drops={"duplicate": 1, "auth": 3}))
    assert "packets dropped: 3 auth\n" in text


def test_who_waits_long_is_told() -> None:
    call = _Heard()
    with call.waiting("soon done", after=3600):
        pass
    assert not call.heard.is_set()
    for timer in [t for t in threading.enumerate() if isinstance(t, threading.Timer) and t.interval == 3600]:
        timer.join(30)
        assert not timer.is_alive(), "it ends with what it was made for"
    with call.waiting("waiting", after=0):
        assert call.heard.wait(30)


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    yield path, command
    for name, child in below.items():
        yield from _walk(child, (*path, name))


EVERY = dict(_walk(typer.main.get_command(main.build(None)), ()))
CONTRACT = """controller init, controller run, controller secrets export, login, logout, network create, network list, network
show, network set, network delete, network rotate-key, network invite, network invites, network revoke-invite, client list,
client show, client approve, client deny, client rename, client set, client remove, member list, member add, member
set-role, member remove, user list, user add, user disable, user enable, user reset-password, user import, user sessions, user end-session, user mfa enrol, user invite, user mfa reset, api-key create, api-key list, api-key
revoke, relay token, relay list, relay drain, relay remove, relay run, audit list, audit verify, join, register, leave, up,
down, daemon run, daemon install, doctor, status, peers, ping, why, tui, export wireguard, wait, lab up, lab exec, lab status, lab
down, lab nat, lab cut, lab loss, lab reboot, lab roam, lab heal, demo, help"""


def test_the_contracts_verbs_are_there() -> None:
    wanted = {tuple(verb.split()) for verb in CONTRACT.replace("\n", " ").split(",")}
    assert not wanted - set(EVERY)


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_verb_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.run([*path, "--help"])
    shown = capsys.readouterr()
    assert end.value.code == 0 and shown.err == ""
    assert f"Usage: {' '.join(('shadowmesh', *path))}" in shown.out
    command = EVERY[path]
    assert command.help or not path, "a sentence says what it does"
    for option in command.params:
        assert option.name == "help" or getattr(option, "help", "x"), f"{option.name} has no help"
    if path and not getattr(command, "commands", None):
        assert "--json" in shown.out and "--quiet" in shown.out


@pytest.mark.parametrize(
    ("words", "found"),
    [("join", "Usage: shadowmesh join"), ("network create", "Usage: shadowmesh network create"),
     ("relay", "shadowmesh relay run"), ("slow", "shadowmesh why PEER"), ("", "shadowmesh join INVITE"), ("postgres", "shadowmesh controller migrate --to URL"),
     ("admin", "shadowmesh user set EMAIL --admin"), ("camera", "shadowmesh client register"),
     ("reason relay.both_symmetric", "relay.both_symmetric: "), ("reason", "direct.lan ")],
)  # fmt: skip
def test_help_finds_verbs_and_reasons(words: str, found: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.run(["help", *words.split()])
    assert end.value.code == 0 and found in capsys.readouterr().out


def test_help_as_json(sm: Command) -> None:
    verbs = sm("help", "join", "--json").document("help/1")["verbs"]
    assert {"verb": "join", "usage": "join INVITE", "help": verbs[0]["help"]} == verbs[0]
    assert sm("help", "reason", "none.idle", "--json").document("reason/1")["code"] == "none.idle"


# what is imported


def _imported(*arguments: str) -> set[str]:
    script = (
        "import sys; from shadowmesh.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *arguments]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr.split())


HEAVY = ("rich", "textual", "sqlite_utils", "pydantic", "httpx", "numpy", "asyncio", "ssl", "pyroute2", "cryptography",
         "shadowmesh.controller", "shadowmesh.daemon", "shadowmesh.relay", "shadowmesh.engine", "shadowmesh_tui")  # fmt: skip


@pytest.mark.parametrize("arguments", [["--version"], ["status"], ["peers"], ["ping", "x"], ["up"]], ids=" ".join)
def test_a_quick_verb_imports_little(arguments: list[str], tmp_path: Path) -> None:
    where = [] if arguments == ["--version"] else ["--state-dir", str(tmp_path)]
    found = _imported(*arguments, *where)
    assert not found & set(HEAVY)
    assert arguments != ["--version"] or not found & {"typer", "msgspec", "json", "pathlib.Path"}


def test_managing_the_controller_on_this_host_imports_nothing_for_those_elsewhere(tmp_path: Path) -> None:
    found = _imported("network", "list", "--data-dir", str(tmp_path))
    assert "shadowmesh.client_api.rest" in found
    assert not found & {"httpx", "rich", "asyncio", "cryptography", "shadowmesh.client_api.contact"}


def test_a_daemon_that_comes_back_imports_only_what_it_needs(tmp_path: Path) -> None:
    """Its start is bounded by what is imported."""
    State(tmp_path).close()
    script = (
        "import sys; from pathlib import Path\nfrom shadowmesh.daemon.app import run_daemon\nimport shadowmesh.daemon.methods\n"
        "from shadowmesh.daemon.state import State\nState(Path(sys.argv[1])).networks(); print(*sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    found = set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())
    assert not found & {"numpy", "sqlite_utils", "httpx", "pydantic", "sqlalchemy", "textual", "typer", "pyroute2"}


def test_no_verbs_module_imports_what_it_doesnt_need(tmp_path: Path) -> None:
    assert "shadowmesh.cli.client" not in _imported("network", "list", "--data-dir", str(tmp_path))
    assert "shadowmesh.cli.network" not in _imported("status", "--state-dir", str(tmp_path))


# output


def test_a_table_aligns_and_shows_nothing_as_a_dash() -> None:
    shown = table(("NAME", "ONLINE", "X"), [["a", True, None], ["longer", False, "end"]])
    assert shown.splitlines() == ["NAME    ONLINE  X", "a       yes     -", "longer  no      end"]
    assert table(("A",), []) == "A"


def test_a_table_fits_a_terminal_by_breaking_sentences_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    what = "the group ops has it, as member, and so has their own list of permissions in this network"
    row = ["2026-01-31 12:00:00Z", "cli_" + "x" * 20, what]
    wide = table(("AT", "ID", "WHY"), [row])
    assert len(wide.splitlines()) == 2, "a pipe gets a line for each"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    lines = table(("AT", "ID", "WHY"), [row]).splitlines()
    assert max(map(len, lines)) <= 80 and row[0] in lines[1] and row[1] in lines[1]
    assert " ".join(line[48:].strip() for line in lines[1:]) == what
    monkeypatch.setenv("COLUMNS", "40")
    assert row[1] in table(("AT", "ID"), [row[:2]]), "an id stays whole, so that it can be copied"
    assert details({"a": {"b": 1, "c": None}, "longer": [], "text": "two\nlines"}) == (
        "a:       b 1\nlonger:  -\ntext:    two lines"
    )


def test_quiet_prints_nothing_and_json_only_json(capsys: pytest.CaptureFixture[str]) -> None:
    Call(quiet=True).done("x/1", {"a": 1}, "text")
    Call(quiet=True).line({"a": 1}, "text")
    Call(quiet=True).note("hint")
    assert capsys.readouterr() == ("", "")
    call = Call(json=True)
    call.done("x/1", {"a": "ü"}, "text")
    call.note("hint")
    assert capsys.readouterr() == ('{"schema": "shadowmesh.x/1", "a": "ü"}\n', "")


def test_an_error_of_many_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        base.fail(ShadowMeshError("x", "one\ntwo", "three\nfour", kind=Kind.CONFLICT))
    assert end.value.code == 6 and capsys.readouterr().err == "error: one two; three four\n"


@pytest.mark.parametrize("path", ["", "/opt/bin", "/opt/bin::/usr/bin"])
def test_programs_of_the_system_are_found_whatever_the_path(path: str) -> None:
    found = search_path(path).split(":")
    assert set(SYSTEM_PATH) <= set(found) and "" not in found and len(set(found)) == len(found)
    assert found[0] == ("/opt/bin" if path else SYSTEM_PATH[0])


# secrets


def test_read_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text(" kept \n")
    assert read_secret(f"@{file}", "token") == "kept"
    assert read_secret("literal", "token") == "literal"
    for bad in ("@" + str(tmp_path), "@missing", ""):
        with pytest.raises(ShadowMeshError) as caught:
            read_secret(bad, "token")
        assert caught.value.kind is Kind.USAGE
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ShadowMeshError, match="not text"):
        read_secret(f"@{file}", "token")


def test_a_secret_given_literally_is_hidden_from_the_process_list() -> None:
    script = (
        "import sys; from shadowmesh.cli.base import read_secret\n"
        "read_secret(sys.argv[2], 'token'); print(open('/proc/self/cmdline').read().replace('\\0', ' '))"
    )
    secret = "sk_sécret"
    shown = subprocess.run(
        [sys.executable, "-c", script, "--token", secret, f"--also={secret}", "--not", f"a {secret} within"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    hidden = "x" * len(secret.encode())
    assert shown.endswith(f"--token {hidden} --also={hidden} --not a {secret} within \n"), shown
    hide_argument("not among the arguments")


# completion and the unit


def test_network_namespaces_of_the_host_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("blue", "black", "green"):
        (tmp_path / name).touch()
    monkeypatch.setattr("shadowmesh.host.namespaces.NAMES", tmp_path)
    command = typer.main.get_command(main.build(None)).commands["up"]  # type: ignore[attr-defined]
    (option,) = (p for p in command.params if "--netns" in p.opts)
    context = command.make_context("up", [], resilient_parsing=True)
    assert [item.value for item in option.shell_complete(context, "bl")] == ["black", "blue"]
    monkeypatch.setattr("shadowmesh.host.namespaces.NAMES", tmp_path / "nowhere")
    assert option.shell_complete(context, "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(sm: Command, shell: str) -> None:
    script = sm("completion", shell, "--json").document("completion/1")["script"]
    assert "shadowmesh" in script and "_SHADOWMESH_COMPLETE" in script
