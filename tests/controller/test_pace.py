"""How fast one connection, or one device, may ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.client_api.link import LinkRefused
from shadowmesh.controller.edge.pace import Pace
from tests.controller.conftest import Device

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def test_a_burst_passes_and_then_each_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 1000.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace(10, 0.5)
    for _ in range(10):
        await pace.turn()
    assert slept == []
    for _ in range(4):
        await pace.turn()
    assert slept == pytest.approx([0.5] * 4)
    now += 100
    for _ in range(10):
        await pace.turn()
    assert len(slept) == 4


async def test_a_device_that_comes_and_goes_all_the_time_is_refused_for_a_while(world: World) -> None:
    await world.network()
    device: Device = await world.member()
    at = world.at.context.now().timestamp()
    limiter: Any = world.at.devices._hellos
    while limiter.allows(str(device.signer.device_key), at):
        pass
    assert device.link is not None
    await device.close()
    again = await device.connect()
    refused = await again.until_event(LinkRefused)
    assert refused.code == "rate_limited"
