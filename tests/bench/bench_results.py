"""What was measured, on disk after each visit, so that an interrupted run goes on; and what is made of it."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ORDER = ("veth", "wireguard-go", "native", "python", "nebula", "openvpn", "tinc")
SCHEMA = "shadowmesh.bench-results/1"
GOES_ON = 3600.0  # seconds after its last figure for which an interrupted run can be gone on with


@dataclass(frozen=True, slots=True)
class Summary:
    """Of all rounds."""

    median: float
    lowest: float
    highest: float
    rounds: int


class Results:
    """`rows[offloads][contender][measure]` is a list of {round, at, figures}."""

    def __init__(self, path: Path | None = None, document: dict[str, Any] | None = None) -> None:
        self._path = path
        self._document = document or {
            "schema": SCHEMA,
            "machine": machine(),
            "seconds": 0.0,
            "versions": {},
            "titles": {},
            "groups": {},
            "csum_errors": 0,
            "rows": {"on": {}, "off": {}},
        }

    @classmethod
    def load(cls, path: Path) -> Results:
        """What is in the file, or nothing if it isn't there. Raises SystemExit if it is something else."""
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(path)
        except ValueError as e:
            raise SystemExit(f"error: {path} can't be read ({e}); delete it, or say --fresh") from e
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise SystemExit(f"error: {path} holds something else; delete it, or say --fresh")
        return cls(path, document)

    def begin(self, seconds: float, described: dict[str, tuple[str, str, str]]) -> list[str]:
        """Takes the (version, title, group) of each contender that is to be measured. Returns why what was measured before can't be gone
        on with, for people; it is put aside then, whole: figures of an hour ago were not taken in turns with new ones."""
        d, times, why = self._document, self.times(), []
        if times is not None:
            if (d["machine"], d["seconds"]) != (machine(), seconds):
                why.append("another machine, or --seconds")
            if time.time() - times[1] > GOES_ON:
                why.append(f"the last figure is over {GOES_ON / 3600:.0f} h old")
            for key, (version, title, _) in described.items():
                if d["versions"].get(key, version) != version:
                    why.append(f"{title} was {d['versions'][key]}")
        if why and self._path is not None and self._path.exists():
            self._path.replace(self._path.with_stem(f"{self._path.stem}-before"))
        if why or times is None:
            d |= Results()._document | {"seconds": seconds}
        for key, (version, title, group) in described.items():
            d["versions"][key], d["titles"][key], d["groups"][key] = version, title, group
        return why

    def has(self, offloads: str, contender: str, measure: str, number: int) -> bool:
        rows = self._document["rows"][offloads].get(contender, {}).get(measure, [])
        return any(row["round"] == number for row in rows)

    def add(self, offloads: str, contender: str, measure: str, number: int, figures: dict[str, float]) -> None:
        rows = self._document["rows"][offloads].setdefault(contender, {}).setdefault(measure, [])
        rows.append({"round": number, "at": round(time.time()), "figures": figures})

    def add_errors(self, count: int) -> None:
        self._document["csum_errors"] += count

    def save(self) -> None:
        """Whole or not at all."""
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(self._document, indent=1, sort_keys=True))
        fresh.replace(self._path)

    # what is made of it

    def _values(self, offloads: str, contender: str, measure: str, figure: str) -> dict[int, float]:
        """Round → value."""
        rows = self._document["rows"].get(offloads, {}).get(contender, {}).get(measure, [])
        return {row["round"]: row["figures"][figure] for row in rows if figure in row["figures"]}

    def summary(self, offloads: str, contender: str, measure: str, figure: str) -> Summary | None:
        return _summary(list(self._values(offloads, contender, measure, figure).values()))

    def ratio(self, offloads: str, contender: str, peer: str, measure: str, figure: str) -> Summary | None:
        """Of the contender's figure to the peer's, round by round: what disturbs a round disturbs both."""
        own = self._values(offloads, contender, measure, figure)
        peers = self._values(offloads, peer, measure, figure)
        return _summary([value / peers[number] for number, value in own.items() if peers.get(number)])

    def contenders(self, group: str, offloads: str = "on") -> list[str]:
        """Those that were measured: in `ORDER`, others by name."""
        rows = self._document["rows"].get(offloads, {})
        found = [key for key, its in self._document["groups"].items() if its == group and rows.get(key)]
        return sorted(found, key=lambda key: (ORDER.index(key) if key in ORDER else len(ORDER), key))

    def rounds(self) -> int:
        """The fewest rounds that any figure has; 0 if there is none."""
        counts = [len(m) for rows in self._document["rows"].values() for c in rows.values() for m in c.values()]
        return min(counts, default=0)

    def title(self, contender: str) -> str:
        return str(self._document["titles"][contender])

    def version(self, contender: str) -> str:
        return str(self._document["versions"][contender])

    def times(self) -> tuple[float, float] | None:
        """Of the first and the last figure, seconds since the epoch."""
        at = [r["at"] for rows in self._document["rows"].values() for c in rows.values() for m in c.values() for r in m]
        return (min(at), max(at)) if at else None

    @property
    def machine(self) -> dict[str, Any]:
        return dict(self._document["machine"])

    @property
    def seconds(self) -> float:
        return float(self._document["seconds"])

    @property
    def csum_errors(self) -> int:
        return int(self._document["csum_errors"])


def _summary(values: list[float]) -> Summary | None:
    return Summary(statistics.median(values), min(values), max(values), len(values)) if values else None


def machine() -> dict[str, Any]:
    """What figures depend on. The processor with family and model: names alone stand for several generations."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    told = {key.strip(): value.strip() for key, _, value in lines}
    cpu = told.get("model name", platform.machine())
    if "cpu family" in told:
        cpu += f" (family {told['cpu family']}, model {told['model']})"
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
