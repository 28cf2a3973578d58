"""Runs looked at at once come out as frames looked at one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.protocol.relay import pack_stream
from shadowmesh.relay.runs import rows_with, with_lengths, without_lengths

HEAD = b"head"


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(4, 300), st.integers(0, 3), st.integers(0, 9))
def test_rows_are_counted_up_to_the_first_stranger(good: list[bool], step: int, rest: int, start: int) -> None:
    good[0] = True
    rows = b"".join((HEAD if g else b"heaD").ljust(step, b".") for g in good)
    buffer = bytes(start) + rows + HEAD[:rest]
    expected = good.index(False) if False in good else len(good)
    assert rows_with(HEAD, buffer, start, len(buffer), step) == expected


@given(st.integers(1, 40), st.integers(1, 1500), st.integers(0, 1499))
def test_lengths_are_put_before_rows_and_taken_away_again(count: int, step: int, rest: int) -> None:
    rest = min(rest, step - 1)
    rows = bytes(n * 7 % 251 for n in range(count * step + rest))
    frames = [rows[at : at + step] for at in range(0, len(rows), step)]
    packed = with_lengths(memoryview(rows), step)
    assert bytes(packed) == pack_stream(frames)
    assert without_lengths(bytes(packed), 0, count, step + 2) == rows[: count * step]
