"""The benchmark: all contenders in turns, in network namespaces. Needs root, Go, iperf3, and Debian's openvpn, tinc, coturn.

    python tests/bench [--rounds 5] [--seconds 4] [--only NAME …] [--measure NAME …] [--offloads on|off|both]
    python tests/bench --report        the docs' tables and pictures, from what was measured
    python tests/bench --list          names of contenders and measures

What was measured is kept in build/bench/results.json after each visit; an interrupted run goes on where it was, within an hour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bench_report
from bench_contenders import Contender, everyone, reach, versions
from bench_measures import MEASURES, WARM_UP, Measure, checksum_errors, warm_up
from bench_results import Results
from bench_spaces import alone

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "bench" / "results.json"
_STARTING = 1.2  # seconds that a visit takes besides its measures


@dataclass(frozen=True, slots=True)
class Visit:
    """One contender, started once, with the measures that are still to be taken."""

    number: int
    offloads: str
    contender: Contender
    measures: tuple[Measure, ...]

    def lasts(self, seconds: int) -> float:
        warm = 0.0 if self.contender.group == "relay" else WARM_UP + 0.7
        return _STARTING + warm + sum(m.seconds(seconds) for m in self.measures)


def plan(
    rounds: int, offloads: Sequence[str], contenders: Sequence[Contender], measures: Sequence[Measure], results: Results
) -> list[Visit]:
    """Rounds in turns, each beginning with another contender; without what the results have already."""
    visits = []
    for number in range(1, rounds + 1):
        for state in offloads:
            turn = (number - 1) % len(contenders) if contenders else 0
            for contender in (*contenders[turn:], *contenders[:turn]):
                wanted = tuple(
                    m
                    for m in measures
                    if contender.group in m.groups
                    and (state == "on" or contender.group in m.without_offloads)
                    and not (contender.key == "veth" and m.key == "memory")
                    and not results.has(state, contender.key, m.key, number)
                )
                if wanted:
                    visits.append(Visit(number, state, contender, wanted))
    return visits


def make(visit: Visit, seconds: int, results: Results) -> Iterator[str]:
    """Takes the measures of a visit; yields a line for each."""
    contender = visit.contender
    with contender.underlay(visit.offloads == "on"), contender.start() as running:
        if contender.group != "relay":
            reach(running)
            warm_up(running)
        for measure in visit.measures:
            figures = measure.take(contender, running, seconds)
            results.add(visit.offloads, contender.key, measure.key, visit.number, figures)
            told = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
            yield f"round {visit.number}  offloads {visit.offloads:3}  {contender.key:14} {measure.key:10} {told}"
        if contender.group != "relay":
            results.add_errors(sum(checksum_errors(space) for space in running.spaces))


def chosen(names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    for name in names or ():
        if name not in known:
            raise SystemExit(f"error: no {what} {name!r}; known are {', '.join(known)}")
    return [name for name in known if not names or name in names]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds",
        type=int,
        choices=range(1, 61),
        metavar="S",
        default=4,
        help="of each TCP, UDP and round trip measurement",
    )
    parser.add_argument("--only", nargs="+", metavar="CONTENDER")
    parser.add_argument("--measure", nargs="+", metavar="MEASURE")
    parser.add_argument("--offloads", choices=("on", "off", "both"), default="both", help="of the underlay")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--no-report", action="store_true", help="leave the docs alone")
    parser.add_argument("--report", action="store_true", help="only write the docs")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    contenders = {c.key: c for c in everyone()}
    measures = {m.key: m for m in MEASURES}
    if options.list:
        print("contenders:", *contenders, "\nmeasures:", *measures)
        return
    if options.fresh:
        options.results.unlink(missing_ok=True)
    results = Results.load(options.results)
    failed = 0
    if not options.report:
        if os.geteuid():
            raise SystemExit("error: network namespaces need root; run it by sudo")
        with alone():
            failed = run_all(
                options,
                [contenders[k] for k in chosen(options.only, list(contenders), "contender")],
                [measures[k] for k in chosen(options.measure, list(measures), "measure")],
                results,
            )
    if options.report or not options.no_report:
        for path in bench_report.write(results, options.docs):
            print(f"written: {path}")
    if failed:
        raise SystemExit(f"error: {failed} visits failed; the same command tries them again")


def run_all(
    options: argparse.Namespace, contenders: Sequence[Contender], measures: Sequence[Measure], results: Results
) -> int:
    """Returns how many visits failed; what they didn't measure, the next run does."""
    contenders = [c for c in contenders if any(c.group in m.groups for m in measures)]
    found = versions(contenders)
    contenders = [c for c in contenders if c.key in found]
    described = {c.key: (found[c.key], c.title, c.group) for c in contenders}
    for what in results.begin(options.seconds, described):
        print(f"what was measured before is put aside: {what}")
    states = ("on", "off") if options.offloads == "both" else (options.offloads,)
    visits = plan(options.rounds, states, contenders, measures, results)
    left = sum(v.lasts(options.seconds) for v in visits)
    busy = os.getloadavg()[0]
    print(f"{len(visits)} visits, about {left / 60:.0f} minutes; load of the machine now: {busy:.1f}", flush=True)
    if busy > 0.5:
        print("warning: something else runs here, and will show in the figures", file=sys.stderr)
    began = time.monotonic()
    failed = 0
    for number, visit in enumerate(visits, 1):
        try:
            for line in make(visit, options.seconds, results):
                print(line, flush=True)
        except (SystemExit, subprocess.SubprocessError, OSError, ValueError) as e:  # the others go on
            failed += 1
            print(f"round {visit.number}  {visit.contender.key} failed: {e}", file=sys.stderr, flush=True)
        results.save()
        if number % 10 == 0:
            rest = sum(v.lasts(options.seconds) for v in visits[number:])
            print(
                f"{number} of {len(visits)} visits in {(time.monotonic() - began) / 60:.0f} minutes, {rest / 60:.0f} to go",
                flush=True,
            )
    return failed
