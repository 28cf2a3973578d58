"""Where a device is a member: read for many at once, and for each as of the moment it asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.controller.service.memberships import Memberships
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.keys import DevicePublicKey

if TYPE_CHECKING:
    from tests.controller.conftest import World


class Counting:
    """A store that counts reads, and fails them if asked."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.reads = 0
        self.error: Exception | None = None

    async def read(self, tx: Any) -> Any:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return await self.store.read(tx)


async def test_who_knocks_while_one_read_is_under_way_shares_the_next(world: World) -> None:
    await world.network()
    await world.network("lab", "10.43.0.0/24")
    devices = [world.device() for _ in range(6)]
    for device in devices:
        await device.join((await world.invite()).invite)
    await devices[0].join((await world.invite("lab")).invite)
    store = Counting(world.at.context.store)
    memberships = Memberships(replace(world.at.context, store=store))  # type: ignore[arg-type]
    keys = [device.signer.device_key for device in devices]
    stranger = DevicePublicKey(bytes(32))
    *found, nobody = await asyncio.gather(*(memberships.of(key) for key in (*keys, keys[1], stranger)))
    assert store.reads == 1
    assert nobody == [] and [row.id for row in found[1]] == [row.id for row in found[6]]
    assert [len(rows) for rows in found] == [2, 1, 1, 1, 1, 1, 1]
    for key, rows in zip(keys, found, strict=False):
        assert all(row.device_key == key and row.state == "approved" for row in rows)
    await asyncio.gather(memberships.of(keys[0]), asyncio.sleep(0))
    assert store.reads == 2


async def test_a_read_that_fails_fails_those_who_waited_for_it(world: World) -> None:
    store = Counting(world.at.context.store)
    memberships = Memberships(replace(world.at.context, store=store))  # type: ignore[arg-type]
    store.error = ShadowMeshError("storage_failed", "the disk is gone", "")
    for outcome in await asyncio.gather(
        *(memberships.of(DevicePublicKey(bytes([n]) * 32)) for n in range(3)), return_exceptions=True
    ):
        assert isinstance(outcome, ShadowMeshError)
    store.error = None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await memberships.of(DevicePublicKey(bytes(32)))
    assert await memberships.of(DevicePublicKey(bytes(32))) == []
