"""Figures as people read them, columns that fit, a canvas of characters."""

from __future__ import annotations

import pytest
import tui_scenarios as scenarios
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from shadowmesh.model.clock import Now
from shadowmesh.model.reasons import Reason
from shadowmesh_tui import text
from shadowmesh_tui.ascii import to_ascii, wanted
from shadowmesh_tui.canvas import Canvas, Dash
from shadowmesh_tui.columns import cell, columns_for
from shadowmesh_tui.state import Mesh, Order, SortBy


def test_a_peer_that_nobody_spoke_to_is_idle_and_not_without_a_path() -> None:
    assert text.path_code(scenarios.peer("new", 1, Reason.NONE_IDLE)) == "idle"
    assert text.path_code(scenarios.peer("away", 1, Reason.NONE_PEER_OFFLINE)) == "none.peer_offline"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (0.4, "0"), (1, "1 B/s"), (999, "999 B/s"), (999.7, "1.0 kB/s"), (9_960, "10 kB/s"),
     (1_234_567, "1.2 MB/s"), (99e9, "99 GB/s"), (5e15, "5000 TB/s")],
)  # fmt: skip
def test_rates(value: float | None, shown: str) -> None:
    assert text.rate(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.041, "0.04 ms"), (0.998, "1.0 ms"), (2.06, "2.1 ms"), (99.6, "100 ms"), (999.6, "1.0 s"),
     (float("inf"), "–")],
)  # fmt: skip
def test_latencies(value: float | None, shown: str) -> None:
    assert text.latency(value) == shown


@given(st.floats(min_value=0, max_value=9e14))
def test_rates_up_to_999_terabytes_fit_their_column(value: float) -> None:
    assert len(text.rate(value)) <= 8


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0, "0s"), (59.9, "59s"), (61, "1m"), (7300, "2h"), (9e5, "10d")]
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@given(st.lists(st.none() | st.floats(min_value=0, max_value=1e12)), st.integers(0, 80))
def test_a_sparkline_is_as_wide_as_asked(values: list[float | None], width: int) -> None:
    assert len(text.sparkline(values, width)) == width


def test_a_sparkline_shows_the_newest_at_the_right_and_gaps_as_blanks() -> None:
    assert text.sparkline([0, None, 1, 2, 4], 6) == " ▁ ▃▅█"
    assert text.sparkline([1, 2, 3, 4], 2) == "▆█"
    assert text.sparkline([0, 0], 3) == " ▁▁"


def test_what_is_steady_stands_in_the_middle_and_what_varies_takes_the_whole_height() -> None:
    assert set(text.sparkline([12.0] * 5, 5, from_zero=False)) <= set("▄▅")
    assert set(text.sparkline([12.0, 12.3, 11.8], 3, from_zero=False)) <= set("▄▅")
    assert text.sparkline([1, 99], 2, from_zero=False) == "▁█"
    assert text.sparkline([0.0, None], 2, from_zero=False) == "▁ "


def test_a_wide_name_is_cut_by_cells() -> None:
    assert cell_len(text.shorten("机器机器机器", 7)) <= 7
    assert (
        text.shorten("short", 7) == "short"
        and text.shorten("too long by far", 5) == "too…"
        and text.shorten("x", 0) == ""
    )


@pytest.mark.parametrize("width", [36, 48, 57, 60, 77, 80, 100, 117, 160, 250])
def test_columns_fill_a_wide_screen_and_fit_a_narrow_one(width: int) -> None:
    mesh = Mesh()
    mesh.observe(scenarios.crowd(30), Now(0, 0))
    columns = columns_for(width, mesh.rows())
    shown = {c.key for c in columns}
    assert sum(c.width for c in columns) + len(columns) - 1 <= width
    assert shown >= {"name", "path"}
    assert width < 57 or shown >= {"name", "online", "address", "path", "latency"}
    assert width < 77 or shown >= {"rx", "tx", "handshake"}
    assert ("via" in shown) == (width >= 117)
    for row in mesh.rows():
        for column in columns:
            assert len(cell(row, column)) <= column.width


def test_the_ordering_column_carries_an_arrow() -> None:
    columns = {c.key: c for c in columns_for(77, [])}
    assert columns["latency"].header(Order(SortBy.LATENCY)) == "latenc▲"
    assert columns["rx"].header(Order(SortBy.RX, descending=True)).strip() == "rx▼"
    assert columns["rx"].header(Order()).strip() == "rx"


# the canvas


def test_lines_are_solid_or_dashed_without_any_colour() -> None:
    canvas = Canvas(20, 3)
    canvas.line((0, 0), (19, 0), "direct")
    canvas.line((0, 2), (19, 2), "relay", Dash(4, 4))
    solid, _, dashed = str(canvas).splitlines()
    assert " " not in solid and len(solid) == 20
    assert dashed.count(" ") >= 4


def test_text_stands_on_top_of_lines_and_is_cut_at_the_edges() -> None:
    canvas = Canvas(10, 1)
    canvas.line((0, 0), (9, 0), "direct")
    canvas.text(-2, 0, "abcd", "label")
    canvas.text(8, 0, "xyz", "label")
    assert str(canvas).startswith("cd⠤") and str(canvas).endswith("xy")
    canvas.text(0, 5, "outside", "label")


def test_wide_characters_keep_the_row_straight() -> None:
    canvas = Canvas(12, 1)
    canvas.text(1, 0, "机器-7", "label")
    assert cell_len("".join(part for part, _ in canvas.rows()[0])) == 12


@given(
    st.tuples(st.integers(-5, 30), st.integers(-5, 12)),
    st.tuples(st.integers(-5, 30), st.integers(-5, 12)),
    st.booleans(),
)
def test_any_line_leaves_rows_of_the_right_width(start: tuple[int, int], end: tuple[int, int], heavy: bool) -> None:
    canvas = Canvas(20, 8)
    canvas.line(start, end, "direct", heavy=heavy)
    assert [sum(len(part) for part, _ in row) for row in canvas.rows()] == [20] * 8


# terminals that have ASCII only


@given(st.text())
def test_ascii_takes_as_many_cells_as_what_it_stands_for(shown: str) -> None:
    plain = to_ascii(shown)
    assert plain.isascii() and cell_len(plain) == cell_len(shown)


@pytest.mark.parametrize(
    ("shown", "plain"),
    [("● direct  ◌ relay  – none", "* direct  ~ relay  - none"), ("büro", "buro"), ("机", "??"), ("⠤⠤", "--"), ("⣤", "="),
     ("⡇", "|"), ("▁▄█", "_=#"), ("╭─╮", "+-+"), ("⠀", " ")],
)  # fmt: skip
def test_marks_lines_and_letters_in_ascii(shown: str, plain: str) -> None:
    assert to_ascii(shown) == plain


def test_which_terminals_get_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getencoding", lambda: "UTF-8")
    assert not wanted({"TERM": "xterm-256color"}) and wanted({"TERM": "linux"})
    assert wanted({"TERM": "xterm", "SHADOWMESH_ASCII": "1"}) and not wanted({"TERM": "linux", "SHADOWMESH_ASCII": "0"})
    monkeypatch.setattr("locale.getencoding", lambda: "ISO-8859-1")
    assert wanted({"TERM": "xterm"})
