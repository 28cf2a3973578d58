"""The protocol decides; it never touches a socket, a clock or an event loop."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import shadowmesh.protocol

FORBIDDEN = {"asyncio", "socket", "selectors", "threading", "time", "subprocess", "datetime", "select", "ssl"}
MODULES = sorted(Path(shadowmesh.protocol.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_no_module_imports_io_or_a_clock(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert not imported & FORBIDDEN
