"""`make prove`: the promises that take hours, one proof after another. Stopped, it goes on where it was; docs/proofs.md shows the results.

A proof is a test marked `prove`. Each runs by itself, with both cores to itself, and its outcome is kept in `docs/proofs.jsonl` with the commit
that it was run on; commit it together with the page. A proof that has passed is not run again while no other file differs from that commit.
What a proof measures it notes by `record_property`.

    make prove                      all that this commit lacks
    make prove PROVE="-k world_b"   those whose names match (as pytest's -k)
    make prove PROVE=--list         names, and when each was last run
    make prove PROVE=--page         nothing but the page, from the results at hand: after a merge
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "docs" / "proofs.jsonl"
REPORT: Final = ROOT / "build" / "proof.xml"
PAGE: Final = ROOT / "docs" / "proofs.md"
ELSEWHERE: Final = (".", *(f":!{path.relative_to(ROOT)}" for path in (RESULTS, PAGE)))
MACHINE: Final = f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Result:
    """One proof's outcome. `at` is UTC, `seconds` wall time, `figures` what it measured."""

    proof: str
    commit: str
    outcome: str  # passed, failed or skipped
    at: str
    seconds: float
    figures: dict[str, str] = field(default_factory=dict)
    machine: str = MACHINE


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def commit() -> str:
    """The commit that is checked out, with a + where files differ from it."""
    return git("rev-parse", "--short", "HEAD").stdout.strip() + ("" if nothing_differs("HEAD") else "+")


def nothing_differs(commit: str) -> bool:
    """Whether the files are those of this commit, apart from the results and their page."""
    return git("diff", "--quiet", commit, "--", *ELSEWHERE).returncode == 0


def proofs(expression: str) -> list[str]:
    """Test ids, in the order of the files."""
    chosen = [*PYTEST, "--collect-only", "-m", "prove", "-k", expression, "tests"]
    found = subprocess.run(chosen, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode not in (0, 5):  # 5: nothing was chosen
        sys.exit(found.stdout + found.stderr)
    return [line for line in found.stdout.splitlines() if "::" in line]


def kept() -> dict[str, Result]:
    """The newest result of each proof."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    results = sorted((Result(**json.loads(line)) for line in lines), key=lambda r: r.at)
    return {result.proof: result for result in results}


def prove(proof: str, at: str) -> Result:
    began, when = time.monotonic(), dt.datetime.now(dt.UTC)
    REPORT.unlink(missing_ok=True)
    subprocess.run([*PYTEST, "-s", "-o", "junit_family=xunit1", f"--junit-xml={REPORT}", proof], cwd=ROOT, check=False)
    outcome, figures = "failed", {}
    if REPORT.exists():
        for case in ElementTree.parse(REPORT).iter("testcase"):
            ended = {child.tag for child in case}
            outcome = "failed" if ended & {"failure", "error"} else "skipped" if "skipped" in ended else "passed"
            figures = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
    seconds = round(time.monotonic() - began, 1)
    return Result(proof, at, outcome, when.isoformat(timespec="seconds"), seconds, figures)


def write_page(results: dict[str, Result]) -> None:
    lines = [
        "# Proofs",
        "",
        "The promises that take too long for every run of the tests, each shown by a test. `make prove` runs what the commit at hand lacks and",
        f"writes this page. Run on {'; '.join(sorted({r.machine for r in results.values()}))}.",
        "",
        "| proof | outcome | commit | when (UTC) | s | measured |",
        "|---|---|---|---|---|---|",
    ]
    for result in sorted(results.values(), key=lambda r: r.proof):
        file, _, name = result.proof.removeprefix("tests/").partition("::")
        figures = ", ".join(f"{name}: {value}" for name, value in result.figures.items())
        lines.append(
            f"| {name.replace('_', ' ')} ({file}) | {result.outcome} | {result.commit} | {result.at[:16].replace('T', ' ')}"
            f" | {result.seconds:.0f} | {figures} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make prove")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only proofs whose names match")
    parser.add_argument("--list", action="store_true", help="show names and last results, run nothing")
    parser.add_argument("--page", action="store_true", help="write the page from the results at hand, run nothing")
    parser.add_argument("--again", action="store_true", help="run also what has passed on this commit")
    options = parser.parse_args()
    results, at = kept(), commit()
    if options.page:
        write_page(results)
        return 0
    chosen = proofs(options.k)
    if options.list:
        for proof in chosen:
            result = results.get(proof)
            print(proof, "never run" if result is None else f"{result.outcome} at {result.commit}, {result.at}")
        return 0
    REPORT.parent.mkdir(exist_ok=True)
    failed = 0
    for number, proof in enumerate(chosen, 1):
        before = results.get(proof)
        passed = before is not None and before.outcome == "passed"
        if before is not None and passed and nothing_differs(before.commit) and not options.again:
            print(f"[{number}/{len(chosen)}] {proof}: passed before on {before.commit}")
            continue
        print(f"[{number}/{len(chosen)}] {proof}", flush=True)
        results[proof] = result = prove(proof, at)
        failed += result.outcome == "failed"
        with RESULTS.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        write_page(results)
    outcomes = [results[p].outcome for p in chosen]
    print(", ".join(f"{outcomes.count(o)} {o}" for o in ("passed", "failed", "skipped")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
