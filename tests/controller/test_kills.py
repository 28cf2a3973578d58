"""`kill -9` of a controller at seeded moments, while people, machines and relays have it change things.

What it answered is there; what it hadn't is there whole or not at all, and done once when it is asked for again.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freeport import free_port
from killload import Load
from pgserver import empty
from sqlalchemy.engine import URL

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.initialise import InitOptions, InitResult, init
from shadowmesh.controller.store.database import database_url, make_engine

if TYPE_CHECKING:
    Starter = Callable[[], "subprocess.Popen[str]"]

MOST = 40  # answers before a kill
PROOF = [pytest.mark.prove, pytest.mark.slow, pytest.mark.timeout(3600)]

RUN = """
import sys
from pathlib import Path
from shadowmesh.controller.run import RunOptions, run
listen, url = sys.argv[2], "https://" + sys.argv[2]
run(RunOptions(Path(sys.argv[1]), listen=listen, public_urls=(url,), ready=lambda: print("ready", flush=True)))
"""


class Controller:
    """A controller's process, started again and again on one directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, self.port = data_dir, free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Without waiting until it serves."""
        command = [sys.executable, "-c", RUN, str(self.data_dir), f"127.0.0.1:{self.port}"]
        with (self.data_dir.parent / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        return self.process

    async def ready(self) -> subprocess.Popen[str]:
        process = self.start()
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line == "ready\n", (self.data_dir.parent / "log").read_text()[-2000:]
        return process

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def controllers() -> Iterator[Callable[[Path], Controller]]:
    made: list[Controller] = []

    def make(data_dir: Path) -> Controller:
        made.append(Controller(data_dir))
        return made[-1]

    yield make
    for controller in made:
        controller.end()


async def killed_again_and_again(
    controller: Controller, database: URL, fingerprint: str, seed: int, kills: int
) -> dict[str, Any]:
    chance = random.Random(seed)
    load = Load(controller.data_dir, controller.url, chance)
    process, doubts = await controller.ready(), 0
    await load.prepare()
    contact = await asyncio.to_thread(first_contact, controller.url, fingerprint)
    for kill in range(kills):
        if kill % 8 == 7:  # while it starts
            controller.end()
            process = controller.start()
            await asyncio.sleep(chance.uniform(0.2, 1.5))
        else:
            await load.run_until_killed(process.pid, chance.randint(4, MOST), chance.uniform(0.0, 0.02))
        controller.end()
        process = await controller.ready()
        doubts += await load.settle()
        await load.check(contact.tls)
        engine = make_engine(database, read_only=True)
        with engine.begin() as conn:
            load.check_rows(conn)
        engine.dispose()
    return {"kills": kills, "answered": load.answers, "in doubt, and asked again": doubts}


@pytest.mark.parametrize(("seed", "kills"), [(1, 1), pytest.param(2, 100, marks=PROOF, id="hundred")])
async def test_what_was_answered_is_there_and_nothing_is_half(
    data_dir: Path,
    template: tuple[Path, InitResult],
    controllers: Callable[[Path], Controller],
    seed: int,
    kills: int,
    record_property: Any,
) -> None:
    found = await killed_again_and_again(
        controllers(data_dir), database_url(None, data_dir / "controller.db"), template[1].fingerprint, seed, kills
    )
    for name, value in found.items():
        record_property(name, str(value))
    assert found["answered"] >= 3 * kills


@pytest.mark.parametrize("kills", [pytest.param(100, marks=PROOF, id="hundred")])
async def test_on_postgresql_too(
    postgres: str, tmp_path: Path, controllers: Callable[[Path], Controller], kills: int, record_property: Any
) -> None:
    url = database_url(postgres, tmp_path)
    engine = make_engine(url)
    empty(engine)
    engine.dispose()
    made = init(InitOptions(tmp_path / "controller", ("https://127.0.0.1:18443",), database_url=postgres))
    found = await killed_again_and_again(controllers(tmp_path / "controller"), url, made.fingerprint, 3, kills)
    for name, value in found.items():
        record_property(name, str(value))
    assert found["answered"] >= 3 * kills
