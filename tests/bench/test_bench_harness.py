"""The benchmark's own arithmetic: turns, results, tables, pictures; and one short real run."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import bench_report
import bench_run
import pytest
from bench_contenders import Contender, Running, _newest_first
from bench_measures import MEASURES
from bench_results import Results, Summary
from bench_svg import Bar, Group, chart

PAGE = f"# Benchmarks\n\nbefore\n\n{bench_report.BEGIN}\nold\n{bench_report.END}\n\nafter\n"


class Fake(Contender):
    def __init__(self, key: str, group: str = "direct") -> None:
        self.key, self.title, self.group = key, key.title(), group

    def version(self) -> str:
        return "1"

    @contextmanager
    def start(self):
        yield Running(("a", "b"), "10.0.0.1", ())


def described(*keys: str, version: str = "1") -> dict[str, tuple[str, str, str]]:
    return {key: (version, key.title(), "direct") for key in keys}


def measured(path: Path | None = None) -> Results:
    """Two rounds of wireguard-go at 3 and 5 Gbit/s, of the native pump at 10 and 12, of no tunnel at 30."""
    results = Results(path)
    results.begin(1.0, described("veth", "wireguard-go", "native"))
    for number, (peer, ours) in enumerate(((3.0, 10.0), (5.0, 12.0)), 1):
        results.add("on", "veth", "tcp1", number, {"gbit": 30.0})
        results.add("on", "wireguard-go", "tcp1", number, {"gbit": peer, "cpu_s_per_gb": 4.0})
        results.add("on", "native", "tcp1", number, {"gbit": ours, "cpu_s_per_gb": 1.0})
        results.add("on", "wireguard-go", "ping", number, {"median_ms": 0.4, "p99_ms": 0.9})
    return results


def test_each_round_begins_with_another_and_has_everyone() -> None:
    contenders = [Fake(k) for k in "abc"]
    visits = bench_run.plan(3, ("on",), contenders, MEASURES[:1], Results())
    assert ["".join(v.contender.key for v in visits if v.number == n) for n in (1, 2, 3)] == ["abc", "bca", "cab"]


def test_measures_go_to_whom_they_are_made_for() -> None:
    visits = bench_run.plan(1, ("on", "off"), [Fake("a"), Fake("r", "relay")], MEASURES, Results())
    keys = {(v.contender.key, v.offloads): [m.key for m in v.measures] for v in visits}
    assert keys["r", "on"] == keys["r", "off"] == ["stream"]
    assert "tcp4r" in keys["a", "on"] and "stream" not in keys["a", "on"]
    assert "tcp4r" not in keys["a", "off"] and "tcp4" in keys["a", "off"]
    assert keys["a", "on"].index("memory") > keys["a", "on"].index("tcp4")  # of those under load


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    contenders = [Fake("a"), Fake("b")]
    results = Results.load(path)
    results.begin(4.0, described("a", "b"))
    for measure in MEASURES[:2]:
        results.add("on", "a", measure.key, 1, {"gbit": 1.0})
    results.save()
    again = Results.load(path)
    assert again.begin(4.0, described("a", "b")) == []
    visits = bench_run.plan(2, ("on",), contenders, MEASURES[:2], again)
    assert [(v.number, v.contender.key) for v in visits] == [(1, "b"), (2, "b"), (2, "a")]


@pytest.mark.parametrize(
    ("seconds", "version", "later", "why"),
    [
        (1.0, "2", 0.0, "Native was 1"),
        (2.0, "1", 0.0, "another machine, or --seconds"),
        (1.0, "1", 2 * 3600.0, "the last figure is over 1 h old"),
    ],
)
def test_what_was_not_measured_in_turns_is_put_aside_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, version: str, later: float, why: str
) -> None:
    path = tmp_path / "results.json"
    measured(path).save()
    results, now = Results.load(path), time.time()
    monkeypatch.setattr(time, "time", lambda: now + later)
    assert results.begin(seconds, described("native", version=version)) == [why]
    assert results.summary("on", "native", "tcp1", "gbit") is None
    assert results.summary("on", "wireguard-go", "tcp1", "gbit") is None
    assert Results.load(tmp_path / "results-before.json").rounds() == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}'])
def test_a_file_that_holds_no_results_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match="--fresh"):
        Results.load(path)


def test_medians_and_ratios() -> None:
    results = measured()
    assert results.summary("on", "native", "tcp1", "gbit") == Summary(11.0, 10.0, 12.0, 2)
    own = results.ratio("on", "native", "wireguard-go", "tcp1", "gbit")
    assert own is not None and own.rounds == 2  # 10 to 3 and 12 to 5
    assert (own.lowest, own.highest) == (12 / 5, 10 / 3)
    assert results.ratio("on", "wireguard-go", "wireguard-go", "tcp1", "gbit") == Summary(1.0, 1.0, 1.0, 2)
    assert results.ratio("off", "native", "wireguard-go", "tcp1", "gbit") is None
    assert results.ratio("on", "native", "wireguard-go", "ping", "p99_ms") is None


def test_the_table_has_only_what_was_measured() -> None:
    rows = bench_report.table(measured(), ["veth", "wireguard-go", "native"], bench_report.DIRECT).splitlines()
    assert rows[0] == "| | TCP 1 stream | CPU-s per GB | round trip | p99 |"
    assert rows[2].startswith("| Veth | 30.00 <sub>30.00–30.00</sub> | – | – |")
    assert rows[4].startswith("| **Native** | 11.00 <sub>10.00–12.00</sub> | 1.00 ")
    assert "| 400 <sub>400–400</sub> | 900 " in rows[3]


@pytest.mark.parametrize(
    ("key", "peer"),
    [
        ("native", "wireguard-go"),
        ("python", "wireguard-go"),
        ("wireguard-go", None),
        ("veth", None),
        ("native-udp", "native-direct"),
        ("python-wss", "python-direct"),
        ("python-direct", None),
        ("stream-udp-udp", "stream-coturn"),
        ("stream-coturn", None),
    ],
)
def test_what_is_compared_with_what(key: str, peer: str | None) -> None:
    assert bench_report.peer_of(key) == peer


def test_the_order_is_not_that_of_measuring(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.begin(1.0, described("tinc", "other", "python", "veth"))
    for key in ("python", "tinc", "other", "veth"):
        results.add("on", key, "tcp1", 1, {"gbit": 1.0})
    results.save()
    assert Results.load(tmp_path / "results.json").contenders("direct") == ["veth", "python", "tinc", "other"]


def test_the_report_replaces_its_section_and_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bench-old.svg").write_text("<svg/>")
    (tmp_path / "images" / "demo.svg").write_text("<svg/>")
    (tmp_path / "benchmarks.md").write_text(PAGE)
    bench_report.write(measured(), tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.startswith("# Benchmarks\n\nbefore\n") and text.endswith("\nafter\n") and "old" not in text
    assert "11.00" in text and "wrong header inside: 0" in text and "Rounds: 2 " in text
    assert "| **Native** | Wireguard-Go | 2.87 <sub>2.40–3.33</sub> | 0.25 " in text
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["bench-cost.svg", "bench-tcp.svg", "demo.svg"]
    assert "images/bench-tcp.svg" in text and "images/bench-small.svg" not in text
    before = text
    bench_report.write(measured(), tmp_path)
    assert (tmp_path / "benchmarks.md").read_text().replace("\n", "") == before.replace("\n", "")


def test_without_a_figure_there_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="nothing was measured"):
        bench_report.write(Results(), tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == PAGE


def test_the_docs_have_the_place_for_the_report() -> None:
    page = (bench_run.ROOT / "docs" / "benchmarks.md").read_text()
    assert bench_report.put(page, "x").count("x") >= 1


def test_bars_are_to_scale_and_text_is_escaped() -> None:
    bars = [Bar("a & b", 1.0, 1.0, 1.0, "1"), Bar("ours", 2.0, 1.5, 4.0, "<2>", ours=True)]
    root = ElementTree.fromstring(chart("a < b", [Group("g", bars)]))
    space = {"s": "http://www.w3.org/2000/svg"}
    widths = [float(r.attrib["width"]) for r in root.findall("s:rect", space)]
    assert widths[1] == pytest.approx(2 * widths[0])
    assert widths[0] == pytest.approx(400 / 4)  # the highest of all rounds fits
    texts = [t.text for t in root.findall("s:text", space)]
    assert {"a < b", "a & b", "<2>", "g"} <= set(texts)
    assert "prefers-color-scheme:dark" in (root.find("s:style", space).text or "")


def test_wrong_names_are_told() -> None:
    with pytest.raises(SystemExit, match="no contender 'wireguard'; known are veth, wireguard-go"):
        bench_run.chosen(["wireguard"], ["veth", "wireguard-go"], "contender")
    assert bench_run.chosen(None, ["a", "b"], "x") == ["a", "b"]
    assert bench_run.chosen(["b", "a"], ["a", "b", "c"], "x") == ["a", "b"]


def test_the_newest_version_is_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho example.org/m v1.5.2 v1.10.3 v1.12.0\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert _newest_first("example.org/m") == ["latest", "v1.12.0", "v1.10.3", "v1.5.2"]


@pytest.mark.lab
def test_a_short_run_from_nothing_to_the_page(tmp_path: Path) -> None:
    lacking = [tool for tool in ("ip", "ping", "iperf3", "ss") if shutil.which(tool) is None]
    if os.geteuid() or lacking:
        pytest.skip(f"LAB TESTS NOT RUN: needs root{' and ' + ', '.join(lacking) if lacking else ''}")
    docs, results = tmp_path / "docs", tmp_path / "results.json"
    docs.mkdir()
    (docs / "benchmarks.md").write_text(PAGE)
    arguments = [
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--offloads",
        "on",
        "--docs",
        str(docs),
        "--results",
        str(results),
    ]
    bench_run.main([*arguments, "--only", "python", "--measure", "tcp1", "memory", "udp", "ping"])
    rows = json.loads(results.read_text())["rows"]["on"]["python"]
    figures = {measure: found[0]["figures"] for measure, found in rows.items()}
    assert figures["tcp1"]["gbit"] > 0.05 and figures["tcp1"]["cpu_s_per_gb"] > 0.5
    assert 10 < figures["memory"]["mb"] < 1000
    assert figures["udp"]["kpps"] > 1 and 0 < figures["ping"]["median_ms"] <= figures["ping"]["p99_ms"]
    text = (docs / "benchmarks.md").read_text()
    assert "**ShadowMesh, python pump**" in text and "wrong header inside: 0" in text
    assert not [p for p in Path("/run/netns").iterdir() if p.name.startswith("smbench-")]


def test_one_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(visit: bench_run.Visit, _seconds: int, results: Results) -> Iterator[str]:
        if visit.contender.key == "a" and visit.number == 1:
            raise SystemExit("it didn't start")
        for measure in visit.measures:
            results.add(visit.offloads, visit.contender.key, measure.key, visit.number, {"gbit": 1.0})
            yield "measured"

    monkeypatch.setattr(bench_run, "make", make)
    options = bench_run.parse(["--rounds", "2", "--offloads", "on"])
    contenders, measures, path = [Fake("a"), Fake("b")], MEASURES[:1], tmp_path / "results.json"
    assert bench_run.run_all(options, contenders, measures, Results.load(path)) == 1
    assert "round 1  a failed: it didn't start" in capsys.readouterr().err
    left = bench_run.plan(2, ("on",), contenders, measures, Results.load(path))
    assert [(v.number, v.contender.key) for v in left] == [(1, "a")]


def test_who_cannot_be_built_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Missing(Fake):
        def version(self) -> str:
            raise SystemExit("can't build it")

    options = bench_run.parse(["--rounds", "1"])
    assert bench_run.run_all(options, [Missing("a")], MEASURES[:1], Results(tmp_path / "r.json")) == 0
    told = capsys.readouterr()
    assert "left out: A: can't build it" in told.err and "0 visits" in told.out
