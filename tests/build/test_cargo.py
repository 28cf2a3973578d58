"""A cargo that is there and doesn't work (rustup's proxy without a toolchain) is no cargo: the build goes on without it, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def broken_cargo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = tmp_path / "cargo"
    proxy.write_text("#!/bin/sh\necho 'error: rustup could not choose a version of cargo to run' >&2\nexit 1\n")
    proxy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def makes(*targets: str) -> str:
    """What make would run."""
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_leaves_rust_out(broken_cargo: None) -> None:
    assert "cargo" not in makes("test", "lint")


@pytest.fixture
def hatch_build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build hook. hatchling, its host, is there while a package is built only."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = type("BuildHookInterface", (), {"__class_getitem__": classmethod(lambda c, _: c)})  # type: ignore[attr-defined]
    for name in ("hatchling", "hatchling.builders", "hatchling.builders.hooks", "hatchling.builders.hooks.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.syspath_prepend(str(ROOT))
    import hatch_build

    return hatch_build


def test_the_install_says_why_it_goes_without(broken_cargo: None, hatch_build: ModuleType, tmp_path: Path) -> None:
    hook = hatch_build.NativePump()
    hook.root = str(ROOT)
    why = hook._build(tmp_path / "extension.so")
    assert why == "cargo doesn't work here (error: rustup could not choose a version of cargo to run)"
