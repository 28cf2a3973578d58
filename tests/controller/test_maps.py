"""How changes of a map reach its members: what belongs together goes out together, what takes away goes first."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from shadowmesh.client_api.link import MapChanged
from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.service.livemap import LiveMap
from shadowmesh.controller.service.mapcontent import announce_urls, read_changes
from shadowmesh.model.codec import from_json
from shadowmesh.model.devicelink import FromController, Grant, MapUpdate, read_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.controller.conftest import Device, World

FAR = 60.0  # seconds: longer than any test waits


def gather_joins(world: World, seconds: float) -> None:
    context = world.at.context
    world.at.maps._context = replace(context, timing=replace(context.timing, join_gather=seconds))


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    """Asks again and again until it is so: for what nobody is told of."""
    async with asyncio.timeout(8):
        while not await ask():  # noqa: ASYNC110 - over REST
            await asyncio.sleep(0.02)


def maps_seen(device: Device) -> list[int]:
    """Serials of the maps that the device was told of, in order."""
    return [e.map.serial for e in device.events if isinstance(e, MapChanged)]


async def test_joins_of_one_moment_go_out_as_one_serial(world: World) -> None:
    await world.network()
    one = await world.member(name="one")
    gather_joins(world, 1.0)
    before = len(maps_seen(one))
    invites = [(await world.invite()).invite for _ in range(5)]
    answers = await asyncio.gather(*(world.device().join(invite) for invite in invites))
    assert len({a.client_id for a in answers}) == 5
    for answer in answers:
        assert answer.map is not None
        assert answer.client_id in answer.map.apply(None).entries, "who joins has its own entry at once"
    found = await one.until_map(lambda m: len(m.members) == 6)
    assert maps_seen(one)[before:] == [found.serial]


async def test_a_removal_doesnt_wait_for_joins_that_are_gathered(world: World) -> None:
    await world.network()
    one, two = await world.member(name="one"), await world.member(name="two")
    gather_joins(world, FAR)
    third = asyncio.create_task(world.device().join((await world.invite()).invite, name="three"))

    async def three() -> bool:
        return len(await world.call("client_list", "office")) == 3

    await eventually(three)
    assert not third.done() and len(one.map.members) == 2
    await world.call("client_remove", "office", "two")
    found = await one.until_map(lambda m: len(m.ids) == 2 and m.member(two.answer.client_id) is None)
    assert {m.name for m in found.members} == {"one", "three"}, "what was gathered goes with it"
    await third


async def test_the_removed_one_is_off_the_map_before_any_key_is_sealed(world: World) -> None:
    await world.network()
    one, _ = await world.member(name="one"), await world.member(name="two")
    await world.call("client_remove", "office", "two")
    grant = await one.until_event(Grant, lambda e: len(e.keys) == 2)
    told = next(e for e in one.events if isinstance(e, MapChanged) and len(e.map.head.epochs) == 2)
    assert [m.name for m in told.map.members] == ["one"]
    assert one.events.index(told) < one.events.index(grant)


async def test_whatever_serials_a_device_claims_what_is_kept_for_them_is_little(world: World) -> None:
    await world.network()
    device = await world.member()
    for n in range(100):
        await world.call("client_set", "office", "laptop", tags=[f"t{n}"])
    live = await world.at.maps.get(device.map.head.network_ref)
    client_id = device.answer.client_id
    for serial in (*range(-5000, 200), 2**63, 2**80):
        update = read_message(live.text_for(client_id, (1, serial)), FromController)
        assert isinstance(update, MapUpdate) and update.client_id == client_id
        known = 1 <= serial <= live.serial
        assert (update.delta is not None, update.snapshot is not None) == (known, not known)
    assert len(live._texts) <= 32
    for held in (None, (0, live.serial), (2, live.serial), (-1, live.serial)):
        assert from_json(live.text_for(client_id, held), MapUpdate).snapshot is not None


async def test_a_delta_leads_from_every_older_serial(world: World) -> None:
    await world.network()
    device = await world.member(name="first")
    live = await world.at.maps.get(device.map.head.network_ref)
    older = [live.map]
    for n in range(6):
        await world.device().join((await world.invite()).invite, name=f"m{n}")
        older.append(live.map)
        await world.call("client_set", "office", f"m{n // 2}", tags=[str(n)])
        older.append(live.map)
    for name in ("m0", "m3"):
        await world.call("client_remove", "office", name)
        older.append(live.map)
    for held in older:
        update = from_json(live.text_for(device.answer.client_id, held.order), MapUpdate)
        assert update.delta is not None and update.apply(held) == live.map


async def test_nodes_that_name_their_urls_differently_sign_the_same_maps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    ref = (await world.member()).map.head.network_ref
    one = world.at.context
    monkeypatch.setattr(one.store, "shared", True, raising=False)
    urls = ("https://192.0.2.2:8443", "https://192.0.2.1:8443")
    two = replace(one, settings=msgspec.structs.replace(one.settings, public_urls=urls))
    three = replace(one, settings=msgspec.structs.replace(one.settings, public_urls=urls[::-1]))
    for node in (two, three, one):
        await node.write(partial(announce_urls, node))

    async def live(node: ServiceContext) -> LiveMap:
        changes = await node.read(lambda conn: read_changes(node, conn, ref, None, {}))
        assert changes is not None
        return LiveMap(node, changes)

    maps = [(await live(node)).map for node in (one, two, three)]
    assert maps[0] == maps[1] == maps[2]
    assert set(maps[0].head.controller_urls) == {world.url, *urls}
    assert {s.host for s in maps[0].head.stun} == {"127.0.0.1", "192.0.2.1", "192.0.2.2"}
    await two.write(partial(announce_urls, two))
    assert (await live(one)).map == maps[0], "what is announced already makes no new serial"


async def test_a_url_that_no_node_has_any_more_is_announced_for_a_month(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.network()
    device = await world.member()
    context = world.at.context
    old = replace(context, settings=msgspec.structs.replace(context.settings, public_urls=("https://192.0.2.9:8443",)))
    with monkeypatch.context() as patch:
        patch.setattr(context.store, "shared", True, raising=False)
        await old.write(partial(announce_urls, old))
        for days, known in ((0, True), (29, True), (2, False)):
            world.clock.advance(days=days)
            await world.at.tidy()
            await world.at.maps.catch_up()
            await device.until_map(lambda m, known=known: ("https://192.0.2.9:8443" in m.head.controller_urls) == known)
    await old.write(partial(announce_urls, old))
    await context.write(partial(announce_urls, context))
    await world.at.maps.catch_up()
    await device.until_map(lambda m: m.head.controller_urls == (world.url,))
