"""Runs: frames of one size that lie behind each other, looked at and repacked at once instead of one by one."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Buffer: TypeAlias = bytes | bytearray | memoryview


def rows_with(head: bytes, buffer: Buffer, start: int, end: int, step: int) -> int:
    """How many rows of `step` bytes, whole ones, begin with `head` one after the other from `start` on; at least the first has to."""
    count = (end - start) // step
    if count < 2:
        return count
    rows = np.ndarray((count, len(head)), np.uint8, buffer, start, (step, 1))
    same = rows == np.frombuffer(head, np.uint8)
    return count if same.all() else int(same.all(axis=1).argmin())


def with_lengths(rows: Buffer, step: int) -> memoryview:
    """As a stream carries them: u16be length before each row. The rows are copied; the last may be shorter."""
    count, rest = divmod(len(rows), step)
    out = np.empty(count * (step + 2) + (rest + 2 if rest else 0), np.uint8)
    flat = np.frombuffer(rows, np.uint8)
    whole = out[: count * (step + 2)].reshape(count, step + 2)
    whole[:, 0], whole[:, 1] = divmod(step, 256)
    whole[:, 2:] = flat[: count * step].reshape(count, step)
    if rest:
        tail = out[-rest - 2 :]
        tail[0], tail[1] = divmod(rest, 256)
        tail[2:] = flat[-rest:]
    return out.data


def without_lengths(stream: Buffer, start: int, count: int, step: int) -> bytes:
    """`count` rows of a stream, of `step` bytes each with their lengths, behind each other without these."""
    return np.ndarray((count, step - 2), np.uint8, stream, start + 2, (step, 1)).tobytes()
