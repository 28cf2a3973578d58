"""The tables and pictures of docs/benchmarks.md, from the results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_results import Results, Summary
from bench_svg import Bar, Group, chart

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PEER = "wireguard-go"  # whose figures are 1
OURS = ("native", "python")


@dataclass(frozen=True, slots=True)
class Column:
    head: str
    measure: str
    figure: str
    digits: int = 2
    factor: float = 1.0


DIRECT = (
    Column("TCP 1 stream", "tcp1", "gbit"),
    Column("4 streams", "tcp4", "gbit"),
    Column("1, reversed", "tcp1r", "gbit"),
    Column("4, reversed", "tcp4r", "gbit"),
    Column("CPU-s per GB", "tcp1", "cpu_s_per_gb"),
    Column("64 B without loss", "lossless", "kpps", 0),
    Column("64 B flooded", "udp", "kpps", 0),
    Column("flooded by iperf3", "udp-iperf3", "kpps", 0),
    Column("round trip", "ping", "median_ms", 0, 1e3),
    Column("p99", "ping", "p99_ms", 0, 1e3),
    Column("memory", "memory", "mb", 0),
)
RELAYED = (
    Column("TCP 1 stream", "tcp1", "gbit"),
    Column("4 streams", "tcp4", "gbit"),
    Column("CPU-s per GB, all", "tcp1", "cpu_s_per_gb"),
    Column("relay's part", "tcp1", "relay_cpu_s_per_gb"),
    Column("GB per CPU-s", "tcp1", "gb_per_cpu_s", 3),
    Column("64 B without loss", "lossless", "kpps", 0),
    Column("round trip", "ping", "median_ms", 0, 1e3),
    Column("p99", "ping", "p99_ms", 0, 1e3),
)
STREAM = (
    Column("relay's CPU-s per GB", "stream", "relay_cpu_s_per_gb"),
    Column("share delivered", "stream", "delivered", 3),
)
UNITS = (
    "TCP: Gbit/s received; CPU: user and system seconds of all processes of both sides per GB (of a TCP stream), without iperf3; "
    "64-byte datagrams: thousands per second received; round trip: µs of an idle way, by UDP; memory: MB of both sides, "
    "the largest resident size of each process under load."
)


def cell(summary: Summary | None, column: Column) -> str:
    """The median, and in brackets the lowest and the highest where there were several rounds."""
    if summary is None:
        return "–"

    def text(value: float) -> str:
        return f"{value * column.factor:.{column.digits}f}"

    told = text(summary.median)
    return told if summary.rounds < 2 else f"{told} <sub>{text(summary.lowest)}–{text(summary.highest)}</sub>"


def table(results: Results, contenders: Sequence[str], columns: Sequence[Column], offloads: str = "on") -> str:
    """Markdown; columns that nobody has a figure for are left out."""
    rows = {key: [results.summary(offloads, key, c.measure, c.figure) for c in columns] for key in contenders}
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows.values())]
    lines = ["| | " + " | ".join(columns[i].head for i in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for key, row in rows.items():
        title = f"**{results.title(key)}**" if key in OURS else results.title(key)
        lines.append(f"| {title} | " + " | ".join(cell(row[i], columns[i]) for i in shown) + " |")
    return "\n".join(lines)


def peer_of(key: str) -> str | None:
    """Whose figures those of a contender of ours are to be multiples of; None if of nobody's."""
    pump, _, way = key.partition("-")
    if key in OURS:
        return PEER
    if pump in OURS and way != "direct":
        return f"{pump}-direct"
    return "stream-coturn" if pump == "stream" and way != "coturn" else None


def multiples(results: Results, contenders: Sequence[str], columns: Sequence[Column], offloads: str = "on") -> str:
    """The same table for ours, in multiples of what they are to be compared with; nothing if that or they were not measured."""
    rows = {
        key: [results.ratio(offloads, key, peer, c.measure, c.figure) for c in columns]
        for key in contenders
        if (peer := peer_of(key)) is not None
    }
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows.values())]
    if not shown:
        return ""
    lines = [
        "In multiples, round by round:",
        "",
        "| | of | " + " | ".join(columns[i].head for i in shown) + " |",
        "|---" * (len(shown) + 2) + "|",
    ]
    for key, row in rows.items():
        cells = (cell(row[i], Column("", "", "")) for i in shown)
        title = f"**{results.title(key)}**" if key in OURS else results.title(key)
        lines.append(f"| {title} | {results.title(peer_of(key) or key)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _groups(results: Results, columns: Sequence[tuple[str, Column]], offloads: str = "on") -> list[Group]:
    groups = []
    for title, column in columns:
        bars = []
        for key in results.contenders("direct", offloads):
            found = results.ratio(offloads, key, PEER, column.measure, column.figure) if key != "veth" else None
            if found is not None:
                told = results.summary(offloads, key, column.measure, column.figure)
                assert told is not None
                text = f"{found.median:.2f} ×  ({told.median * column.factor:.{column.digits}f})"
                label = results.title(key).removeprefix("ShadowMesh, ")
                bars.append(Bar(label, found.median, found.lowest, found.highest, text, key in OURS))
        if bars:
            groups.append(Group(title, bars))
    return groups


def pictures(results: Results) -> dict[str, str]:
    """Name → SVG; those without a figure are left out."""
    d = {(c.measure, c.figure): c for c in DIRECT}
    wanted = {
        "bench-tcp": (
            "TCP through the tunnel, as multiples of wireguard-go (Gbit/s)",
            [
                ("one stream", d["tcp1", "gbit"]),
                ("four streams", d["tcp4", "gbit"]),
                ("one stream, reversed", d["tcp1r", "gbit"]),
                ("four streams, reversed", d["tcp4r", "gbit"]),
            ],
            "on",
        ),
        "bench-small": (
            "64-byte datagrams, as multiples of wireguard-go (thousands per second)",
            [("highest rate without loss", d["lossless", "kpps"]), ("flooded", d["udp", "kpps"])],
            "on",
        ),
        "bench-cost": (
            "What it costs, as multiples of wireguard-go: shorter is better",
            [
                ("CPU seconds per GB", d["tcp1", "cpu_s_per_gb"]),
                ("memory under load (MB)", d["memory", "mb"]),
                ("round trip, median (µs)", d["ping", "median_ms"]),
                ("round trip, 99th percentile (µs)", d["ping", "p99_ms"]),
            ],
            "on",
        ),
        "bench-no-offloads": (
            "Without the underlay's offloads, as multiples of wireguard-go",
            [
                ("TCP, one stream (Gbit/s)", d["tcp1", "gbit"]),
                ("TCP, four streams (Gbit/s)", d["tcp4", "gbit"]),
                ("64-byte datagrams without loss (thousands per second)", d["lossless", "kpps"]),
                ("CPU seconds per GB: shorter is better", d["tcp1", "cpu_s_per_gb"]),
            ],
            "off",
        ),
    }
    drawn = {name: (title, _groups(results, rows, offloads)) for name, (title, rows, offloads) in wanted.items()}
    return {name: chart(title, groups) for name, (title, groups) in drawn.items() if groups}


def section(results: Results, names: Sequence[str]) -> str:
    """What stands between the marks, with pictures of these names."""
    m, times = results.machine, results.times()
    if times is None:
        raise SystemExit("error: nothing was measured yet; run `make bench`")
    when = time.strftime("%Y-%m-%d", time.gmtime(times[1]))
    hours = (times[1] - times[0]) / 3600
    lines = [
        f"Measured on {when} within {hours:.1f} h: {m['cpu']}, {m['cores']} cores, Linux {m['kernel']}, Python {m['python']}. "
        f"Rounds: {results.rounds()} at least, of {results.seconds:g} s for each figure; medians, and from the lowest to the highest. "
        f"TCP segments with a wrong checksum or packets with a wrong header inside: {results.csum_errors}.",
    ]
    parts = (
        ("Direct", "direct", "on", DIRECT, ("bench-tcp", "bench-small", "bench-cost")),
        ("Direct, without the underlay's offloads", "direct", "off", DIRECT, ("bench-no-offloads",)),
        ("Through a relay", "relayed", "on", RELAYED, ()),
        ("Through a relay, without the underlay's offloads", "relayed", "off", RELAYED, ()),
        ("The relay alone, beside coturn", "relay", "on", STREAM, ()),
        ("The relay alone, beside coturn, without the underlay's offloads", "relay", "off", STREAM, ()),
    )
    for title, group, offloads, columns, drawn in parts:
        contenders = results.contenders(group, offloads)
        if contenders:
            shown = [f"![{name}](images/{name}.svg)" for name in drawn if name in names]
            told = multiples(results, contenders, columns, offloads)
            for block in (f"### {title}", "\n".join(shown), table(results, contenders, columns, offloads), told):
                lines += ["", block] if block else []
    groups = ("direct", "relayed", "relay")
    found = dict.fromkeys(key for g in groups for o in ("on", "off") for key in results.contenders(g, o))
    named: dict[str, str] = {}
    for key in found:
        name = (
            "ShadowMesh"
            if "ShadowMesh" in results.title(key) or results.title(key).partition(" ")[0] in OURS
            else results.title(key)
        )
        named.setdefault("Linux" if key == "veth" else name.partition(",")[0], results.version(key))
    lines += ["", UNITS, "", "Versions: " + ", ".join(f"{name} {version}" for name, version in named.items()) + "."]
    return "\n".join(lines)


def put(page: str, text: str) -> str:
    """The page with `text` between the marks. Raises SystemExit if it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"error: the page has no {BEGIN} … {END}")
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def write(results: Results, docs: Path) -> list[Path]:
    """Writes `docs/benchmarks.md`'s section and `docs/images/bench-*.svg`; returns what was written."""
    drawn = pictures(results)
    page = docs / "benchmarks.md"
    page.write_text(put(page.read_text(encoding="utf-8"), section(results, list(drawn))), encoding="utf-8")
    images = docs / "images"
    images.mkdir(exist_ok=True)
    for old in images.glob("bench-*.svg"):
        if old.stem not in drawn:
            old.unlink()
    written = [page]
    for name, svg in drawn.items():
        written.append(images / f"{name}.svg")
        written[-1].write_text(svg, encoding="utf-8")
    return written
