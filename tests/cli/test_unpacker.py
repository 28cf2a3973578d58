"""The single binary's head: unpacks once, whatever the caller's PATH, and runs what it unpacked."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

HEAD = Path(__file__).parents[2] / "packaging" / "self-extract.sh"


def binary(path: Path, program: str) -> Path:
    """As `packaging/build-binary` puts it together, with a script in the place of the program."""
    head = HEAD.read_text()
    head = head.replace("@ID@", "test").replace("@LINES@", str(head.count("\n") + 1))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("shadowmesh/shadowmesh")
        info.mode, info.size = 0o755, len(program.encode())
        archive.addfile(info, io.BytesIO(program.encode()))
    path.write_bytes(head.encode() + packed.getvalue())
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("environment", [{}, {"PATH": ""}, {"PATH": "/nowhere"}], ids=["unset", "empty", "elsewhere"])
def test_it_unpacks_whatever_the_path(tmp_path: Path, environment: dict[str, str]) -> None:
    file = binary(tmp_path / "shadowmesh", '#!/bin/sh\necho "ran with $*"\n')
    where = {"SHADOWMESH_UNPACK_DIR": str(tmp_path / "cache")}
    for _ in range(2):  # unpacks, then is there
        done = subprocess.run(
            ["/bin/sh", file, "status", "-w"], env=environment | where, capture_output=True, text=True, timeout=30
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "ran with status -w\n", "")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["test"]
