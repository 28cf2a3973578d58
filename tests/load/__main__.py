"""`make load`: a controller with thousands of members, on this machine. `python tests/load --help` says what it takes."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from load_run import measure


def main(
    members: Annotated[list[int], typer.Option("--members", "-n", help="sizes of the network, one run each")] = [5000],  # noqa: B006
    whole: Annotated[int, typer.Option(help="how many members verify, apply and keep what comes")] = 50,
    sustained: Annotated[float, typer.Option(help="seconds of 20 joins a second")] = 10.0,
    output: Annotated[Path | None, typer.Option("--json", help="a file for all figures")] = None,
) -> None:
    """Fills a network with real links and measures what changes cost its controller."""
    found = {}
    for number in members:
        found[number] = asyncio.run(measure(number, min(whole, number), sustained=sustained))
        for name, value in found[number].items():
            print(f"  {name:32} {value:10.2f}")
    if output is not None:
        output.write_text(json.dumps(found, indent=1))


typer.run(main)
