"""The load's own parts: what it reports, and that it runs."""

from __future__ import annotations

import math

import pytest
from load_report import ROWS, failures, table
from load_run import measure, percentile


def test_percentiles_are_values_that_were_there() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
    assert math.isnan(percentile([], 0.5))


def test_a_gate_that_is_missed_is_named_and_a_goal_isnt() -> None:
    good = {row.figure: (row.limit or 0.0) / row.scale for row in ROWS}
    assert failures({5000: good}) == []
    assert failures({5000: good | {"rest joins p99": 1e6}}) == []
    (line,) = failures({5000: good | {"kB a client": 61.0}, 100: good | {"kB a client": 500.0}})
    assert line == "5,000 members: memory for each client, kB: 61.0, at most 60"
    assert len(failures({5000: {}})) == sum(row.gate for row in ROWS), "a figure that is missing is no figure"


def test_the_table_has_a_line_for_each_figure() -> None:
    lines = table({100: {"client idle": 0.0123}, 1000: {}}).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert "| a client idle: % of a core | 1.23 | nan | **1** |" in lines


@pytest.mark.slow
async def test_a_small_load_runs_through_and_finds_every_figure() -> None:
    figures = await measure(6, 2, sustained=0.5, times=1, pause=0.1)
    assert [row.figure for row in ROWS if row.figure not in figures] == []
    assert figures["return failed tries"] == 0 and figures["client bytes a change"] < 4096
