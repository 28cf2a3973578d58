"""The whole log of a network, with what controller and relays did, and the audit log: as files to keep."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sqlite3
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from people import Person, person
from test_connections import own, talked
from test_reports import client_id, mesh, timing

from shadowmesh.client_api.exports import csv_text
from shadowmesh.controller.store import schema
from shadowmesh.model.ids import NetworkRef, RelayID

if TYPE_CHECKING:
    from tests.controller.conftest import World

__all__ = ["timing"]  # a fixture


async def verb(world: World, *arguments: str, who: Person | None = None) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; as an administrator of this host, or as somebody signed in."""
    more = ("--data-dir", str(world.data_dir)) if who is None else ()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHADOWMESH_")}
    if who is not None:
        environment |= {
            "SHADOWMESH_CONTROLLER": world.url, "SHADOWMESH_TOKEN": who.token, "SHADOWMESH_FINGERPRINT": world.fingerprint,
        }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shadowmesh", *arguments, *more, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def relay_row(world: World, name: str) -> str:
    relay = {
        "id": f"rly_{name}",
        "name": name,
        "key": name.encode().ljust(32),
        "url": "ws://192.0.2.1:9545",
        "region": "",
    }
    row = relay | {"version": "", "draining": False, "created_at": world.at.context.now()}
    await world.at.context.write(lambda conn: conn.execute(schema.relays.insert().values(row)))
    return RelayID(relay["id"])


async def log(world: World, **filters: Any) -> list[Any]:
    found: list[Any] = await world.call("log", "office", **filters)
    return found


async def test_what_controller_and_relays_did_is_in_the_log_in_the_order_in_which_it_happened(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    await relay_row(world, "hub")
    await world.call("relay_drain", "hub")
    await world.call("client_remove", "office", "b")
    await world.at.events.flush()
    found = await log(world)
    assert [line.log_id for line in found] == sorted(line.log_id for line in found)
    kinds = [(line.source, line.event_type) for line in found]
    assert kinds[0] == ("controller", "network_changed") and ("controller", "client_online") in kinds
    assert kinds.index(("client", "upgrade_p2p")) < kinds.index(("relay", "relay_changed"))
    assert kinds.index(("relay", "relay_changed")) < kinds.index(("controller", "client_removed"))
    (drained,) = await log(world, source="relay")
    assert (drained.relay_name, drained.detail, drained.client_id) == ("hub", {"change": "draining"}, "")
    (removed,) = await log(world, event_type="client_removed")
    assert removed.client_id == client_id(b) and removed.detail["reason"] == "removed"
    assert {line.source for line in await log(world, client=client_id(b))} == {"client", "controller"}
    assert {line.source for line in await log(world, peer=client_id(b))} == {"client"}
    pages, cursor = [], 0
    while page := (await world.call("log", "office", after=cursor))[:2]:
        pages += page
        cursor = page[-1].log_id
    assert pages == found, "followed by number nothing is missing and nothing comes twice"


async def test_a_network_with_a_relay_of_its_own_hears_of_that_one_alone(world: World) -> None:
    await world.network()
    for name in ("hub", "far"):
        await relay_row(world, name)
    n = schema.networks
    await world.at.context.write(lambda conn: conn.execute(n.update().values(relay_id="rly_hub")))
    for name in ("hub", "far"):
        await world.call("relay_drain", name)
    await world.at.events.flush()
    assert [line.relay_name for line in await log(world, source="relay")] == ["hub"]


async def test_a_members_file_has_the_lines_of_their_own_machines_alone_in_every_form(
    world: World, tmp_path: Path
) -> None:
    await world.network()
    ann, bob = await person(world, "ann", {"office": "member"}), await person(world, "bob", {"office": "member"})
    olga = await person(world, "olga", {"office": "owner"})
    hers, his = await own(world, ann, "hers"), await own(world, bob, "his")
    await talked(world, hers, his)
    await relay_row(world, "hub")
    await world.call("relay_drain", "hub")
    await world.at.events.flush()
    for suffix in ("jsonl", "csv", "db"):
        for who in (ann, olga):
            file = tmp_path / f"{who.email}.{suffix}"
            code, out, err = await verb(world, "logs", "office", "--export", str(file), who=who)
            assert code == 0, err
            clients = {row["client_id"] for row in read(file, "logs")}
            assert clients == ({client_id(hers)} if who is ann else {client_id(hers), client_id(his), ""})
            assert out.strip() == f"{file}: {len(read(file, 'logs'))} lines"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, _, err = await verb(world, "audit", "export", str(tmp_path / "audit.csv"), who=olga)
    assert code == 4 and not (tmp_path / "audit.csv").exists()


def read(file: Path, table: str) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".csv":
        with file.open(newline="") as opened:
            return list(csv.DictReader(opened))
    with sqlite3.connect(file) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]


def test_what_a_spreadsheet_takes_for_a_formula_is_text() -> None:
    assert csv_text(["=1", "＝1", "＋1", "－1", "＠x", "a=1", ""]) == "'=1,'＝1,'＋1,'－1,'＠x,a=1,"


async def test_the_audit_log_as_a_file_is_what_the_list_shows(world: World, tmp_path: Path) -> None:
    await world.network(description="=cmd|' /C calc'!A0")
    listed = json.loads((await verb(world, "audit", "list", "--json"))[1])["entries"]
    for suffix in ("jsonl", "csv", "db"):
        code, out, _ = await verb(world, "audit", "export", str(tmp_path / f"audit.{suffix}"), "--json")
        assert code == 0 and json.loads(out)["lines"] == len(listed)
        found = read(tmp_path / f"audit.{suffix}", "audit")
        assert [(int(e["seq"]), e["action"], e["hash"]) for e in found] == [
            (e["seq"], e["action"], e["hash"]) for e in listed
        ]
        details = [e["detail"] if suffix == "jsonl" else json.loads(e["detail"]) for e in found]
        assert details == [e["detail"] for e in listed]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("log.txt",), 2, "end it in .jsonl, .csv or .db"),
        (("there.csv",), 6, "is there already"),
        (("nowhere/log.csv",), 1, "can't be written"),
        (("log.csv", "--follow"), 2, "--follow or --export"),
        (("log.csv", "--format", "xml"), 2, "lines or csv or sqlite"),
    ],
)
async def test_a_file_that_cant_be_written_is_said_in_a_line(
    world: World, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    await world.network()
    (tmp_path / "there.csv").write_text("mine")
    file, *more = arguments
    found, _, err = await verb(world, "logs", "office", "--export", str(tmp_path / file), *more)
    assert found == code and says in err and len(err.splitlines()) == 1
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert [name for name in ("log.txt", "log.csv", ".log.csv.part") if (tmp_path / name).exists()] == []


async def test_lines_of_a_controller_are_kept_as_long_as_those_of_clients(world: World) -> None:
    from shadowmesh.controller.service.retention import forget_old

    ref = NetworkRef((await world.network()).network_id)
    now, old = world.at.context.now(), []
    for days in (91, 91, 89):
        world.clock.advance(days=-days)
        old.append(world.clock())
        world.at.events.publish("network_changed", ref, change="set", fields=["description"])
        await world.at.events.flush()
        world.clock.advance(days=days)
    await forget_old(world.at.context)
    t = schema.controller_logs
    kept = await world.at.context.read(
        lambda conn: conn.execute(sa.select(t.c.timestamp).order_by(t.c.timestamp)).all()
    )
    assert old[-1] <= kept[0].timestamp < now
