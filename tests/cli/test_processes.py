"""What only a process of its own shows: each exit code, what its caller reads, Ctrl-C, a reader that goes away."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tui_scenarios
from clikit import Command, Controller, environment, on_a_terminal, program
from fake_daemon import FakeDaemon
from freeport import free_port

from shadowmesh import __version__


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("controller secrets export --data-dir {nowhere}", 5),
        ("status --state-dir {nowhere}", 3),
        ("ping x --count none", 2),
        ("network show nope --data-dir {data}", 5),
        ("network create office --subnet 10.0.0.0/24 --data-dir {data}", 6),
        ("login {url} --fingerprint sha256:" + "0" * 64 + " --token -", 4),
        ("join - --state-dir /proc/nowhere", 1),
        ("join - --state-dir {nowhere}", 2),
    ],
)
def test_a_failure_is_one_line_and_its_code(
    controller: Controller, process: Command, tmp_path: Path, arguments: str, code: int
) -> None:
    if not any(
        n["name"] == "office" for n in controller("network", "list", "--json").document("networks/1")["networks"]
    ):
        controller.network("office", "198.18.0.0/24")
    invite = controller.invite("office")["invite"] if "/proc" in arguments else "nonsense"
    words = arguments.format(nowhere=tmp_path, data=controller.data_dir, url=controller.url).split()
    process(*words, "--json", stdin=f"{invite}\n").refused(code)


def test_done_is_code_0_and_waiting_for_approval_7(controller: Controller, process: Command, tmp_path: Path) -> None:
    made = ("network", "create", "slow", "--subnet", "198.18.8.0/24", "--approval", "--data-dir", controller.data_dir)
    process(*made, "--json").document("network/1")
    invite = controller.invite("slow")["invite"]
    asked = process("join", "-", "--state-dir", tmp_path, "--json", stdin=invite).document("join/1", code=7)
    assert asked["state"] == "pending-approval"


def test_debug_shows_where(process: Command, tmp_path: Path) -> None:
    shown = process("status", "--state-dir", tmp_path, "--debug")
    assert "Traceback" in shown.err and shown.err.splitlines()[-1].startswith("error: ") and shown.code == 3
    assert "Traceback" not in process("status", "--state-dir", tmp_path).err


def test_a_person_is_asked_and_may_refuse(controller: Controller) -> None:
    controller.network("doomed", "198.18.9.0/24")
    delete = ("network", "delete", "doomed", "--data-dir", str(controller.data_dir))
    code, seen = on_a_terminal(*delete, typed=b"n\n")
    assert (
        code == 1 and "delete doomed and cut off all its clients (0)? [y/N]" in seen and "nothing was changed" in seen
    )
    code, seen = on_a_terminal(*delete, typed=b"\x03")
    assert code == 130 and "Traceback" not in seen and "error" not in seen
    code, seen = on_a_terminal(*delete, typed=b"y\n")
    assert code == 0 and "doomed: deleted" in seen


def test_leaving_what_one_isnt_in_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, [tui_scenarios.status(tui_scenarios.network(()))]):
        code, seen = on_a_terminal("leave", "nope", "--state-dir", str(tmp_path))
        assert code == 5 and "no network nope here; there is office" in seen and "[y/N]" not in seen
        code, seen = on_a_terminal("leave", "office", "--state-dir", str(tmp_path), typed=b"n\n")
        assert code == 1 and "leave office and delete its keys here? [y/N]" in seen


def test_no_color_means_no_escape_codes(tmp_path: Path) -> None:
    for options, env in ((["--no-color"], {}), ([], {"NO_COLOR": "1"})):
        _, seen = on_a_terminal("status", "--state-dir", str(tmp_path), *options, **env)
        assert "\x1b" not in seen
        _, seen = on_a_terminal("status", "--help", *options, **env)
        assert "\x1b" not in seen


def test_a_reader_that_goes_away_is_no_error() -> None:
    pipe = f"{' '.join(program('help'))} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""


def test_closed_streams(controller: Controller, tmp_path: Path) -> None:
    controller.network("lasting", "198.18.10.0/24")

    def closed(what: str, *arguments: object) -> tuple[int, str]:
        command = ["sh", "-c", f"{' '.join(program(*arguments))} {what}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stderr

    code, told = closed("<&-", "join", "-", "--state-dir", tmp_path)
    assert code == 2 and told.startswith("error: the invite from stdin is empty")
    code, told = closed("<&-", "network", "delete", "lasting", "--data-dir", controller.data_dir)
    assert code == 2 and "--yes" in told
    code, told = closed(">&-", "daemon", "install", "--print")
    assert (code, told) == (0, "")


def test_the_old_names_work(tmp_path: Path) -> None:
    def old(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = "from shadowmesh.__main__ import daemon_main; daemon_main()"
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert old("--version").stdout == f"shadowmesh {__version__}\n"
    status = old("status", "--state-dir", str(tmp_path))
    assert status.returncode == 3 and status.stderr.startswith("error: no daemon answers")
    seed = old("register", "--login-server", "http://x", "--auth-key", "abcd-efgh-ijkl", "--state-dir", str(tmp_path))
    assert seed.returncode == 2 and "'http://x' is not a controller's URL" in seed.stderr
    assert "ExecStart=" in old("install", "--print").stdout
    assert "Run the client daemon" in old("run", "--help").stdout


def test_what_a_shell_is_told(process: Command) -> None:
    def complete(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(re.split(" ", line)) - 1)}
        return process(env=words | {"_SHADOWMESH_COMPLETE": "complete_bash"}).out.split()

    assert complete("shadowmesh netw") == ["network"]
    assert {"create", "list", "invite"} <= set(complete("shadowmesh network "))
    assert "--subnet" in complete("shadowmesh network create --sub")


def test_a_role_logs_json_lines_and_fails_in_one(process: Command, controller: Controller, tmp_path: Path) -> None:
    """As systemd sees it: nothing on stdout, the log and the last word on stderr."""
    port = controller.url.rpartition(":")[2]
    made = tmp_path / "c"
    process("controller", "init", "--data-dir", made, "--public-url", "https://127.0.0.1:1", "--json").document(
        "controller-init/1"
    )
    process("controller", "run", "--data-dir", made, "--listen", f"127.0.0.1:{port}").refused(6, port, "--listen")
    if os.geteuid() == 0:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "state.db").write_bytes(os.urandom(5000))
        process("daemon", "run", "--state-dir", tmp_path / "state").refused(1, "restore state.db")


def test_a_role_whose_log_cant_be_written_does_its_work_and_ends_well(
    process: Command, home: Path, tmp_path: Path
) -> None:
    """A log on a full disk, or one whose reader has gone."""
    port = free_port()
    made = tmp_path / "c"
    listen = ("--listen", f"127.0.0.1:{port}")
    process("controller", "init", "--data-dir", made, "--public-url", f"https://127.0.0.1:{port}", *listen)
    gone, writing = os.pipe()
    os.close(gone)
    with Path("/dev/full").open("w") as full, os.fdopen(writing, "w") as unread:
        for log in (full, unread):
            running = subprocess.Popen(
                program("controller", "run", "--data-dir", made), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=log, env=environment(home), cwd=home,
            )  # fmt: skip
            try:
                deadline = time.monotonic() + 30
                while process("network", "list", "--data-dir", made).code != 0:
                    assert running.poll() is None and time.monotonic() < deadline
                running.terminate()
                assert running.wait(20) == 0
            finally:
                running.kill()
                running.wait()
