"""`make load`: a controller with thousands of members, on this machine. `python tests/load --help` says what it takes."""

import asyncio
import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

sys.path.append(str(Path(__file__).parents[1] / "controller"))  # as pytest has it

from load_report import Run, failures, table
from load_run import measure
from pgserver import Server


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database in a server of our own."""
    server = Server(Path("/tmp") / f"shadowmesh-load-pg-{os.getpid()}")
    server.init()
    server.start()
    try:
        yield f"postgresql://shadowmesh@/postgres?host={server.base}"
    finally:
        server.stop()
        server.remove()


def main(
    members: Annotated[list[int] | None, typer.Option("--members", "-n", help="size of the network; repeats")] = None,
    whole: Annotated[int, typer.Option(help="how many members verify, apply and keep what comes")] = 50,
    sustained: Annotated[float, typer.Option(help="seconds of 20 joins a second")] = 10.0,
    nodes: Annotated[
        int,
        typer.Option(
            help="of the controller, on a PostgreSQL that is started for it; several are held against one there, measured first"
        ),
    ] = 0,
    output: Annotated[Path | None, typer.Option("--json", help="a file for all figures")] = None,
) -> None:
    """Fills networks of 100, 1,000 and 5,000 with real links and measures what changes cost their controller.

    Ends with 1 if a gate isn't met: these are CPU, memory and counts, which hold on a busy machine.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    runs: list[Run] = []
    for number in members or (100, 1000, 5000):
        for count in (1, nodes) if nodes > 1 else (nodes,):
            with postgresql() if count else contextlib.nullcontext() as url:
                run = measure(number, min(whole, number), sustained=sustained, nodes=count or 1, database_url=url)
                runs.append(Run(number, count, asyncio.run(run)))
            if output is not None:
                output.write_text(json.dumps({run.title: run.figures for run in runs}, indent=1))
    print(table(runs))
    missed = failures(runs)
    for line in missed:
        print(line)
    sys.exit(1 if missed else 0)


typer.run(main)
