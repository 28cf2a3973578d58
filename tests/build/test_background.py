"""The tests run in the background as well, where a shell has SIGINT ignored: what they start can still be interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"


def test_what_tests_start_doesnt_ignore_interrupts() -> None:
    inside = f"import subprocess, sys, conftest; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    found = subprocess.run(
        [sys.executable, "-c", inside],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert found.stdout == "False\n"
