"""What devices report of their connections: what is taken, what is kept of it, what is dropped."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from shadowmesh.client_api.link import LinkRefused
from shadowmesh.controller.service.reports import MOST_BYTES
from shadowmesh.controller.service.retention import forget_old
from shadowmesh.controller.settings import Timing
from shadowmesh.controller.store import schema, sequences
from shadowmesh.model import api
from shadowmesh.model.devicelink import Health, PathChange, PeerHealth
from shadowmesh.model.ids import ClientID, RelayID, new_id
from shadowmesh.model.reasons import connection_type

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World


@pytest.fixture
def timing() -> Timing:
    return Timing(
        join_gather=0.02, presence_gather=0.02, offline_after=0.1, housekeeping=0.1, shutdown_grace=1.0,
        report_gather=0.02,
    )  # fmt: skip


def peer(name: str, *reasons: str, **more: Any) -> PeerHealth:
    """Reached for these reasons, one after another, the first before what is told."""
    changes = tuple(PathChange(ago=len(reasons) - 1 - i, reason=reason) for i, reason in enumerate(reasons))[1:]
    return PeerHealth(peer=ClientID(name), reason=reasons[0], changes=changes, **more)


def health(device: Device, *peers: PeerHealth, **more: Any) -> Health:
    """A report of all that the device is connected with."""
    assert device.answer is not None
    kinds = [connection_type(p.now) for p in peers]
    numbers = {"direct": kinds.count("p2p"), "relayed": kinds.count("relay"), "whole": True}
    return Health(network_id=device.answer.network_id, nat="port_restricted", peers=peers, **(numbers | more))


def client_id(device: Device) -> ClientID:
    assert device.answer is not None
    return device.answer.client_id


async def say(world: World, device: Device, report: Health) -> None:
    """Once it is stored."""
    taken = asyncio.Event()
    take = world.at.reports.take

    def took(*arguments: Any) -> None:
        take(*arguments)
        taken.set()

    world.at.reports.take = took  # type: ignore[method-assign]
    try:
        assert device.link is not None and device.link.post(report)
        async with asyncio.timeout(8):
            await taken.wait()
    finally:
        world.at.reports.take = take  # type: ignore[method-assign]
    await world.at.reports.flush()


async def rows(world: World, table: sa.Table) -> list[Any]:
    query = sa.select(table).order_by(*table.primary_key)
    return await world.at.context.read(lambda conn: list(conn.execute(query)))


async def pairs(world: World) -> list[tuple[str, str, str]]:
    return [(row.client_id, row.peer_id, row.reason) for row in await rows(world, schema.pairs)]


async def of(world: World, device: Device) -> Any:
    found = await world.at.context.read(lambda conn: world.at.reports.of(conn, [client_id(device)]))
    return found[client_id(device)]


async def mesh(world: World, *names: str, **network: Any) -> list[Device]:
    await world.network(**network)
    return [await world.member(name=name) for name in names]


async def test_the_newest_of_client_and_pair_is_kept_and_what_changed_is_in_the_log(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    ours, theirs = client_id(a), client_id(b)
    through = peer(theirs, "none.idle", "relay.upgrading", "direct.punched", "direct.punched", latency_ms=12.5)
    await say(world, a, health(a, through, latency_ms=12.5, capabilities=("udp", "ipv6")))
    known = await of(world, a)
    assert (known.connection_type, known.latency_ms, known.nat_type) == ("p2p", 12.5, "port_restricted")
    assert known.capabilities == ("udp", "ipv6")
    assert await pairs(world) == [(ours, theirs, "direct.punched")]
    log = [
        (r.client_id, r.remote_peer_id, r.event_type, r.connection_type, r.reason, r.latency_ms)
        for r in await rows(world, schema.connection_logs)
    ]
    assert log == [
        (ours, theirs, "connect", "relay", "relay.upgrading", None),
        (ours, theirs, "upgrade_p2p", "p2p", "direct.punched", None),
    ]
    await say(world, a, health(a, peer(theirs, "direct.punched", "relay.path_lost", latency_ms=40.0), whole=False))
    await say(world, a, health(a, peer(theirs, "relay.path_lost", "relay.both_symmetric"), whole=False))
    await say(world, a, health(a, peer(theirs, "relay.both_symmetric", "relay.idle"), whole=False))
    assert await pairs(world) == []
    log = [(r.event_type, r.connection_type, r.reason) for r in await rows(world, schema.connection_logs)][2:]
    assert log == [
        ("fallback_relay", "relay", "relay.path_lost"),
        ("reason", "relay", "relay.both_symmetric"),
        ("disconnect", None, "relay.idle"),
    ]
    assert (await of(world, a)).connection_type is None


async def test_a_way_that_stays_as_it_is_is_no_line_in_the_log_and_knows_since_when(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await say(world, a, health(a, peer(client_id(b), "none.idle", "direct.lan", latency_ms=1.0)))
    (first,) = await rows(world, schema.pairs)
    world.clock.advance(minutes=5)
    await say(world, a, health(a, peer(client_id(b), "direct.lan", latency_ms=9.0)))
    (later,) = await rows(world, schema.pairs)
    assert (later.since, later.latency_ms) == (first.since, 9.0) and later.at > first.at
    assert len(await rows(world, schema.connection_logs)) == 1
    assert first.at - first.since < dt.timedelta(seconds=1)


async def test_both_ways_together_are_hybrid(world: World) -> None:
    a, b, c = await mesh(world, "a", "b", "c")
    await say(world, a, health(a, peer(client_id(b), "direct.lan"), peer(client_id(c), "relay.no_answer")))
    assert (await of(world, a)).connection_type == "hybrid"


async def test_from_relay_to_direct_is_an_event_that_comes_when_the_log_has_it(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    told: list[Any] = []
    world.at.events.listen(told.extend)
    await say(world, a, health(a, peer(client_id(b), "none.idle", "direct.lan")))
    await say(world, a, health(a, peer(client_id(b), "direct.lan", "relay.path_lost", "direct.punched")))
    await world.at.events.flush()
    upgrades = [(event.client_id, event.data) for event in told if event.type == "connection_upgrade"]
    assert upgrades == [(client_id(a), {"peer_id": client_id(b), "reason": "direct.punched"})]


async def test_only_members_of_the_network_are_spoken_of(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await world.network("lab", "10.43.0.0/24")
    stranger = await world.member("lab", name="c")
    named = [peer(name, "direct.lan", "relay.path_lost", "direct.lan") for name in (client_id(stranger), client_id(a), new_id("cli"))]  # fmt: skip
    await say(world, a, health(a, *named, peer(client_id(b), "direct.lan", relay="unheard-of")))
    assert await pairs(world) == [(client_id(a), client_id(b), "direct.lan")]
    assert await rows(world, schema.connection_logs) == []
    foreign = health(stranger, peer(client_id(b), "direct.lan"))
    assert a.link is not None and a.link.post(foreign)  # of a network that it isn't in
    await say(world, a, health(a))
    assert await pairs(world) == [] and len(await rows(world, schema.health)) == 1


@pytest.mark.parametrize(
    "text",
    [
        '"nat":"Symmetric\\u001b"',
        '"direct":-1',
        '"latency_ms":-0.5',
        '"latency_ms":1e99',
        '"peers":[["cli_x","no.reason",[],null,"",0,0]]',
        '"peers":[["cli_x","direct.lan",[[-1,"direct.lan"]],null,"",0,0]]',
        '"peers":[["cli_x","direct.lan",[],null,"",-1,0]]',
        '"peers":[["cli_x","direct.lan",[],null,"",1.5,0]]',
        '"whole":"yes"',
    ],
)
async def test_what_is_no_report_ends_the_link(world: World, text: str) -> None:
    (a,) = await mesh(world, "a")
    assert a.link is not None and a.answer is not None
    a.link._unsent.put_nowait(f'{{"type":"health","network_id":"{a.answer.network_id}",{text}}}')
    assert (await a.until_event(LinkRefused)).code == "malformed"
    assert await rows(world, schema.health) == []


async def test_what_a_network_doesnt_want_is_not_kept(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    counted = peer(client_id(b), "none.idle", "direct.lan", rx_bytes=500, tx_bytes=7)
    await say(world, a, health(a, counted))
    assert len(await pairs(world)) == 1 and await rows(world, schema.traffic) == []
    await world.call("network_set", "office", api.NetworkPatch(reports="off"))
    assert await pairs(world) == [] and await rows(world, schema.health) == [], "what was known is forgotten"
    assert a.link is not None and a.map.head.reports == "off", "who obeys says nothing more"
    await say(world, a, health(a, counted))
    assert await rows(world, schema.health) == [] and len(await rows(world, schema.connection_logs)) == 1
    await world.call("network_set", "office", api.NetworkPatch(reports="full"))
    world.clock.advance(minutes=1)
    await say(world, a, health(a, counted))
    await say(world, a, health(a, peer(client_id(b), "direct.lan", rx_bytes=2**53)))
    (hour,) = await rows(world, schema.traffic)
    assert (hour.client_id, hour.peer_id) == (client_id(a), client_id(b))
    assert (hour.rx_bytes, hour.tx_bytes) == (500 + MOST_BYTES, 7)
    assert (hour.hour.minute, hour.hour.second) == (0, 0)


async def test_who_reports_without_end_is_heard_now_and_then(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    restless = peer(client_id(b), *["direct.lan", "relay.path_lost"] * 16)
    for _ in range(20):
        await say(world, a, health(a, restless))
    assert len(await rows(world, schema.connection_logs)) <= 4 * 31
    for _ in range(10):
        world.clock.advance(seconds=20)
        await say(world, a, health(a, restless))
    assert len(await rows(world, schema.connection_logs)) <= 200 + 40 + 5


async def test_who_is_offline_is_in_use_by_nobody(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await say(world, a, health(a, peer(client_id(b), "direct.lan", latency_ms=1.0), latency_ms=1.0))
    assert world.at.reports.count()[0] == {"p2p": 1}
    offline = asyncio.Event()
    world.at.events.listen(lambda events: offline.set() if any(e.type == "client_offline" for e in events) else None)
    await a.close()
    await asyncio.wait_for(offline.wait(), 8)
    await world.at.reports.flush()
    assert await pairs(world) == []
    known = await of(world, a)
    assert (known.connection_type, known.latency_ms, known.nat_type) == (None, None, "port_restricted")
    assert not world.at.reports.count()[0]


async def test_what_is_said_elsewhere_meanwhile_stays(world: World) -> None:
    """A device whose link broke here is connected to another node, and has reported there, when it is missed here."""
    a, b = await mesh(world, "a", "b")
    await say(world, a, health(a, peer(client_id(b), "direct.lan")))
    later = world.at.context.now() + dt.timedelta(seconds=1)
    for table in (schema.pairs, schema.health):
        await world.at.context.write(lambda conn, t=table: conn.execute(t.update().values(at=later)))  # type: ignore[misc]
    world.at.reports.went(client_id(a))
    await world.at.reports.flush()
    assert len(await pairs(world)) == 1 and (await of(world, a)).connection_type == "p2p"


async def test_a_client_that_fell_silent_is_in_use_by_nobody_after_a_while(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await say(world, a, health(a, peer(client_id(b), "direct.lan")))
    world.clock.advance(seconds=600)
    assert (await of(world, a)).connection_type == "p2p"
    world.clock.advance(seconds=61)
    assert (await of(world, a)).connection_type is None
    await forget_old(world.at.context)
    assert await pairs(world) == []


async def test_what_comes_while_the_database_is_away_is_stored_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shadowmesh.controller.store.database import StorageFailed

    a, b = await mesh(world, "a", "b")
    write = world.at.context.store.write

    async def fails(tx: Any) -> Any:
        raise StorageFailed(OSError("away"))

    monkeypatch.setattr(world.at.context.store, "write", fails)
    with pytest.raises(StorageFailed):
        await say(world, a, health(a, peer(client_id(b), "none.idle", "relay.upgrading")))
    with pytest.raises(StorageFailed):
        await say(world, a, health(a, peer(client_id(b), "relay.upgrading", "direct.lan"), whole=False))
    monkeypatch.setattr(world.at.context.store, "write", write)
    await world.at.reports.flush()
    assert await pairs(world) == [(client_id(a), client_id(b), "direct.lan")]
    assert [row.reason for row in await rows(world, schema.connection_logs)] == ["relay.upgrading", "direct.lan"]


async def test_bytes_that_may_be_stored_already_are_not_counted_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to the database broke while it was committing."""
    from shadowmesh.controller.store.database import StorageInDoubt

    a, b = await mesh(world, "a", "b", reports="full")
    write, broken = world.at.context.store.write, [True]

    async def breaks(tx: Any) -> Any:
        found = await write(tx)
        if broken:
            broken.pop()
            raise StorageInDoubt(OSError("away"))
        return found

    monkeypatch.setattr(world.at.context.store, "write", breaks)
    with pytest.raises(StorageInDoubt):
        await say(world, a, health(a, peer(client_id(b), "none.idle", "direct.lan")))
    with suppress(StorageInDoubt):
        await say(world, a, health(a, peer(client_id(b), "direct.lan", rx_bytes=700), whole=False))
    await world.at.reports.flush()
    assert await pairs(world) == [(client_id(a), client_id(b), "direct.lan")]
    assert [row.reason for row in await rows(world, schema.connection_logs)] == ["direct.lan"]
    assert [row.rx_bytes for row in await rows(world, schema.traffic)] == [700]


async def old_lines(world: World, device: Device, ages: Sequence[float]) -> None:
    """Lines that the device told so many days ago, in this order."""
    now = world.at.context.now()
    line = {
        "network_ref": device.map.head.network_ref, "client_id": client_id(device), "remote_peer_id": "cli_x",
        "event_type": "connect", "connection_type": "p2p", "reason": "direct.lan",
    }  # fmt: skip

    def tx(conn: sa.Connection) -> None:
        first = sequences.take(conn, sequences.CONNECTION_LOGS, len(ages))
        times = [{"log_id": first + n, "timestamp": now - dt.timedelta(days=age)} for n, age in enumerate(ages)]
        conn.execute(schema.connection_logs.insert(), [line | at for at in times])

    await world.at.context.write(tx)


async def test_the_log_is_kept_for_its_time_and_forgotten_without_a_stall(world: World) -> None:
    (a,) = await mesh(world, "a")
    await old_lines(world, a, [91.0] * 30_000 + [89.0] * 100)
    longest, tidying = 0.0, asyncio.create_task(forget_old(world.at.context))
    while not tidying.done():
        began = time.monotonic()
        await world.at.context.write(lambda conn: conn.execute(sa.select(sa.literal(1))) and None)
        longest = max(longest, time.monotonic() - began)
    await tidying
    assert len(await rows(world, schema.connection_logs)) == 100
    assert longest < 0.5, "others' transactions have their turn in between"


async def test_the_pairs_of_a_removed_client_are_forgotten(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    await say(world, a, health(a, peer(client_id(b), "direct.lan")))
    await world.call("client_remove", "office", "b")
    await forget_old(world.at.context)
    assert await pairs(world) == [] and len(await rows(world, schema.health)) == 1


async def test_a_relay_is_known_by_its_name(world: World) -> None:
    relay = {"id": RelayID("rly_r"), "name": "r", "key": bytes(32), "url": "ws://192.0.2.1:9545", "region": "", "version": ""}  # fmt: skip
    row = relay | {"draining": False, "created_at": world.at.context.now()}
    await world.at.context.write(lambda conn: conn.execute(schema.relays.insert().values(row)))
    a, b = await mesh(world, "a", "b")
    await say(world, a, health(a, peer(client_id(b), "relay.upgrading", relay="r")))
    assert [r.relay_id for r in await rows(world, schema.pairs)] == ["rly_r"]


async def test_what_a_client_moves_a_second_is_told_while_it_tells(world: World) -> None:
    a, b = await mesh(world, "a", "b", reports="full")
    quiet = peer(client_id(b), "direct.lan", rx_bytes=0, tx_bytes=0)
    await say(world, a, health(a, quiet))

    async def rates() -> tuple[float | None, float | None]:
        shown = await world.call("client_show", "office", "a")
        return shown.rx_rate, shown.tx_rate

    assert await rates() == (None, None)  # what came before nobody knows
    world.clock.advance(seconds=40)
    more = health(a, peer(client_id(b), "direct.lan", rx_bytes=60_000, tx_bytes=3_000), whole=False)
    await say(world, a, more)
    assert await rates() == (2000.0, 100.0)  # a device counts for half a minute
    world.clock.advance(seconds=80)
    assert await rates() == (0.0, 0.0)  # with more it would have told
    await a.close()
    await world.at.reports.flush()


async def test_without_bytes_there_are_no_rates(world: World) -> None:
    a, b = await mesh(world, "a", "b")
    for _ in range(2):
        await say(world, a, health(a, peer(client_id(b), "direct.lan", rx_bytes=60_000), whole=False))
        world.clock.advance(seconds=20)
    shown = await world.call("client_show", "office", "a")
    assert (shown.connection_type, shown.rx_rate, shown.tx_rate) == ("p2p", None, None)
