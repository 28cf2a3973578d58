"""2,000 connections of each kind held half-open for a minute: an honest user and an honest device notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from freeport import free_port
from halfopen import KINDS, HalfOpen, Kind, sources

from shadowmesh.controller.initialise import InitResult
from shadowmesh.serving.descriptors import raise_limit

pytestmark = [pytest.mark.prove, pytest.mark.timeout(1800)]

COUNT, GROUP, RATE = 2000, 5, 200  # connections, how many begin at once; the rate is a second's
SECONDS, QUIET = 60.0, 20.0
NOISE = 0.05  # seconds: what the machine's own scheduling does to the slowest of a hundred
PROCESS = """
import sys
from pathlib import Path
from shadowmesh.controller.run import RunOptions, run
address = sys.argv[2]
run(RunOptions(Path(sys.argv[1]), listen=address, public_urls=("https://" + address,), ready=lambda: print("ready", flush=True)))
"""


class Controller:
    def __init__(self, data_dir: Path, first: InitResult, log: Path) -> None:
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.log = log
        with log.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROCESS, str(data_dir), f"127.0.0.1:{self.port}"],
                stdout=subprocess.PIPE,
                stderr=err,
            )
        try:
            assert self.process.stdout is not None and self.process.stdout.readline() == b"ready\n"
            self.honest = self._start_honest(data_dir, first)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _start_honest(self, data_dir: Path, first: InitResult) -> subprocess.Popen[str]:
        arguments = [str(data_dir), self.url, first.fingerprint, first.api_key]
        here = Path(__file__)
        honest = subprocess.Popen(
            [sys.executable, str(here.with_name("honest_client.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=here.parents[2],
            env=os.environ | {"PYTHONPATH": f"{here.parents[2]}:{here.parent}"},
        )
        assert honest.stdout is not None and honest.stdout.readline() == "ready\n"
        return honest

    def memory(self) -> int:
        """Resident, in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    def slowest(self, seconds: float) -> dict[str, float]:
        """The 99th percentile of what an honest user and device waited for within so many seconds."""
        assert self.honest.stdin is not None and self.honest.stdout is not None
        print(seconds, file=self.honest.stdin, flush=True)
        found = json.loads(self.honest.stdout.readline())
        return {name: sorted(times)[int(len(times) * 0.99)] for name, times in found.items()}

    def close(self) -> None:
        for process in (self.honest, self.process):
            process.kill()
            process.wait()


@pytest.fixture
def controller(data_dir: Path, template: tuple[Path, InitResult], tmp_path: Path) -> Iterator[Controller]:
    raise_limit()
    made = Controller(data_dir, template[1], tmp_path / "log")
    yield made
    made.close()


async def hold(port: int, kind: Kind, until: asyncio.Event) -> None:
    """Keeps them up: what the controller closes is begun anew, RATE a second at most (a flood of handshakes is another matter)."""
    addresses = sources()
    loop = asyncio.get_running_loop()
    free = loop.time()

    async def turn() -> None:
        nonlocal free
        free = max(free, loop.time()) + GROUP / RATE
        await asyncio.sleep(free - loop.time())

    async def group() -> None:
        while not until.is_set():
            await turn()
            async with HalfOpen(port, kind, GROUP, addresses) as held:
                ended, stop = asyncio.create_task(held.all_ended()), asyncio.create_task(until.wait())
                await asyncio.wait((ended, stop), return_when=asyncio.FIRST_COMPLETED)
                for task in (ended, stop):
                    task.cancel()

    await asyncio.gather(*(group() for _ in range(COUNT // GROUP)))


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_two_thousand_for_a_minute(
    controller: Controller, kind: Kind, record_property: Callable[[str, object], None]
) -> None:
    quiet = await asyncio.to_thread(controller.slowest, QUIET)
    before = controller.memory()
    over = asyncio.Event()
    gc.disable()
    holding = asyncio.create_task(hold(controller.port, kind, over))
    await asyncio.sleep(10)  # until all are up
    meanwhile = await asyncio.to_thread(controller.slowest, SECONDS)
    highest = controller.memory()
    over.set()
    await holding
    gc.enable()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(150):
            while controller.memory() > 1.2 * before:  # noqa: ASYNC110 - another process's
                await asyncio.sleep(1)
    record_property(
        "p99 (ms)", ", ".join(f"{n} {quiet[n] * 1e3:.0f}, meanwhile {meanwhile[n] * 1e3:.0f}" for n in quiet)
    )
    record_property(
        "memory (MB)", f"{before // 1000}, at last {highest // 1000}, after it {controller.memory() // 1000}"
    )
    for name, seconds in meanwhile.items():
        assert seconds <= max(2 * quiet[name], NOISE), (name, quiet, meanwhile)
    assert controller.memory() <= 1.2 * before, (before, highest, controller.memory())
    assert len(controller.log.read_text().splitlines()) < 20
