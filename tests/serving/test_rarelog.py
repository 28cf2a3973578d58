"""Logs that strangers can't fill, memory that is given back, tasks that go on."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from shadowmesh.model.addresses import source_of
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.serving.memory import CHURN, CROWD, Memory
from shadowmesh.serving.rarelog import RareLog, tame_libraries
from shadowmesh.serving.tasks import repeat


def test_a_line_comes_once_a_minute_with_how_often_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    rare = RareLog("test", lambda: now)
    assert [rare("accept failed") for _ in range(1000)].count(True) == 1
    assert rare("another")
    now = 61.0
    assert rare("accept failed", why="x")
    assert "unsaid=999" in "".join(capsys.readouterr())
    assert rare.error("request failed", "storage", code="storage")
    assert rare.error("request failed", "internal_error") and not rare.error("request failed", "storage")
    for number in range(10_000):
        rare(f"event {number}")
    assert len(rare._said) <= 256


@pytest.fixture
def loggers_restored() -> Iterator[None]:
    libraries = [logging.getLogger(name) for name in ("asyncio", "uvicorn", "websockets")]
    before = [(logger, list(logger.handlers), logger.propagate) for logger in libraries]
    yield
    for logger, handlers, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate


@pytest.mark.usefixtures("loggers_restored")
def test_libraries_lines_are_rare_and_without_foreign_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    tame_libraries("test")
    log = logging.getLogger("websockets.server")
    for _ in range(100):
        try:
            b"\xff".decode()
        except UnicodeDecodeError:
            log.error("opening handshake failed", exc_info=True)
    logging.getLogger("uvicorn.error").info("nothing")
    said = "".join(capsys.readouterr())
    assert said.count("opening handshake failed") == 1 and "Traceback" not in said and "UnicodeDecodeError" in said
    try:
        source_of(None)  # type: ignore[arg-type]
    except AttributeError:
        log.error("handler failed", exc_info=True)
    assert "addresses.py" in "".join(capsys.readouterr()), "our own mistakes are shown whole"


def test_memory_is_given_back_after_a_crowd_and_once_more_for_what_outlived_it() -> None:
    memory = Memory()
    assert not memory.look(10, 0, 0.0)
    assert not memory.look(CROWD, 0, 1.0) and not memory.look(CROWD, 0, 2.0)
    assert memory.look(3, 0, 3.0) and not memory.look(3, 0, 4.0)
    assert memory.look(3, 0, 100.0) and not memory.look(3, 0, 1000.0)


def test_what_many_connections_leave_is_collected_while_others_come() -> None:
    memory = Memory()

    def collected(ended: int, now: float) -> bool:
        cycle: list[Any] = [Cycle()]
        cycle[0].itself = cycle
        gone = weakref.ref(cycle[0])
        del cycle
        memory.look(100, ended, now)
        return gone() is None

    gc.disable()
    try:
        assert [collected(CHURN - 1, 20.0), collected(CHURN, 20.0)] == [False, True]
        assert [collected(2 * CHURN, now) for now in (79.0, 80.0, 999.0)] == [False, True, False]
    finally:
        gc.enable()


def test_while_a_crowd_is_there_objects_come_from_where_pages_are_given_back() -> None:
    """What 200 MB of objects leave between things that last: of pymalloc's megabytes none would be free."""
    program = """
from pathlib import Path
from shadowmesh.serving.memory import CROWD, Memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) // 256

memory, before = Memory(), resident()
kept = []
memory.crowd()
held = [bytes(400) for n in range(500_000)]
kept = held[::2000]
highest = resident() - before
memory.look(CROWD, 0, 0.0)
del held
memory.calm()
memory.look(0, 0, 1.0)
print(highest, resident() - before, all(b == bytes(400) for b in kept + [bytes(400) for n in range(100_000)]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    highest, left, intact = run.stdout.split()
    assert int(highest) > 150 and int(left) < 20 and intact == "True", run.stdout


class Cycle:
    itself: object


async def test_a_failing_task_goes_on() -> None:
    done, turns = asyncio.Event(), 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns <= 50:
            raise ShadowMeshError("x", "the disk is full")
        if turns <= 60:
            raise RuntimeError("nobody thought of this")
        done.set()

    with capture_logs() as logs:
        task = asyncio.create_task(repeat(0.001, work))
        async with asyncio.timeout(5):
            await done.wait()
        task.cancel()
    assert [(e["log_level"], e["why"], "exc_info" in e) for e in logs] == [
        ("error", "ShadowMeshError: the disk is full", False),
        ("error", "RuntimeError: nobody thought of this", True),
    ], "each once, however often it fails"


def test_the_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = (
        "import resource\nfrom shadowmesh.serving.descriptors import raise_limit\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))\n"
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.split() == [str(hard)] * 3
