"""`make test` runs both parts through whichever fails, and says at the end how each ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALL = Path(__file__).with_name("__main__.py")
TESTS = """import os, pytest

def test_other():
    assert os.nice(0) == {priority}
    assert {other}

@pytest.mark.lab
def test_lab():
    assert os.nice(0) == {own}
    assert {lab}
"""


@pytest.mark.parametrize("in_turn", ["0", "1"])
@pytest.mark.parametrize(("other", "lab"), [(True, True), (True, False), (False, True)])
def test_a_failure_in_one_part_hides_nothing_of_the_other(tmp_path: Path, other: bool, lab: bool, in_turn: str) -> None:
    root = os.geteuid() == 0
    (tmp_path / "tests" / "all").mkdir(parents=True)
    shutil.copy(ALL, tmp_path / "tests" / "all")
    own = os.nice(0)
    written = TESTS.format(other=other, lab=lab, own=own, priority=19 if root and in_turn == "0" else own)
    (tmp_path / "tests" / "test_it.py").write_text(written)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n lab\n root\n xdist_group(name)\n")
    few = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p xdist.plugin",
        "WORKERS": "0",
        "IN_TURN": in_turn,
    }
    done = subprocess.run(
        [sys.executable, "tests/all"], cwd=tmp_path, capture_output=True, text=True, env=few, check=False
    )
    parts = (other, lab) if root else (other,)
    assert done.returncode == (0 if all(parts) else 1), done.stdout
    assert done.stdout.count("1 passed, 1 deselected") == sum(parts)
    assert done.stdout.count("1 failed, 1 deselected") == len(parts) - sum(parts)
    if root:
        assert f"not lab and not root: {'passed' if other else 'FAILED'}\n" in done.stdout
        assert f"lab or root: {'passed' if lab else 'FAILED'}\n" in done.stdout
    else:
        assert "needs root" in done.stdout
