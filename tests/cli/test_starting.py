"""`role run &` and the next line of a script: who is starting is waited for, who isn't is not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tui_scenarios
from clikit import start
from fake_daemon import FakeDaemon
from freeport import free_port

from shadowmesh.client_api.starting import is_locked, until_answers
from shadowmesh.daemon.app import _take
from shadowmesh.daemon.state import State
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from clikit import Command


def test_a_lock_is_seen_without_being_touched(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    assert not is_locked(lock)
    state = State(tmp_path)
    assert is_locked(lock)
    state.close()
    assert not is_locked(lock) and lock.exists()


def test_who_isnt_starting_is_not_waited_for(sm: Command, tmp_path: Path) -> None:
    State(tmp_path).close()
    began = time.monotonic()
    sm("status", "--state-dir", tmp_path).refused(3, "no daemon answers")
    sm("network", "list", "--data-dir", tmp_path).refused(3, "no controller runs")
    assert time.monotonic() - began < 3


def test_a_verb_waits_for_a_daemon_that_is_starting(sm: Command, tmp_path: Path) -> None:
    state = State(tmp_path)
    daemon = FakeDaemon(tmp_path, [tui_scenarios.status(tui_scenarios.network(()))])
    later = threading.Timer(0.5, daemon.start)
    later.start()
    try:
        shown = sm("status", "--state-dir", tmp_path)
        assert shown.code == 0 and "office" in shown.out
    finally:
        later.join()
        daemon.stop()
        state.close()


def test_wait_waits_for_a_daemon_that_was_not_even_begun(sm: Command, tmp_path: Path) -> None:
    """`shadowmesh daemon run & shadowmesh wait office`."""
    daemon = FakeDaemon(tmp_path, [tui_scenarios.status()])
    daemon.refusals["wait"] = ShadowMeshError("asked", "it was asked", "go on", kind=Kind.CONFLICT)
    later = threading.Timer(0.5, daemon.start)
    later.start()
    try:
        told = sm("wait", "office", "--timeout", "20", "--state-dir", tmp_path)
        assert (told.code, told.err.splitlines()[-1]) == (6, "error: it was asked; go on")
    finally:
        later.join()
        daemon.stop()


def test_the_wait_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shadowmesh.client_api.starting.LIMIT_S", 0.7)
    state, told = State(tmp_path), []
    try:
        assert not until_answers(tmp_path / "s", tmp_path / "daemon.lock", waiting=lambda: told.append(True))
    finally:
        state.close()
    assert told == [True]


def test_the_daemon_waits_for_a_join_that_was_there_first(tmp_path: Path) -> None:
    join = State(tmp_path)
    threading.Timer(0.3, join.close).start()
    _take(tmp_path).close()


def test_it_doesnt_wait_for_another_daemon(tmp_path: Path) -> None:
    state = State(tmp_path)
    try:
        with FakeDaemon(tmp_path, [tui_scenarios.status()]), pytest.raises(ShadowMeshError) as caught:
            _take(tmp_path)
    finally:
        state.close()
    assert caught.value.kind is Kind.CONFLICT


def test_a_management_verb_waits_for_a_controller_that_was_started_just_now(
    process: Command, home: Path, tmp_path: Path
) -> None:
    data, port = tmp_path / "data", free_port()
    made = process("controller", "init", "--data-dir", data, "--public-url", f"https://127.0.0.1:{port}", "--json")
    made.document("controller-init/1")
    running = start(home, "controller", "run", "--data-dir", data)
    try:
        network = process("network", "create", "home", "--subnet", "10.20.0.0/24", "--data-dir", data, "--json")
        assert network.document("network/1")["name"] == "home"
    finally:
        running.stop()


def test_one_that_was_made_and_doesnt_run_is_code_3_soon(sm: Command, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert sm("controller", "init", "--data-dir", data, "--public-url", "https://127.0.0.1:1").code == 0
    began = time.monotonic()
    sm("network", "list", "--data-dir", data).refused(3, f"no controller runs in {data}", "controller run --data-dir")
    assert time.monotonic() - began < 4


def test_a_starting_controller_takes_its_lock_before_it_imports_what_serves() -> None:
    seen = "import sys, shadowmesh.controller.run; print(sorted({'sqlalchemy', 'fastapi', 'structlog'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout == "[]\n"
