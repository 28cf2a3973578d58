"""The figures as a table, beside what was promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

LARGE = 1000  # members from which on gates hold: in a smaller network what is there once weighs too much
SHARED = 1.3  # what anything may cost with several nodes, beside one


class Row(NamedTuple):
    """One figure. `limit`: what it may be at most; a gate where `gate`, else a goal for a quiet machine."""

    figure: str
    what: str
    limit: float | None = None
    gate: bool = False
    scale: float = 1.0
    digits: int = 1
    shared: bool = False  # on PostgreSQL the limit is SHARED times what one node needs there


class Run(NamedTuple):
    """One network measured. `nodes`: of the controller, on PostgreSQL; 0 for one on SQLite."""

    members: int
    nodes: int
    figures: Mapping[str, float]

    @property
    def title(self) -> str:
        return f"{self.members:,}" + (f", {self.nodes} node{'s' if self.nodes > 1 else ''}" if self.nodes else "")


SEVERAL = (  # with several nodes
    Row("change p99 node 1", "one change, seen by the members of the node that made it: p99, median of ten, ms"),
    Row("change p99 node 2", "the same by those of another node, ms"),
    Row("return presence s", "after a node's death and the last return: until presence is right, s", 5),
)

ROWS = (
    Row("join cpu own", "join: the controller's own CPU, ms", 40, gate=True, shared=True),
    Row("alone join cpu", "the same in a network of one, ms"),
    Row("join ratio", "the first beside the second", 2.5, gate=True, digits=2),
    Row("telling cpu a client", "telling a change: CPU for each client, µs", 25, gate=True, shared=True),
    Row("change cpu", "one change, all told: CPU, ms"),
    Row("change p99 worst", "one change, seen by all: p99, worst of ten, ms", 400),
    Row("sustained joins a second", "joins a second, of 20 asked for"),
    Row("sustained cpu share", "CPU meanwhile, % of a core", scale=100),
    Row("sustained join p99", "a join meanwhile: p99, ms"),
    Row("removal cpu", "removal: CPU, ms"),
    Row("removal with rotation cpu", "removal with a new key for all: CPU, ms"),
    Row("removal p99 worst", "removal seen by all: p99, worst of eleven, ms", 1000),
    Row("hello cpu", "a hello: CPU, ms", 3, gate=True, shared=True),
    Row("return all s", "all back after kill -9, s", 15),
    Row("return lost", "acknowledged and lost by it", 0, gate=True, digits=0),
    Row("return failed tries", "tries that failed but for the start itself", 0, gate=True, digits=0),
    Row("rest quiet p99", "REST when nothing happens: p99, ms"),
    Row("rest joins p99", "REST during joins: p99, ms", 200),
    Row("rest removals p99", "REST during removals and a rotation: p99, ms", 200),
    Row("rest return p99", "REST while all come back: p99, ms", 200),
    Row("kB a client", "memory for each client, kB", 60, gate=True, shared=True),
    Row("join answer kB", "answer to a join, kB"),
    Row("client cpu a change", "a client: CPU for one change, ms", 3, gate=True, digits=2),
    Row("client bytes a change", "a client: bytes written for one change", 4096, gate=True, digits=0),
    Row("client idle", "a client idle: % of a core", 1, gate=True, scale=100, digits=2),
    Row("client MB", "a client: memory, MB", 120, gate=True),
)


def _value(row: Row, figures: Mapping[str, float]) -> float:
    return figures.get(row.figure, float("nan")) * row.scale


def table(runs: Sequence[Run]) -> str:
    """Markdown; a gate's limit is bold."""
    lines = [
        "| | " + " | ".join(run.title for run in runs) + " | at most |",
        "|---|" + "---|" * (len(runs) + 1),
    ]
    for row in (*ROWS, *(SEVERAL if any(run.nodes > 1 for run in runs) else ())):
        values = " | ".join(f"{_value(row, run.figures):,.{row.digits}f}" for run in runs)
        limit = "" if row.limit is None else f"**{row.limit:g}**" if row.gate else f"{row.limit:g}"
        lines.append(f"| {row.what} | {values} | {limit} |")
    return "\n".join(lines)


def failures(runs: Sequence[Run]) -> list[str]:
    """A line for each gate that a network of LARGE or more misses.

    What several nodes cost is held against one node on the same PostgreSQL, where that was measured; what one costs there has no limit.
    """
    return [line for run in runs if run.members >= LARGE for line in _missed(run, _single(run, runs))]


def _single(run: Run, runs: Sequence[Run]) -> Mapping[str, float]:
    return next((r.figures for r in runs if (r.members, r.nodes) == (run.members, 1)), {}) if run.nodes > 1 else {}


def _missed(run: Run, single: Mapping[str, float]) -> Iterator[str]:
    for row in ROWS:
        if not row.gate or row.limit is None or (run.nodes and row.figure == "join ratio"):
            continue
        limit = row.limit
        if row.shared and run.nodes:
            if run.nodes == 1 or not single:
                continue
            limit = SHARED * _value(row, single)
        if not _value(row, run.figures) <= limit:
            yield f"{run.title}: {row.what}: {_value(row, run.figures):.{row.digits}f}, at most {limit:g}"
