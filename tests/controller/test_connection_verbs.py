"""`shadowmesh logs` and `topology`: what they print, for people and to keep."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from test_connections import talked
from test_reports import client_id, health, mesh, peer, say, timing

if TYPE_CHECKING:
    from tests.controller.conftest import World

__all__ = ["timing"]  # a fixture


async def verb(world: World, *arguments: str, code: int = 0) -> str:
    """What it prints; where it is refused, why."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shadowmesh",
        *arguments,
        "--data-dir",
        str(world.data_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, told = await process.communicate()
    assert process.returncode == code, told
    return (told if code else out).decode()


async def test_the_log_is_printed_for_people_and_to_keep(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    table = (await verb(world, "logs", "office", "--client", "a", "--peer", "b", "--type", "upgrade_p2p")).splitlines()
    assert [line.split("  ")[-1] for line in table] == ["LATENCY", "9.5 ms", "9.5 ms"]
    document = json.loads(await verb(world, "logs", "office", "--json", "--source", "client"))
    assert document["schema"] == "shadowmesh.logs/1" and len(document["lines"]) == 4
    lines = [
        json.loads(line)
        for line in (await verb(world, "logs", "office", "--source", "client", "--format", "lines")).splitlines()
    ]
    assert lines == document["lines"]
    rows = list(
        csv.DictReader(io.StringIO(await verb(world, "logs", "office", "--source", "client", "--format", "csv")))
    )
    assert [(r["client_id"], r["event_type"]) for r in rows] == [(r["client_id"], r["event_type"]) for r in lines]


async def test_the_log_is_followed(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    command = (
        "-m",
        "shadowmesh",
        "logs",
        "office",
        "--source",
        "client",
        "--follow",
        "--json",
        "--data-dir",
        str(world.data_dir),
    )
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        await say(world, a, health(a, peer(client_id(b), "none.idle", "relay.upgrading")))
        first = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        await say(world, a, health(a, peer(client_id(b), "relay.upgrading", "direct.lan")))
        second = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert (first["event_type"], second["event_type"]) == ("connect", "upgrade_p2p")
    finally:
        process.terminate()
        await process.wait()


async def test_the_topology_is_a_page_and_a_graph(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    page = await verb(world, "topology", "office")
    assert "a - b  p2p   9.5 ms   direct.punched" in page and world.url in page
    graph = await verb(world, "topology", "office", "--dot")
    low, high = sorted([client_id(a), client_id(b)])
    assert f'"{low}" -- "{high}" [style=solid, label="p2p 9.5 ms"];' in graph and graph.startswith("graph ")


async def test_the_topology_is_drawn_into_a_new_file(world: World, tmp_path: Path) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    for name, begins in (("n.svg", b"<svg "), ("n.png", b"\x89PNG"), ("n.dot", b"graph ")):
        said = json.loads(await verb(world, "topology", "office", "--out", str(tmp_path / name), "--json"))
        assert (said["nodes"], said["links"]) == (3, 1)
        assert (tmp_path / name).read_bytes().startswith(begins)
    there = await verb(world, "topology", "office", "--out", str(tmp_path / "n.svg"), code=6)
    assert "is there already" in there
    assert ".svg, .png or .dot" in await verb(world, "topology", "office", "--out", str(tmp_path / "n.gif"), code=2)
