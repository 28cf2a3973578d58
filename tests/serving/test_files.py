"""Private files: whole or not at all, their owner's alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shadowmesh.serving.files import remove_private, write_private


def test_what_is_written_is_its_owners_alone_whatever_lay_there(tmp_path: Path) -> None:
    path = tmp_path / "key"
    left = tmp_path / ".key.new"
    left.write_bytes(b"left by a crash, with everybody's mode")
    left.chmod(0o666)
    write_private(path, b"secret")
    assert path.read_bytes() == b"secret" and path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_what_cant_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["key"]


def test_what_may_be_lost_with_the_power_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(_: int) -> None:
        raise AssertionError("it waits for the disk")

    monkeypatch.setattr(os, "fsync", waits)
    write_private(tmp_path / "recent", b"x", synced=False)
    assert (tmp_path / "recent").read_bytes() == b"x" and [p.name for p in tmp_path.iterdir()] == ["recent"]


def test_nothing_is_left_of_what_is_removed_nor_of_a_write_that_a_crash_cut_off(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"x")
    (tmp_path / ".key.new").write_bytes(b"half")
    remove_private(tmp_path / "key")
    remove_private(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


def test_the_name_is_on_disk_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that only the cache knows is lost with the power."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    write_private(tmp_path / "key", b"x")
    assert synced[-1] == tmp_path
