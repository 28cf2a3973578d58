"""The load's own parts: what it reports, and that it runs."""

from __future__ import annotations

import math

import pytest
from load_report import ROWS, Run, failures, table
from load_run import measure, percentile


def test_percentiles_are_values_that_were_there() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
    assert math.isnan(percentile([], 0.5))


def test_a_gate_that_is_missed_is_named_and_a_goal_isnt() -> None:
    good = {row.figure: (row.limit or 0.0) / row.scale for row in ROWS}
    assert failures([Run(5000, 0, good)]) == []
    assert failures([Run(5000, 0, good | {"rest joins p99": 1e6})]) == []
    (line,) = failures([Run(5000, 0, good | {"kB a client": 61.0}), Run(100, 0, good | {"kB a client": 500.0})])
    assert line == "5,000: memory for each client, kB: 61.0, at most 60"
    assert len(failures([Run(5000, 0, {})])) == sum(row.gate for row in ROWS), "a figure that is missing is no figure"


def test_several_nodes_are_held_against_one_on_the_same_database() -> None:
    good = {row.figure: (row.limit or 0.0) / row.scale for row in ROWS}
    one = good | {"join cpu own": 60.0, "telling cpu a client": 10.0}
    runs = [Run(5000, 1, one), Run(5000, 2, one | {"join cpu own": 77.9, "telling cpu a client": 13.1})]
    assert failures(runs) == ["5,000, 2 nodes: telling a change: CPU for each client, µs: 13.1, at most 13"]
    (line,) = failures([Run(5000, 2, one | {"client MB": 121.0})])
    assert "a client: memory" in line, "what isn't shared has its limit, whatever the database"


def test_the_table_has_a_line_for_each_figure() -> None:
    lines = table([Run(100, 0, {"client idle": 0.0123}), Run(1000, 0, {})]).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert lines[0] == "| | 100 | 1,000 | at most |"
    assert "| a client idle: % of a core | 1.23 | nan | **1** |" in lines


@pytest.mark.slow
async def test_a_small_load_runs_through_and_finds_every_figure() -> None:
    figures = await measure(6, 2, sustained=0.5, times=1, pause=0.1)
    assert [row.figure for row in ROWS if row.figure not in figures] == []
    assert figures["return failed tries"] == 0 and figures["client bytes a change"] < 4096
