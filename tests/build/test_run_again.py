"""`make test` runs the few tests that failed once more, and names those that pass only then."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

UNSTABLE = """
from pathlib import Path
import pytest

def test_good():
    pass

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("who", ["anna@example.org"])
def test_unstable(who):
    seen = Path(__file__).with_name("seen")
    was = seen.exists()
    seen.touch()
    assert was
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    source = Path(__file__).parents[1] / "all" / "__main__.py"
    spec = importlib.util.spec_from_file_location("all_tests", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  lab: x\n")
    return module


def first_and_again(runner: ModuleType, source: str) -> int:
    (runner.ROOT / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "--dist", "loadgroup", "-n", "2", "-m", "not lab"]
    done = subprocess.run(command, cwd=runner.ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == runner.FAILED, done.stdout
    code: int = runner.again(command, ".pytest_cache", done.returncode)
    return code


def test_what_passes_alone_is_named_and_holds_nothing_up(runner: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert first_and_again(runner, UNSTABLE) == 0
    said = capfd.readouterr().out
    assert "1 passed" in said, "the good one isn't run again"
    assert (
        said.splitlines()[-1]
        == "UNSTABLE, failed at first and passed alone: test_it.py::test_unstable[anna@example.org]"
    )


def test_what_fails_again_has_failed(runner: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert first_and_again(runner, "def test_bad():\n    assert 0\n") == runner.FAILED
    assert "UNSTABLE" not in capfd.readouterr().out


def test_many_failures_are_no_accident(runner: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    many = UNSTABLE + "\n@pytest.mark.parametrize('n', range(3))\ndef test_bad(n):\n    assert 0\n"
    assert first_and_again(runner, many) == runner.FAILED
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("code", [0, 2, 5])
def test_only_failed_tests_are_run_again(runner: ModuleType, code: int) -> None:
    assert runner.again(["no-such-program"], "none", code) == code
