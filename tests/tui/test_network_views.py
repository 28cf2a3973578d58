"""Topology, relays and usage without a screen: what is shown together, where it stands, sums and what breaks."""

from __future__ import annotations

import time
from itertools import pairwise

import network_scenarios as networks
import pytest
from rich.cells import cell_len

from shadowmesh.model.api import Relay
from shadowmesh_tui.console.relayrows import relay_rows, what_breaks
from shadowmesh_tui.console.series import RelayRate
from shadowmesh_tui.console.table import Order
from shadowmesh_tui.console.used import Used, UsedOf, bar, month_before, used_lines
from shadowmesh_tui.console.wholenetwork import (
    around,
    capacity,
    chart,
    clients_of,
    condense,
    draw,
    matching,
    most_lines,
)

FIELDS = [(80, 17), (120, 33), (60, 12), (200, 50)]


@pytest.mark.parametrize(("width", "height"), FIELDS)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 33, 100, 500])
def test_each_client_is_in_the_picture_once_on_a_row_of_its_own(width: int, height: int, count: int) -> None:
    topology = networks.many(count)
    condensed = condense(topology, capacity(height))
    found = chart(condensed, width, height)
    assert len(found.order) <= capacity(height)
    seen = [client for node in found.order for client in clients_of(condensed, [node])]
    assert sorted(seen) == sorted(c.client_id for c in topology.clients)
    spots = [found.spots[node] for node in found.order]
    assert len({(spot.side, spot.y) for spot in spots}) == len(spots)
    for spot in found.spots.values():
        assert 0 <= spot.y < height and 0 <= spot.x < width
    drawn = draw(found, (0, 0), width, height, None)
    rows = drawn.canvas.rows()
    assert len(rows) == height and all(sum(cell_len(part) for part, _ in row) == width for row in rows)
    if count:
        named = {node for _, _, node in drawn.places}
        assert set(found.order) <= named
        assert drawn.shown <= max(most_lines(width, height), 0) and drawn.all == len(condensed.topology.pairs)


def test_no_pair_is_forgotten_where_clients_stand_together() -> None:
    topology = networks.many(300)
    condensed = condense(topology, 34)
    counted = [*condensed.bundles.values(), *condensed.inside.values()]
    kinds = [pair.connection_type for pair in topology.pairs]
    assert [sum(c[i] for c in counted) for i in range(3)] == [kinds.count("p2p"), kinds.count("relay"), 0]
    moved = sum((v.rx_bytes or 0) + (v.tx_bytes or 0) for p in condensed.topology.pairs for v in p.views)
    inside = {n for node in condensed.inside for n in condensed.members[node]}
    across = [p for p in topology.pairs if condensed.node_of(p.client_ids[0]) != condensed.node_of(p.client_ids[1])]
    assert moved == sum((v.rx_bytes or 0) + (v.tx_bytes or 0) for p in across for v in p.views) and inside


def test_a_group_is_of_one_home_relay_and_who_is_looked_for_stands_apart() -> None:
    topology = networks.many(500)
    relay = {c.client_id: c.relay for c in topology.clients}
    found = matching(topology, "host-0123")
    condensed = condense(topology, 34, found)
    assert found and found <= {c.client_id for c in condensed.topology.clients}
    for members in condensed.members.values():
        assert len({relay[client] for client in members}) == 1
    assert condensed.node_of(condensed.node_of("cli_0007")) == condensed.node_of("cli_0007")


def test_more_rows_bring_clients_apart() -> None:
    topology = networks.many(500)
    sizes = [len(condense(topology, capacity(rows)).topology.clients) for rows in (17, 34, 68, 136, 260)]
    assert all(a < b for a, b in pairwise(sizes)) and sizes[-1] == 500


def test_around_a_client_are_its_pairs_alone() -> None:
    near = around(networks.few(), {"cli_0003"})
    assert {c.client_id for c in near.clients} == {"cli_0003", "cli_0004", "cli_0005"}
    assert all("cli_0003" in pair.client_ids for pair in near.pairs) and len(near.pairs) == 2
    assert {r.name for r in near.relays} == {"eu-1", "us-east"}


def test_a_relayed_line_goes_by_its_relay_and_is_dashed_and_a_busy_one_is_heavy() -> None:
    found = chart(condense(networks.few(), 34), 120, 33)
    lines = {line.ends: line for line in found.lines if line.kind != "home"}
    relay = found.spots["rly_0001"]
    assert lines["cli_0003", "cli_0004"].cells[1] == (relay.x, relay.y)
    assert lines["cli_0003", "cli_0004"].kind == "relay" and len(lines["cli_0001", "cli_0002"].cells) == 2
    assert lines["cli_0001", "cli_0002"].heavy and not lines["cli_0001", "cli_0004"].heavy
    styles = [lines["cli_0001", end].style for end in ("cli_0002", "cli_0004")]
    assert styles == ["latency 1", "latency 2"] and lines["cli_0003", "cli_0005"].style == "latency 4"


def test_walking_reaches_everybody() -> None:
    found = chart(condense(networks.few(), 34), 80, 17)
    node, seen = found.step(None, 1), set[str | None]()
    for _ in found.order:
        seen.add(node)
        node = found.step(node, 1)
    assert seen == set(found.order)
    right = found.towards("cli_0005", 1, 0)
    assert right is not None and found.spots[right].x > found.spots["cli_0005"].x
    assert found.towards("cli_0001", 0, 1) == "cli_0002"


def test_five_hundred_are_drawn_at_once() -> None:
    topology = networks.many(500)
    started = time.process_time()
    found = chart(condense(topology, capacity(33)), 120, 33)
    draw(found, (0, 0), 120, 33, found.order[0])
    assert time.process_time() - started < 1.0


# relays


def test_what_a_relay_forwards_is_the_difference_of_two_reports() -> None:
    rate = RelayRate()
    reports = [(0, 1000), (5, 6000), (5, 9000), (10, 500), (15, 1000)]
    seen = []
    for at, count in reports:
        relay = networks.relay(1, "eu-1", forwarded=count)
        assert relay.load is not None
        load = relay.load.model_copy(update={"at": networks.NOW + networks.dt.timedelta(seconds=at)})
        rate.observe(relay.model_copy(update={"load": load}))
        seen.append(rate.now)
    assert seen == [None, 1000.0, 1000.0, None, 100.0], "told twice is told once; after a start it counts anew"


def test_what_breaks_is_said() -> None:
    console = networks.relays(networks.scenarios.office())
    console.networks["net_0001"] = console.networks["net_0001"].model_copy(update={"relay": "eu-1"})
    rows = {row.relay.name: row for row in relay_rows(console, "", Order())}
    drained = what_breaks(rows["eu-1"], rows.values(), removed=False)
    assert "40 clients go to others" in drained and "acme-prod may use it only: pairs there" in drained
    assert "after that, any" in what_breaks(rows["eu-1"], rows.values(), removed=True)
    alone = [row for row in rows.values() if not row.relay.online or row.relay.draining or row.relay.name == "eu-1"]
    assert "No other relay is in use" in what_breaks(rows["eu-1"], alone, removed=False)
    assert [row.state for row in rows.values()] == ["overloaded", "online", "away", "draining", "online"]


def test_a_relay_of_which_little_is_told_is_a_line_too() -> None:
    console = networks.scenarios.office()
    console.take_relays([Relay(id="r", name="bare", key="A", draining=False, online=True, created_at=networks.NOW)])
    (row,) = relay_rows(console, "bare", Order())
    assert row.clients is None and row.state == "online"


# usage


def test_use_is_summed_up_and_beside_the_plan() -> None:
    used = networks.used().used[UsedOf("net_0001")]
    order = Order("counted", descending=True)
    by_user = {line.name: line for line in used_lines(used, "user", "month", "", order)}
    assert by_user["anna@example.org"].counted == 65 * 10**8 * 3 + 15 * 10**9
    assert sum(line.counted for line in by_user.values()) == 83 * 10**9
    assert by_user["anna@example.org"].percent == 34
    (network,) = used_lines(used, "network", "month", "", order)
    assert network.percent == 83 and network.share == pytest.approx(0.83)
    clients = used_lines(used, "client", "month", "server anna", order)
    assert [line.name for line in clients] == ["server-2", "server-1"]


def test_days_are_lines_of_their_own_the_newest_first() -> None:
    used = networks.used().used[UsedOf("net_0001", None, "day")]
    lines = used_lines(used, "network", "day", "", Order("at", descending=True))
    assert [line.at for line in lines][:2] == ["2026-03-14", "2026-03-13"] and len(lines) == 14
    assert all(line.percent is None for line in lines)
    assert used_lines(Used([], {}), "client", "hour", "", Order()) == []


def test_months_and_bars() -> None:
    assert [month_before("2026-01"), month_before("2026-12", -1), month_before("2026-03", 0)] == [
        "2025-12", "2027-01", "2026-03",
    ]  # fmt: skip
    assert [bar(part, 4) for part in (0.0, 0.001, 0.5, 1.0)] == ["────", "█───", "██──", "████"]
