"""How a world runs the product's commands, shown with stand-ins for them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from shadowmesh.lab.plan import LabSpec
from shadowmesh.lab.world import CommandFailed, World, this_program, write_secret
from shadowmesh.model.errors import ShadowMeshError

pytestmark = pytest.mark.lab


def world(lab_factory, script: str) -> World:
    """A world whose `shadowmesh ARGUMENTS…` is a shell script."""
    return World(lab_factory(LabSpec(public=1)), ["sh", "-c", script, "sh"])


def test_another_exit_code_carries_what_the_command_said(lab_factory) -> None:
    here = world(lab_factory, "echo 'error: no network x; create it' >&2; exit 5")
    with pytest.raises(CommandFailed, match="create it") as failed:
        here.run("public1", "network", "show", "x")
    assert failed.value.returncode == 5
    assert here.run("public1", "network", "show", "x", codes=(0, 5)).returncode == 5


def test_json_and_stdin_pass(lab_factory) -> None:
    here = world(lab_factory, 'read secret; echo "{\\"arguments\\": \\"$*\\", \\"stdin\\": \\"$secret\\"}"')
    assert here.json("public1", "join", "-", stdin="smi1_x\n") == {"arguments": "join - --json", "stdin": "smi1_x"}


def test_a_role_that_dies_ends_the_waiting_with_its_last_words(lab_factory) -> None:
    here = world(lab_factory, "echo 'error: port taken; choose another' >&2; exit 1")
    here._start("public1", "relay", "run")
    began = time.monotonic()
    with pytest.raises(ShadowMeshError, match="port taken"):
        here.until(lambda: False, "the relay", watching="public1", timeout=60)
    assert time.monotonic() - began < 10


def test_a_command_that_hangs_is_ended_and_said(lab_factory) -> None:
    here = world(lab_factory, "exec sleep 1000")
    with pytest.raises(ShadowMeshError, match="didn't end in"):
        here.run("public1", "status", timeout=0.2)
    assert here.lab.host("public1").processes() == []


def test_a_role_is_stopped_and_killed(lab_factory) -> None:
    here = world(lab_factory, "exec sleep 1000")
    for kill, code in ((False, -15), (True, -9)):
        here._start("public1", "daemon", "run")
        assert here.stop("public1", kill=kill) == code


def test_secrets_are_for_their_owner(tmp_path: Path) -> None:
    path = write_secret(tmp_path / "token", "t")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "t\n"


def test_the_program_is_this_one(lab_factory) -> None:
    lab = lab_factory(LabSpec(public=1))
    assert World(lab).run("public1", "--version").stdout.startswith("shadowmesh ")
    assert this_program()[-1] == "shadowmesh"
