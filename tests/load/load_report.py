"""The figures as a table, beside what was promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One figure. `limit`: what it may be at most; a gate where `gate`, else a goal for a quiet machine."""

    figure: str
    what: str
    limit: float | None = None
    gate: bool = False
    scale: float = 1.0
    digits: int = 1


SEVERAL = (  # with several nodes
    Row("change p99 node 1", "one change, seen by the members of the node that made it: p99, median of ten, ms"),
    Row("change p99 node 2", "the same by those of another node, ms"),
    Row("return presence s", "after a node's death and the last return: until presence is right, s", 5),
)

ROWS = (
    Row("join cpu own", "join: the controller's own CPU, ms", 40, gate=True),
    Row("alone join cpu", "the same in a network of one, ms"),
    Row("join ratio", "the first beside the second", 2.5, gate=True, digits=2),
    Row("telling cpu a client", "telling a change: CPU for each client, µs", 25, gate=True),
    Row("change cpu", "one change, all told: CPU, ms"),
    Row("change p99 worst", "one change, seen by all: p99, worst of ten, ms", 400),
    Row("sustained joins a second", "joins a second, of 20 asked for"),
    Row("sustained cpu share", "CPU meanwhile, % of a core", scale=100),
    Row("sustained join p99", "a join meanwhile: p99, ms"),
    Row("removal cpu", "removal: CPU, ms"),
    Row("removal with rotation cpu", "removal with a new key for all: CPU, ms"),
    Row("removal p99 worst", "removal seen by all: p99, worst of eleven, ms", 1000),
    Row("hello cpu", "a hello: CPU, ms", 3, gate=True),
    Row("return all s", "all back after kill -9, s", 15),
    Row("return lost", "acknowledged and lost by it", 0, gate=True, digits=0),
    Row("return failed tries", "tries that failed but for the start itself", 0, gate=True, digits=0),
    Row("rest quiet p99", "REST when nothing happens: p99, ms"),
    Row("rest joins p99", "REST during joins: p99, ms", 200),
    Row("rest removals p99", "REST during removals and a rotation: p99, ms", 200),
    Row("rest return p99", "REST while all come back: p99, ms", 200),
    Row("kB a client", "memory for each client, kB", 60, gate=True),
    Row("join answer kB", "answer to a join, kB"),
    Row("client cpu a change", "a client: CPU for one change, ms", 3, gate=True, digits=2),
    Row("client bytes a change", "a client: bytes written for one change", 4096, gate=True, digits=0),
    Row("client idle", "a client idle: % of a core", 1, gate=True, scale=100, digits=2),
    Row("client MB", "a client: memory, MB", 120, gate=True),
)


def _value(row: Row, figures: Mapping[str, float]) -> float:
    return figures.get(row.figure, float("nan")) * row.scale


def table(found: Mapping[int, Mapping[str, float]]) -> str:
    """Markdown; a gate's limit is bold."""
    lines = [
        "| | " + " | ".join(f"{number:,}" for number in found) + " | at most |",
        "|---|" + "---|" * (len(found) + 1),
    ]
    several = any("return presence s" in figures for figures in found.values())
    for row in (*ROWS, *(SEVERAL if several else ())):
        values = " | ".join(f"{_value(row, figures):,.{row.digits}f}" for figures in found.values())
        limit = "" if row.limit is None else f"**{row.limit:g}**" if row.gate else f"{row.limit:g}"
        lines.append(f"| {row.what} | {values} | {limit} |")
    return "\n".join(lines)


def failures(found: Mapping[int, Mapping[str, float]]) -> list[str]:
    """A line for each gate that a network of 1,000 or more misses: in a small one what is there once weighs too much."""
    return [
        f"{number:,} members: {row.what}: {_value(row, figures):.{row.digits}f}, at most {row.limit:g}"
        for number, figures in found.items()
        for row in ROWS
        if row.gate and row.limit is not None and number >= 1000 and not _value(row, figures) <= row.limit
    ]
