"""The program within this process for what a verb says and does, as a process of its own for what only processes show."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from clikit import Command, Controller, as_process, in_process, start
from freeport import free_port

NOBODY = "65534"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups, and tests/conftest.py
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On several workers, one of them has the controller that runs, and all tests that need it; the others go to whoever is free."""
    missing = "needs root, for namespaces, mounts and TUN devices" if os.geteuid() else ""
    for item in items:
        if "tests/cli/" not in item.path.as_posix():
            continue
        if item.get_closest_marker("root"):
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))
        elif "controller" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("controller"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def sm(home: Path) -> Command:
    """`sm("network", "list", …)` runs a command line within this process: the wait for an interpreter is spared."""
    return partial(in_process, home)


@pytest.fixture(scope="session")
def process(home: Path) -> Command:
    """The same as a process of its own."""
    return partial(as_process, home)


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
