"""`make test`: the tests that need no root and, as root, beside them those of the lab, in the time of the longer of the two.

What the lab measures is time, and it waits a good part of that: the other tests have the lowest priority and take what is left.
The lab's report goes to build/lab.log meanwhile and is shown at the end. Whichever fails, both run through. Arguments go to both.
With IN_TURN=1 they run one after the other, which takes longer and disturbs no measurement.

A few that failed are run once more, alone. What passes then is named at the end as unstable: a fault in the product or the test, to
be mended by what the first run says of it, but none that holds up everything else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
REPORT: Final = ROOT / "build" / "lab.log"
LOWEST: Final = 19
IN_TURN: Final = os.environ.get("IN_TURN", "") not in ("", "0")
# more workers than cores, as all wait now and then; but not where time is measured and nothing else runs
WORKERS: Final = os.environ.get("WORKERS", "3")
LAB_WORKERS: Final = os.environ.get("WORKERS", "2" if IN_TURN else "3")
PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "--dist", "loadgroup")
CACHE: Final = ".pytest_cache"
LAB_CACHE: Final = f"{CACHE}/lab"
LAB: Final = (
    *PYTEST, "-n", LAB_WORKERS, "--no-loadscope-reorder", "-m", "lab or root", "-o", f"cache_dir={LAB_CACHE}",
)  # fmt: skip
OTHERS: Final = (*PYTEST, "-n", WORKERS, "-m", "not lab and not root")
PARTS: Final = {"not lab and not root": OTHERS, "lab or root": LAB}
CACHES: Final = dict(zip(PARTS, (CACHE, LAB_CACHE), strict=True))
FAILED: Final = 1  # pytest's exit code for failed tests, and for nothing else
FEW: Final = 3
SKIPPED: Final = "SKIPPED: the lab suite (pytest -m 'lab or root') needs root: run 'sudo make test'"


def main(arguments: list[str]) -> int:
    """The exit code: 0 if nothing failed."""
    if os.geteuid():
        code = again(OTHERS, CACHE, subprocess.run([*OTHERS, *arguments], cwd=ROOT, check=False).returncode)
        print(SKIPPED)
        return code
    began = time.monotonic()
    codes = _in_turn(arguments) if IN_TURN else _beside_each_other(arguments)
    codes = {name: again(PARTS[name], CACHES[name], code) for name, code in codes.items()}
    for name, code in codes.items():
        print(f"{name}: {'passed' if code == 0 else 'FAILED'}")
    print(f"{time.monotonic() - began:.0f} s")
    return max(codes.values())


def _in_turn(arguments: list[str]) -> dict[str, int]:
    return {name: subprocess.run([*part, *arguments], cwd=ROOT, check=False).returncode for name, part in PARTS.items()}


def _beside_each_other(arguments: list[str]) -> dict[str, int]:
    REPORT.parent.mkdir(exist_ok=True)
    with REPORT.open("w") as report:
        lab = subprocess.Popen([*LAB, *arguments], cwd=ROOT, stdout=report, stderr=subprocess.STDOUT)
        others = subprocess.Popen([*OTHERS, *arguments], cwd=ROOT)
        os.setpriority(os.PRIO_PROCESS, others.pid, LOWEST)
        codes = dict(zip(PARTS, (others.wait(), lab.wait()), strict=True))
    print(f"\n--- the lab ({REPORT.relative_to(ROOT)})")
    print(REPORT.read_text())
    return codes


def again(part: Sequence[str], cache: str, code: int) -> int:
    """Runs the few tests that failed once more, one after the other; the exit code that counts. `cache`: where pytest noted them."""
    if code != FAILED:
        return code
    tests = [_without_group(test) for test in json.loads((ROOT / cache / "v/cache/lastfailed").read_text())]
    if not 0 < len(tests) <= FEW:
        return code
    print(f"\n--- once more, alone: {', '.join(tests)}", flush=True)
    code = subprocess.run([*part, "-n", "0", *tests], cwd=ROOT, check=False).returncode
    if code == 0:
        print(f"UNSTABLE, failed at first and passed alone: {', '.join(tests)}", flush=True)
    return code


def _without_group(test: str) -> str:
    """pytest-xdist puts @GROUP after the id of a test that has one."""
    name, _, group = test.rpartition("@")
    return name if name and "]" not in group else test


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
