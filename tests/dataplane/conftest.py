"""Lets the tests of this folder share the conformance suite and its rigs."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("conformance", "pump_rig", "pump_peer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and Path("/dev/net/tun").exists() and shutil.which("ip"):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and any(item.iter_markers(n) for n in ("lab", "root")):
            item.add_marker(pytest.mark.skip(reason="needs root, /dev/net/tun and iproute2"))
