"""`daemon install`, `controller install`, `relay install`: the units, and what systemd says of them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.serving import systemd
from shadowmesh.serving.systemd import daemon_unit

if TYPE_CHECKING:
    from clikit import Command, Controller

USAGE, NOT_FOUND, CONFLICT = 2, 5, 6
RELAY = ("relay", "install", "--public-url", "ws://192.0.2.1:9545")


def test_the_daemons_unit(sm: Command, tmp_path: Path) -> None:
    state, unit = tmp_path / "a state", tmp_path / "shadowmesh.service"
    written = sm("daemon", "install", "--unit-dir", tmp_path, "--state-dir", state, "--json").document(
        "daemon-install/1"
    )
    assert written == {"schema": written["schema"], "path": str(unit), "started": False}
    assert f'daemon run --state-dir "{state}"' in unit.read_text() and "Type=notify" in unit.read_text()
    assert sm("daemon", "install", "--print", "--state-dir", state).out == unit.read_text()
    sm("daemon", "install", "--unit-dir", tmp_path / "none").refused(1, "--print")
    quoted = daemon_unit(("/a b", "100%"), Path("/x")).text
    assert 'ExecStart="/a b" 100%% daemon run --state-dir /x\n' in quoted


def test_controller_and_relay_have_units_with_users_of_their_own(
    controller: Controller, sm: Command, tmp_path: Path
) -> None:
    token = controller("relay", "token").out
    sm("controller", "install", "--data-dir", controller.data_dir, "--unit-dir", tmp_path)
    sm(*RELAY, "--data-dir", tmp_path / "r", "--controller-dir", controller.data_dir, "--no-udp", "--unit-dir", tmp_path,
       "--token", "-", stdin=token)  # fmt: skip
    of_controller = (tmp_path / "shadowmesh-controller.service").read_text()
    of_relay = (tmp_path / "shadowmesh-relay.service").read_text()
    assert f"controller run --data-dir {controller.data_dir}\n" in of_controller
    assert "User=shadowmesh-controller\n" in of_controller and "User=shadowmesh-relay\n" in of_relay
    assert "Type=notify" not in of_controller + of_relay, "neither tells systemd that it is ready"
    assert f"--controller {controller.url} --fingerprint {controller.fingerprint}" in of_relay
    assert f"--token @{tmp_path}/r/registration-token" in of_relay and "--no-udp" in of_relay
    assert token.strip() not in of_relay
    assert not (tmp_path / "r").exists(), "an image is not this machine"
    if shutil.which("systemd-analyze"):
        units = [str(path) for path in tmp_path.glob("*.service")]
        told = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
        ours = [line for line in told.stderr.splitlines() if str(tmp_path) in line]
        assert not [line for line in ours if "User=" not in line], told.stderr


def test_what_is_missing_for_a_service_is_said_before_anything_is_written(
    sm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "UNIT_DIR", tmp_path / "units")
    sm("controller", "install", "--data-dir", tmp_path / "c").refused(NOT_FOUND, "controller init")
    sm(*RELAY, "--data-dir", tmp_path / "r", "--controller", "https://h:1").refused(USAGE, "relay token")
    assert not list(tmp_path.iterdir())


def test_units_read_the_configuration_that_is_named(sm: Command, tmp_path: Path) -> None:
    """And the directories that it names are the roles'."""
    roles = {
        "controller": f"controller: {{data_dir: {tmp_path}/c}}\n",
        "relay": f"relay: {{public_url: 'ws://h:1', data_dir: {tmp_path}/r}}\n"
        "controller: {url: 'https://h:1', token: FROM_ENV_OR_SECRET}\n",
        "daemon": f"daemon: {{state_dir: {tmp_path}/d}}\n",
    }
    for role, text in roles.items():
        file = tmp_path / f"{role}.yaml"
        file.write_text(text)
        unit = sm(role, "install", "--config", file, "--print").out
        where = {"controller": f" --data-dir {tmp_path}/c", "relay": f" --data-dir {tmp_path}/r", "daemon": ""}[role]
        assert f" {role} run{where} --config {file}\n" in unit, unit
        file.write_text("nonsense: 1\n")
        sm(role, "install", "--config", file, "--print").refused(USAGE, "nonsense")
    sm("relay", "install", "--print").refused(USAGE, "--public-url")


@pytest.mark.root
def test_a_service_is_not_started_with_a_file_that_its_user_cant_read(
    sm: Command, open_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "UNIT_DIR", tmp_path)
    monkeypatch.setattr(systemd, "_SYSTEMD", tmp_path / "not here")
    program = open_path / "shadowmesh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("shadowmesh.cli.installing.program", lambda: (str(program),))
    file = open_path / "controller.yaml"
    file.write_text(f"controller: {{data_dir: {open_path}/c}}\n")
    file.chmod(0o600)
    install = ("controller", "install", "--config", file, "--user", "nobody")
    sm(*install).refused(CONFLICT, f"the user nobody can't read {file}", "chgrp nobody")
    assert not (open_path / "c").exists() and not list(tmp_path.glob("*.service"))
    file.chmod(0o644)
    assert sm(*install).code == 0 and (open_path / "c").stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_a_controller_that_runs_is_not_given_to_another_user(controller: Controller) -> None:
    controller("controller", "install").refused(CONFLICT, "runs already")


@pytest.mark.root
def test_the_directory_belongs_to_the_services_user_and_the_token_to_nobody_else(
    sm: Command, open_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nobody` stands for the user that an installation makes."""
    monkeypatch.setattr(systemd, "UNIT_DIR", tmp_path)
    monkeypatch.setattr(systemd, "_SYSTEMD", tmp_path / "not here")
    program = open_path / "shadowmesh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("shadowmesh.cli.installing.program", lambda: (str(program),))
    where = ("--data-dir", open_path / "relay", "--user", "nobody", "--controller", "https://h:1")
    assert sm(*RELAY, *where, "--token", "-", stdin="smr1_secret\n").code == 0
    token = open_path / "relay" / "registration-token"
    nobody = pwd.getpwnam("nobody").pw_uid
    assert (token.read_text(), token.stat().st_mode & 0o777, token.stat().st_uid) == ("smr1_secret\n", 0o600, nobody)
    assert ((open_path / "relay").stat().st_uid, (open_path / "relay").stat().st_mode & 0o777) == (nobody, 0o700)
    assert "User=nobody\n" in (tmp_path / "shadowmesh-relay.service").read_text()
    open_path.chmod(0o700)
    again = sm(*RELAY, *where, "--token", "-", stdin="smr1_secret\n")
    again.refused(CONFLICT, f"{open_path} is closed to others", "/opt") if os.geteuid() == 0 else None
