"""How a role ends: at once when told twice, and in bounded time whatever holds it up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shadowmesh.serving import ending

ROLE = """
import asyncio, sys, time
from shadowmesh.serving.ending import end_within, stop_on_signals

async def main():
    stopping = asyncio.Event()
    stop_on_signals(stopping.set)
    print("runs", flush=True)
    await stopping.wait()
    print("stopping", flush=True)
    end_within("test", float(sys.argv[1]))
    if sys.argv[2] == "blocked":
        await asyncio.sleep(1.0)
        print("blocked", flush=True)
        time.sleep(60)
    if sys.argv[2] == "waits":
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

asyncio.run(main())
"""


@contextmanager
def role(within: float, end: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", ROLE, str(within), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            says(process, "runs")
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_it_in_its_own_time_and_so_do_two_in_one_moment(number: int) -> None:
    with role(30.0, "clean") as process:
        for _ in range(2):
            os.kill(process.pid, number)
        assert process.wait(10) == 0


@pytest.mark.parametrize("end", ["blocked", "waits"])
def test_a_second_signal_ends_at_once_what_hangs(end: str) -> None:
    with role(50.0, end) as process:
        process.send_signal(signal.SIGTERM)
        says(process, "stopping")
        if end == "blocked":
            says(process, "blocked")
        else:
            time.sleep(2 * ending._AGAIN_AFTER)  # as a person would wait
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize("end", ["blocked", "waits"])
def test_what_hangs_is_ended_by_itself(end: str) -> None:
    with role(0.2, end) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
