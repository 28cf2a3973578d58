"""The program as people and scripts start it: real processes, their exit codes and what they print."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shadowmesh.cli import main

TIMEOUT = 60.0
NOBODY = "65534"
Command = Callable[..., "Result"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "needs root, for namespaces, mounts and TUN devices" if os.geteuid() else ""
    for item in items:
        if missing and "tests/cli/" in item.path.as_posix() and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=missing))


@dataclass(frozen=True)
class Result:
    """How a call ended."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> str:
        """One line on stderr that says what and what to do (after a log, if there is one); nothing on stdout."""
        told = f"{self.arguments} gave {self.code}\n{self.out}\n{self.err}"
        *before, last = self.err.splitlines() or [""]
        assert self.code == code, told
        assert "Traceback" not in self.err and self.out == "", told
        assert all(line.startswith("{") for line in before), told  # the log of a long-running role
        what, _, remedy = last.removeprefix("error: ").partition("; ")
        assert last.startswith("error: ") and what and remedy, told
        assert "Error:" not in last and "[Errno" not in last, told  # no exception shows through
        for word in words:
            assert word in last, told
        return last

    def document(self, schema: str, code: int = 0) -> dict[str, Any]:
        """The one JSON document on stdout."""
        told = f"{self.arguments} gave {self.code}\n{self.out}\n{self.err}"
        assert self.code == code, told
        found = json.loads(self.out)
        assert found["schema"] == f"shadowmesh.{schema}", told
        assert isinstance(found, dict)
        return found


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHADOWMESH", "XDG_")) and k != "NO_COLOR"}
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")} | more


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "shadowmesh", *map(str, arguments)]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def sm(home: Path) -> Command:
    """`sm("network", "list", data_dir)` runs `python -m shadowmesh …` to its end."""

    def run(
        *arguments: object, stdin: str = "", prefix: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> Result:
        done = subprocess.run(
            [*prefix, *program(*arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=environment(home, **(env or {})),
            cwd=home,
        )
        return Result(tuple(map(str, arguments)), done.returncode, done.stdout, done.stderr)

    return run


@dataclass
class Running:
    """A long-running role; its log is read as it comes."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("")  # its end
            self._news.notify_all()

    def until(self, text: str) -> None:
        """Waits for a line of the log."""
        with self._news:
            reached = self._news.wait_for(lambda: any(text in n or not n for n in self.lines), TIMEOUT)
        assert reached and any(text in n for n in self.lines), "".join(self.lines)

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(home: Path, *arguments: object, prefix: tuple[str, ...] = ()) -> Running:
    process = subprocess.Popen(
        [*prefix, *program(*arguments)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, text=True, env=environment(home), cwd=home,
    )  # fmt: skip
    return Running(process)


def free_port() -> int:
    """A TCP port whose UDP twin and the next one are free, too."""
    while True:
        with socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            try:
                for number in (port, port + 1):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                        udp.bind(("127.0.0.1", number))
            except OSError:
                continue
            return port


@dataclass
class Controller:
    """A controller that runs, and its verbs."""

    data_dir: Path
    url: str
    first: dict[str, Any]
    sm: Command

    @property
    def fingerprint(self) -> str:
        return str(self.first["fingerprint"])

    def __call__(self, *arguments: object, **options: Any) -> Result:
        return self.sm(*arguments, "--data-dir", self.data_dir, **options)

    def here(self, *arguments: object) -> Result:
        """The same verb within this process: half a second cheaper."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main.run([*map(str, arguments), "--data-dir", str(self.data_dir)])
        return Result(tuple(map(str, arguments)), int(end.value.code or 0), out.getvalue(), err.getvalue())

    def network(self, name: str, subnet: str, *more: str) -> str:
        self.here("network", "create", name, "--subnet", subnet, *more, "--json").document("network/1")
        return name

    def invite(self, network: str, *more: str) -> dict[str, Any]:
        return self.here("network", "invite", network, *more, "--json").document("invite/1")

    def states(self, network: str) -> dict[str, str]:
        """Invite id → its state."""
        found = self.here("network", "invites", network, "--json").document("invites/1")
        return {i["id"]: i["state"] for i in found["invites"]}

    def clients(self, network: str) -> list[str]:
        found = self.here("client", "list", network, "--json").document("clients/1")
        return [c["name"] for c in found["clients"]]


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory, sm: Command, home: Path) -> Iterator[Controller]:
    data_dir = tmp_path_factory.mktemp("controller") / "data"
    url = f"https://127.0.0.1:{free_port()}"
    listen = ("--listen", url.removeprefix("https://"))
    first = sm("controller", "init", "--data-dir", data_dir, "--public-url", url, *listen, "--json")
    running = start(home, "controller", "run", "--data-dir", data_dir)
    try:
        running.until("controller ready")
        yield Controller(data_dir, url, first.document("controller-init/1"), sm)
    finally:
        running.stop()


def _blocked(path: Path) -> Path | None:
    """The first directory on the way that others can't pass."""
    return next((p for p in reversed(path.resolve().parents) if not p.stat().st_mode & 0o001), None)


@pytest.fixture(scope="session")
def as_nobody(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A prefix that runs a command as `nobody`, also where the interpreter lies below a closed directory.

    Then a mount namespace of its own has an open directory in that place, with the interpreter in it.
    """
    drop = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    closed, prefix = _blocked(Path(sys.executable)), Path(sys.base_prefix).resolve()
    if closed is None:
        return drop
    aside = tmp_path_factory.mktemp("interpreter")
    script = (
        'mount --bind "$1" "$2" && mount -t tmpfs -o mode=755 none "$3" && mkdir -p "$1" && mount --bind "$2" "$1"'
        ' && shift 3 && exec "$@"'
    )
    return (
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        str(prefix),
        str(aside),
        str(closed),
        *drop,
    )


@pytest.fixture
def open_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that every user may reach (pytest's own are private)."""
    path = Path("/tmp") / f"sm-cli-{os.getpid()}-{os.urandom(3).hex()}"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
