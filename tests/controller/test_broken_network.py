"""A network whose rows are broken is alone with that: what the controller does by itself goes on for all others."""

from __future__ import annotations

import dataclasses
import datetime as dt
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec
import pytest
import sqlalchemy as sa
from people import person
from structlog.testing import capture_logs

from shadowmesh.controller.authz import SYSTEM
from shadowmesh.controller.service.clients import remove_client
from shadowmesh.controller.service.hub import RelayLink
from shadowmesh.controller.service.mapcontent import announce_urls
from shadowmesh.controller.settings import Timing
from shadowmesh.controller.store import schema
from shadowmesh.model import accounts
from shadowmesh.model.devicelink import Removed
from shadowmesh.model.ids import RelayID

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World

N = schema.networks


async def write(world: World, statement: Any) -> None:
    await world.at.context.write(lambda conn: conn.execute(statement) and None)


@pytest.fixture
async def device(world: World) -> Device:
    """In two networks, of which the first breaks: on whatever comes to it first."""
    await world.network("broken")
    await world.network("office", "10.43.0.0/24")
    member = await world.member("office", name="web")
    await world.member("broken", name="db")
    await write(world, N.update().where(N.c.name == "broken").values(subnet="nonsense"))
    return member


@pytest.fixture
def timing() -> Timing:
    """Nothing happens by itself: each test does what it is about."""
    return Timing(join_gather=0.02, presence_gather=0.02, offline_after=0.1, housekeeping=3600, follow=3600)


async def test_due_rotations_go_on(world: World, device: Device) -> None:
    await write(world, N.update().values(rotation_due=world.clock() - dt.timedelta(seconds=1)))
    with capture_logs() as logs:
        for _ in range(3):
            await world.at.keep_house()
    assert len((await device.until_map(lambda m: len(m.head.epochs) == 2)).head.epochs) == 2
    assert [line["event"] for line in logs] == ["a network's due rotation failed"]


async def test_ends_of_epochs_go_on(world: World, device: Device) -> None:
    await write(world, N.update().values(rotation_due=world.clock() - dt.timedelta(seconds=1)))
    await world.at.keep_house()
    await device.until_map(lambda m: len(m.head.epochs) == 2)
    world.clock.advance(days=8)
    await world.at.keep_house()
    await device.until_map(lambda m: [e.epoch for e in m.head.epochs] == [1])


async def test_what_another_controller_changed_is_taken_over(world: World, device: Device) -> None:
    await write(world, N.update().values(serial=N.c.serial + 1, p2p_enabled=False))
    await world.at.maps.catch_up()
    await device.until_map(lambda m: not m.head.p2p)


async def test_relays_come_into_all_other_maps(world: World, device: Device) -> None:
    relay = {"id": "rly_r", "name": "r", "key": bytes(32), "url": "ws://192.0.2.1:9545", "region": "", "version": ""}
    await write(world, schema.relays.insert().values(relay | {"draining": True, "created_at": world.clock()}))
    await world.call("relay_drain", "r", draining=False)
    await device.until_map(lambda m: [r.name for r in m.head.relays] == ["r"])


async def test_other_urls_are_announced(world: World, device: Device) -> None:
    context = world.at.context
    moved = dataclasses.replace(
        context, settings=msgspec.structs.replace(context.settings, public_urls=("https://new.example",))
    )
    await context.write(partial(announce_urls, moved))
    await world.at.maps.catch_up()
    await device.until_map(lambda m: m.head.controller_urls == ("https://new.example",))


async def test_ephemeral_clients_go(world: World) -> None:
    await world.network("broken")
    await world.network("office", "10.43.0.0/24")
    for network in ("broken", "office"):
        await world.device().join((await world.invite(network, ephemeral=True, idle=1)).invite)
    await write(world, N.update().where(N.c.name == "broken").values(subnet="nonsense"))
    world.clock.advance(minutes=10)
    await world.at.ephemeral.remove_idle()
    assert await world.call("client_list", "office") == []


async def test_a_device_is_connected_to_its_other_networks(world: World) -> None:
    await world.network("broken")
    await world.network("office", "10.43.0.0/24")
    device = world.device()
    for network in ("broken", "office"):
        await device.join((await world.invite(network)).invite)
    await write(world, N.update().where(N.c.name == "broken").values(subnet="nonsense"))
    world.at.maps._networks.clear()  # as after a restart
    await (await device.connect()).settled()
    assert [m.head.name for m in device.link.maps.values()] == ["office"]  # type: ignore[union-attr]


async def test_a_device_is_removed_from_all_and_each_is_told(world: World) -> None:
    await world.network("broken")
    await world.network("office", "10.43.0.0/24")
    device, other = world.device(), await world.member("office", name="web")
    for network in ("broken", "office"):
        await device.join((await world.invite(network)).invite)
    await write(world, N.update().where(N.c.name == "broken").values(subnet="nonsense"))
    await other.until_map(lambda m: len(m.members) == 2)
    removed = await world.call("device_remove", "laptop@office")
    assert len(removed.networks) == 2
    await other.until_map(lambda m: len(m.members) == 1)


async def test_a_revocation_that_fails_is_tried_again_and_said_rarely(world: World) -> None:
    ann = await person(world, "ann")
    following, watchers = world.at.following, world.at.watchers

    def fails(user_id: str) -> None:
        raise RuntimeError("not now")

    async with ann.watching() as watch:
        with patch.object(watchers, "changed", lambda user_id: None):
            await world.call("user_set", ann.email, accounts.UserPatch(disabled=True))
        with capture_logs() as logs, patch.object(watchers, "changed", fails):
            for _ in range(3):
                await following.catch_up()
        await following.catch_up()
        assert await watch.ended() == (4401, "not_signed_in")
    assert [line["event"] for line in logs] == ["a revocation can't be acted on yet"]


async def test_a_removal_is_told_once_though_the_map_cannot_be_read(world: World, device: Device) -> None:
    heard: list[str] = []
    world.at.hub.relays[RelayID("rly_r")] = RelayLink(RelayID("rly_r"), "boot", heard.append, lambda code, why: None)
    context, c = world.at.context, schema.clients
    await world.at.following.start()

    def by_another(conn: sa.Connection) -> None:
        row = conn.execute(sa.select(c).where(c.c.name == "db")).one()
        network = conn.execute(sa.select(N).where(N.c.ref == row.network_ref)).one()
        remove_client(context, conn, SYSTEM, network, row, "removed")

    await context.write(by_another)
    for _ in range(3):
        await world.at.following.catch_up()
    gone = world.devices[1]
    await gone.until_event(Removed)
    assert len([text for text in heard if "revocations" in text]) == 1
    del world.at.hub.relays[RelayID("rly_r")]
