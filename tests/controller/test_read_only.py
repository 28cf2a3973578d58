"""While the database can't be written, whoever is known is let in: what is only noted of them is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from people import PATIENCE
from test_relays import linked, registered

from shadowmesh.client_api.link import Disconnected, LinkRefused
from shadowmesh.controller.authz import LOCAL
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.model.devicelink import EpochHeld, Grant, RefreshGrant
from shadowmesh.model.relaylink import Revocations
from shadowmesh.protocol.signing import Signer

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World


@contextmanager
def read_only(world: World) -> Iterator[None]:
    async def fails(_: Any) -> Any:
        raise StorageFailed(sa.exc.OperationalError("x", {}, Exception("attempt to write a readonly database")))

    with patch.object(world.at.context.store, "write", fails):
        yield


def _of(device: Device, *kinds: type, most: int) -> list[type]:
    """The kinds of its first so many events of these kinds; none until there are so many."""
    found = [type(event) for event in device.events if type(event) in kinds]
    return found[:most] if len(found) >= most else []


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_a_device_comes_back_and_stays(world: World, ephemeral: bool) -> None:
    await world.network()
    device = world.device()
    answer = await device.join((await world.invite(ephemeral=ephemeral)).invite)
    with read_only(world):
        await (await device.connect()).settled()
        assert device.link is not None
        device.link.post(EpochHeld(network_id=answer.network_id, epoch=0))
        device.link.post(RefreshGrant(network_id=answer.network_id))
        kinds = await device.until(lambda: _of(device, Grant, Disconnected, most=2))
        assert kinds == [Grant, Grant], "that of its hello, and that which it asked for after the other message"


async def test_a_clone_is_refused_as_one(world: World) -> None:
    await world.network()
    device = await world.member()
    clone = world.clone(device)
    with read_only(world):
        await clone.connect()
        assert (await clone.until_event(LinkRefused)).code == "client_duplicate"


async def test_a_relay_comes_back_and_its_leaving_is_told_when_it_can_be(world: World) -> None:
    signer = Signer.generate()
    relay = await registered(world, signer)
    async with linked(world, signer, relay, version="1") as end:
        await end.next(Revocations)
    with read_only(world):
        async with linked(world, signer, relay, version="1") as end:
            assert (await end.next(Revocations)).complete
        async with asyncio.timeout(PATIENCE):
            while world.at.hub.relays:
                await world.at.context.read(lambda conn: None)
    changes: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while changes[-2:] != ["online", "offline"]:
            await world.at.events.flush()
            told = (await world.at.events.log(LOCAL, 0)).items
            changes = [event.data["change"] for event in told if event.type == "relay_changed"]
