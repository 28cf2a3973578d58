"""What the reports of 5,000 clients cost the controller: CPU time, every client with news each 30 s."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from shadowmesh.controller.service.limits import Limiter
from shadowmesh.controller.service.reports import REPORT_EVERY
from shadowmesh.controller.store import schema
from shadowmesh.model.devicelink import Health, PeerHealth
from shadowmesh.model.ids import ClientID

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from tests.controller.conftest import World

CLIENTS, HERE, AT_ONCE = 5000, 500, 83  # in all, of them here, and in one write: what comes within half a second


@pytest.mark.prove
@pytest.mark.parametrize(("peers", "share"), [(10, 0.1), (50, 0.2)])
async def test_reports_of_thousands_are_a_small_part_of_a_core(
    world: World, record_property: Callable[[str, object], None], peers: int, share: float
) -> None:
    """Each names so many peers, all of them with bytes: 50 is the most that a report holds."""
    network = await world.network()
    await world.member(name="first")
    names = [ClientID(f"cli_{n:020}") for n in range(HERE)]
    ref = await world.at.context.write(lambda conn: like_the_first(conn, names))
    head = SimpleNamespace(reports="full", relays=())
    live: Any = SimpleNamespace(ref=ref, map=SimpleNamespace(head=head, entries=dict.fromkeys(names)))
    reports = world.at.reports
    costs = []
    for turn in range(5):
        told = [report(network.network_id, names, n, peers, turn) for n in range(HERE)]
        reports._allowed = Limiter(4, 15.0)
        began = time.process_time()
        for at in range(0, HERE, AT_ONCE):
            for name, one in list(zip(names, told, strict=True))[at : at + AT_ONCE]:
                reports.take(live, name, one)
            await reports.flush()
        costs.append((time.process_time() - began) / HERE)
    cost = sorted(costs)[2]
    record_property("a report (ms)", round(cost * 1000, 3))
    record_property("5,000 clients (% of a core)", round(cost * CLIENTS / REPORT_EVERY * 100, 1))
    stored = sa.select(sa.func.sum(schema.traffic.c.rx_bytes))
    assert await world.at.context.read(lambda conn: conn.execute(stored).scalar()) == HERE * peers * 5 * 1000
    assert cost * CLIENTS / REPORT_EVERY <= share


def like_the_first(conn: Connection, names: list[ClientID]) -> str:
    first = dict(conn.execute(sa.select(schema.clients)).mappings().one())
    rows = [
        first | {"id": name, "name": f"c{n}", "ip": first["ip"] + n + 1, "wg_key": os.urandom(32), "device_key": os.urandom(32)}
        for n, name in enumerate(names)
    ]  # fmt: skip
    conn.execute(schema.clients.insert(), rows)
    return str(first["network_ref"])


def report(network_id: Any, names: list[ClientID], number: int, peers: int, turn: int) -> Health:
    told = tuple(
        PeerHealth(
            peer=names[(number + n + 1) % HERE], reason="direct.punched", rx_bytes=1000, tx_bytes=77, latency_ms=3.0
        )
        for n in range(peers)
    )
    return Health(network_id=network_id, nat="port_restricted", peers=told, direct=peers, relayed=0, whole=turn == 0)
