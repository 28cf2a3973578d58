"""The log of connections and the topology, by REST: whose lines one sees, how they are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from people import Person, person
from test_reports import client_id, health, mesh, old_lines, peer, say, timing

from shadowmesh.model import api
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import new_id

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

__all__ = ["timing"]  # a fixture


async def lines(who: Person, **filters: Any) -> list[tuple[str, str, str]]:
    """Client, peer and type of each."""
    query = "&".join(f"{name}={value}" for name, value in ({"source": "client"} | filters).items())
    answer = await who.ask("GET", f"/networks/office/logs?{query}")
    assert answer.status_code == 200, answer.text
    return [(r["client_name"], r["remote_peer_name"], r["event_type"]) for r in answer.json()["items"]]


async def own(world: World, who: Person, name: str) -> Device:
    """A machine that belongs to this person."""
    device = world.device()
    invite = (await who.ask("POST", "/networks/office/invites", {})).json()["invite"]
    await device.join(invite, name=name)
    return await (await device.connect()).settled()


async def talked(world: World, a: Device, b: Device) -> None:
    """Both say that they went from relay to direct, 20 s ago by `a`'s clock."""
    for one, other in ((a, b), (b, a)):
        way = peer(client_id(other), "none.idle", "relay.upgrading", "direct.punched", latency_ms=9.5)
        await say(world, one, health(one, way, latency_ms=9.5))


async def test_a_line_says_all_that_is_known_of_a_change(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    line = (await world.call("log", "office", source="client"))[1]
    assert (line.client_id, line.client_name, line.remote_peer_id, line.remote_peer_name) == (
        client_id(a), "a", client_id(b), "b",
    )  # fmt: skip
    assert (line.event_type, line.connection_type, line.path, line.reason, line.latency_ms) == (
        "upgrade_p2p", "p2p", "direct", "direct.punched", 9.5,
    )  # fmt: skip
    assert abs(world.at.context.now() - line.timestamp) < dt.timedelta(seconds=10)


async def test_of_others_machines_only_who_sees_them_hears(world: World) -> None:
    """`connection_upgrade` is in the log that a member sees of their own machines alone; so it is as an event."""
    await world.network()
    ann, bob = await person(world, "ann", {"office": "member"}), await person(world, "bob", {"office": "member"})
    olga, gus = await person(world, "olga", {"office": "owner"}), await person(world, "gus", {"office": "guest"})
    a, b = await own(world, ann, "a"), await own(world, bob, "b")
    expected = [(ann, [client_id(a)]), (bob, [client_id(b)]), (olga, [client_id(a), client_id(b)]), (gus, [])]
    async with contextlib.AsyncExitStack() as watching:
        live = {}
        for who in (ann, bob, olga, gus):
            live[who.email] = await watching.enter_async_context(who.watching())
        await talked(world, a, b)
        await world.at.events.flush()
        await world.call("network_set", "office", api.NetworkPatch(description="the last"))
        for who, clients in expected:
            watch = live[who.email]
            await watch.until("network_changed", change="set")
            told = [m for m in watch.told if m["type"] == "connection_upgrade"]
            assert [m["client_id"] for m in told] == clients, who.email
            assert all(set(m["data"]) == {"peer_id", "reason"} and "owner" not in m for m in told)
            async with who.watching(network_id="office", since=0) as missed:
                await missed.until("network_changed", change="set")
                again = [m["client_id"] for m in missed.told if m["type"] == "connection_upgrade"]
            listed = (await who.ask("GET", "/events")).json()["items"]
            assert again == clients == [e["client_id"] for e in listed if e["type"] == "connection_upgrade"]
            assert all("owner" not in e and "owner_id" not in e["data"] for e in listed)


async def test_a_member_sees_what_their_own_machines_said_in_every_form(world: World) -> None:
    await world.network()
    ann, bob = await person(world, "ann", {"office": "member"}), await person(world, "bob", {"office": "member"})
    owner, guest = await person(world, "olga", {"office": "owner"}), await person(world, "gus", {"office": "guest"})
    hers, his = await own(world, ann, "hers"), await own(world, bob, "his")
    await talked(world, hers, his)
    mine = [("hers", "his", "connect"), ("hers", "his", "upgrade_p2p")]
    theirs = [("his", "hers", "connect"), ("his", "hers", "upgrade_p2p")]
    assert await lines(owner) == mine + theirs
    assert await lines(ann) == await lines(ann, client="hers", peer="his") == await lines(ann, client="hers") == mine
    assert await lines(bob) == theirs
    for query in ({"client": "his"}, {"peer": "hers"}, {"client": client_id(his)}):
        assert await lines(ann, **query) == []
    assert (await guest.ask("GET", "/networks/office/logs")).status_code == 403
    seen = {
        who.email.split("@")[0]: [
            [view["client_id"] for view in pair["views"]]
            for pair in (await who.ask("GET", "/networks/office/topology")).json()["pairs"]
        ]
        for who in (owner, ann, bob, guest)
    }
    both = sorted([client_id(hers), client_id(his)])
    assert seen == {"olga": [both], "ann": [[client_id(hers)]], "bob": [[client_id(his)]], "gus": []}


async def test_lines_are_chosen_by_client_peer_time_and_type(world: World) -> None:
    a, b, c = await mesh(world, "a", "b", "c")
    root = await person(world, "root", admin=True)
    await old_lines(world, a, [0.5])
    await talked(world, a, b)
    world.clock.advance(minutes=8)
    await say(world, a, health(a, peer(client_id(c), "none.idle", "relay.no_answer")))
    ab, ba = ("a", "b"), ("b", "a")
    assert await lines(root, client="a", type="connect") == [
        ("a", "", "connect"),
        (*ab, "connect"),
        ("a", "c", "connect"),
    ]
    assert await lines(root, client="a", peer="b", type="upgrade_p2p") == [(*ab, "upgrade_p2p"), (*ba, "upgrade_p2p")]
    assert await lines(root, client="b", peer="a") == await lines(root, client="a", peer="b")
    assert await lines(root, peer=client_id(c)) == [("a", "c", "connect")]
    half = (world.at.context.now() - dt.timedelta(minutes=4)).isoformat().replace("+", "%2B")
    assert await lines(root, since=half) == [("a", "c", "connect")]
    assert len(await lines(root, until=half)) == 5 and await lines(root, since=half, until=half) == []
    for wrong in ("client=nobody", f"client={new_id('cli')}", "peer=nobody"):
        answer = await root.ask("GET", f"/networks/office/logs?{wrong}")
        assert (answer.status_code, answer.json()["code"]) == (404, "client_unknown")
    for wrong in ("since=yesterday", "since=5", "since=2026-01-01", "since=2026-01-01T00:00:00", "type=x", "cursor=x"):
        assert (await root.ask("GET", f"/networks/office/logs?{wrong}")).status_code in (400, 422), wrong
    for edge in ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T00:00:00Z"):
        assert (await root.ask("GET", f"/networks/office/logs?since={edge}&until={edge}")).status_code == 200, edge


async def test_a_line_of_long_ago_doesnt_hide_one_of_now(world: World) -> None:
    (a,) = await mesh(world, "a")
    root = await person(world, "root", admin=True)
    await old_lines(world, a, [30.0] * 3 + [1.9, 0.9, 0.1])
    since = (world.at.context.now() - dt.timedelta(days=1)).isoformat().replace("+", "%2B")
    assert len(await lines(root, since=since)) == 2 and len(await lines(root)) == 6


async def test_lines_page_and_can_be_followed_without_loss(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    root = await person(world, "root", admin=True)
    found: list[int] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = (await root.ask("GET", f"/networks/office/logs?source=client&limit=1&cursor={cursor}")).json()
        found += [line["log_id"] for line in page["items"]]
        cursor = page["next"]
    assert len(found) == 4 and found == sorted(found)
    assert await world.call("log", "office", source="client", after=found[-1]) == []
    await say(world, a, health(a, peer(client_id(b), "direct.punched", "relay.path_lost")))
    (line,) = await world.call("log", "office", source="client", after=found[-1])
    assert line.event_type == "fallback_relay"


async def test_what_a_removed_client_said_stays_under_its_id(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await talked(world, a, b)
    await world.call("client_remove", "office", "a")
    assert len(await world.call("log", "office", source="client", client=client_id(a), peer=client_id(b))) == 4
    assert (await world.call("topology", "office")).pairs == []


async def test_the_topology_is_the_whole_network(world: World) -> None:
    a, b, _ = await mesh(world, "a", "b", "c", reports="full")
    way = peer(client_id(b), "none.idle", "direct.punched", latency_ms=9.5, rx_bytes=1000, tx_bytes=5)
    await say(world, a, health(a, way, latency_ms=9.5, capabilities=("udp",)))
    await say(world, b, health(b, peer(client_id(a), "none.idle", "relay.no_answer", latency_ms=40.0), latency_ms=40.0))
    (shown,) = [client for client in await world.call("client_list", "office") if client.name == "a"]
    assert (shown.connection_type, shown.latency_ms, shown.nat_type) == ("p2p", 9.5, "port_restricted")
    found = await world.call("topology", "office")
    assert (found.name, found.reports, found.controllers, found.relays) == ("office", "full", [world.url], [])
    assert [(x.name, x.online, x.connection_type, x.nat_type) for x in found.clients] == [
        ("a", True, "p2p", "port_restricted"), ("b", True, "relay", "port_restricted"), ("c", True, None, None),
    ]  # fmt: skip
    assert found.clients[0].capabilities == ["udp"] and found.clients[0].latency_ms == 9.5
    (pair,) = found.pairs
    assert sorted(pair.client_ids) == sorted([client_id(a), client_id(b)])
    assert (pair.connection_type, pair.latency_ms) == ("hybrid", 9.5)
    views = {v.client_id: (v.connection_type, v.reason, v.latency_ms, v.rx_bytes, v.tx_bytes) for v in pair.views}
    assert views == {
        client_id(a): ("p2p", "direct.punched", 9.5, 1000, 5),
        client_id(b): ("relay", "relay.no_answer", 40.0, None, None),
    }
    world.clock.advance(days=2)
    assert (await world.call("topology", "office")).pairs == []


async def test_the_topology_around_one_client_has_its_pairs_alone(world: World) -> None:
    a, b, c = await mesh(world, "a", "b", "c")
    await mesh_of(world, a, b)
    await mesh_of(world, b, c)
    found = await world.call("topology", "office", "a")
    assert [x.name for x in found.clients] == ["a", "b"]
    assert [sorted(p.client_ids) for p in found.pairs] == [sorted([client_id(a), client_id(b)])]
    around = await world.call("topology", "office", client_id(b))
    assert [x.name for x in around.clients] == ["a", "b", "c"] and len(around.pairs) == 2
    with pytest.raises(ShadowMeshError) as unknown:
        await world.call("topology", "office", "nobody")
    assert unknown.value.code == "client_unknown"


async def mesh_of(world: World, one: Device, other: Device) -> None:
    """They are connected directly, as both say."""
    for device, its_peer in ((one, other), (other, one)):
        await say(world, device, health(device, peer(client_id(its_peer), "direct.lan", latency_ms=1.0), whole=False))


@pytest.mark.lab
async def test_what_is_reported_to_one_node_is_known_to_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = await person(one, "ann", {"office": "member"})
    a, b = await own(one, ann, "a"), await two.member(name="b")
    for device in (a, b):  # and so their nodes
        await device.until_map(lambda netmap: len(netmap.members) == 2)
    way = peer(client_id(b), "none.idle", "relay.upgrading", "direct.punched", latency_ms=9.5)
    await say(one, a, health(a, way, latency_ms=9.5))
    await say(two, b, health(b, peer(client_id(a), "none.idle", "relay.upgrading", latency_ms=30.0)))
    await one.at.reports.flush()
    for world in nodes:
        (pair,) = (await world.call("topology", "office")).pairs
        assert {view.reason for view in pair.views} == {"direct.punched", "relay.upgrading"}
        kinds = {client.name: client.connection_type for client in (await world.call("topology", "office")).clients}
        assert kinds == {"a": "p2p", "b": "relay"}
        assert [line.event_type for line in await world.call("log", "office", source="client")] == [
            "connect",
            "upgrade_p2p",
            "connect",
        ]
        await world.at.events.flush()
        await world.at.events.catch_up()
        events = await world.call("events", 0, "office")
        assert [e.data["peer_id"] for e in events if e.type == "connection_upgrade"] == [client_id(b)]
        hers = (await dataclasses.replace(ann, world=world).ask("GET", "/events")).json()["items"]
        assert [e["client_id"] for e in hers if e["type"] == "connection_upgrade"] == [client_id(a)]
    await one.call("network_set", "office", api.NetworkPatch(reports="off"))
    assert (await two.call("topology", "office")).pairs == []
