"""Files that hold what only their owner may read: keys, tokens, state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_private(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Writes a file of mode 0600 whole or not at all, also through a crash: what was there stays until the new one is on
    disk, and so is its name when this returns. One writer at a time. Raises OSError.

    `synced` False: nothing waits for the disk. The process may be killed at any time all the same; what a loss of power
    leaves is the old file, the new one or a damaged one.
    """
    with written_private(path, synced=synced) as file:
        file.write(data)


@contextmanager
def written_private(path: Path, *, synced: bool = True) -> Iterator[IO[bytes]]:
    """As `write_private`, for what is written piece by piece inside the block; what fails leaves what was there."""
    fresh = _fresh(path)
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # one that a crash or somebody else left has a mode of its own
            yield file
            file.flush()
            if synced:
                os.fsync(descriptor)
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    if synced:
        sync_names(path.parent)


def remove_private(path: Path) -> None:
    """Takes away a file that `write_private` wrote, and what a crash left of a write. Raises OSError."""
    path.unlink(missing_ok=True)
    _fresh(path).unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """The path, or with `-2`, `-3` and so on behind it: the first that nothing has."""
    free, count = path, 1
    while os.path.lexists(free):
        count += 1
        free = path.with_name(f"{path.name}-{count}")
    return free


def sync_names(directory: Path) -> None:
    """When this returns, what was made, renamed or removed in the directory stays so through a crash. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")
