"""The demo as a person sees it on a terminal: pairs find each other, then the terminal interface of one of them, live."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest

from shadowmesh.lab.internet import missing

pytestmark = pytest.mark.lab


def test_a_demo_on_a_terminal_ends_in_the_terminal_interface_of_a_living_mesh() -> None:
    if lacking := missing():
        pytest.skip(f"LAB TESTS NOT RUN: {lacking}")
    lab = f"d{os.getpid()}"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        os.execv(sys.executable, [sys.executable, "-m", "shadowmesh", "demo", "--lab", lab])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
    seen = b""

    def until(*words: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 150
        while not all(word.encode() in seen for word in words):
            assert time.monotonic() < deadline, seen.decode(errors="replace")[-3000:]
            seen += os.read(terminal, 65536)

    try:
        until("10 pairs: 8 direct, 2 by relay", "its terminal interface opens")
        seen = b""
        until("dashboard", "relay.symm", "10.77.0.")
        os.write(terminal, b"q")
        try:
            while chunk := os.read(terminal, 65536):
                seen += chunk
        except OSError:  # EIO: it has ended
            pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        still_up = [sys.executable, "-m", "shadowmesh", "lab", "exec", "--lab", lab, "h1", "--", "true"]
        assert subprocess.run(still_up, check=False, timeout=30).returncode == 0
    finally:
        os.close(terminal)
        subprocess.run([sys.executable, "-m", "shadowmesh", "lab", "down", "--lab", lab], check=True, timeout=60)
