"""`make prove` goes on where it was, also in a fresh checkout: what has passed is run again only once files have changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROVE = Path(__file__).with_name("__main__.py")
PROOF = """import pytest

@pytest.mark.prove
def test_it_holds(record_property):
    record_property("seeds", 7)
    open("runs", "a").write("once\\n")
"""


def git(where: Path, *arguments: object) -> None:
    someone = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    subprocess.run(["git", *someone, *map(str, arguments)], cwd=where, check=True, capture_output=True)


def prove(where: Path) -> str:
    few = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}  # plugins take most of the time
    command = [sys.executable, "tests/prove"]
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True, env=few).stdout


def test_a_proof_is_not_repeated_by_those_who_get_its_result_but_after_a_change(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "tests" / "prove").mkdir(parents=True)
    (here / "docs").mkdir()
    shutil.copy(PROVE, here / "tests" / "prove")
    (here / "tests" / "test_it.py").write_text(PROOF)
    (here / "pytest.ini").write_text("[pytest]\nmarkers = prove\n")
    git(here, "init")
    git(here, "add", ".")
    git(here, "commit", "-m", "a proof")
    assert "1 passed" in prove(here)
    assert (here / "runs").read_text() == "once\n"
    git(here, "add", "docs")
    git(here, "commit", "-m", "its result")
    git(tmp_path, "clone", here, there)
    assert "test_it_holds: passed before on" in prove(there)
    assert not (there / "runs").exists()
    assert "| test it holds (test_it.py) | passed |" in (there / "docs" / "proofs.md").read_text()
    (there / "pytest.ini").write_text("[pytest]\nmarkers = prove\naddopts = -ra\n")
    assert "passed before" not in prove(there)
    assert (there / "runs").read_text() == "once\n"
