"""The controller's clock is set a day ahead and back again: nothing waits for a time that was never going to be so far off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from receiver import WebReceiver
from test_webhooks import fields, happen, hook, timing

if TYPE_CHECKING:
    from tests.controller.conftest import World

__all__ = ["timing"]  # a fixture


async def test_the_key_rotates_for_who_is_removed_after_the_clock_was_set_back(world: World) -> None:
    await world.network()
    for name in ("one", "two"):
        await world.device().join((await world.invite()).invite, name=name)
    world.clock.advance(days=1)
    await world.call("client_remove", "office", "one")
    world.clock.advance(days=-1)
    await world.call("client_remove", "office", "two")
    shown = await world.call("network_show", "office")
    assert [e.epoch for e in shown.epochs] == [0, 1, 2] and shown.rotation_due is None


async def test_a_rotation_that_was_put_off_before_the_clock_was_set_back_comes(world: World) -> None:
    await world.network()
    for name in ("one", "two"):
        await world.device().join((await world.invite()).invite, name=name)
    world.clock.advance(days=1)
    for name in ("one", "two"):
        await world.call("client_remove", "office", name)
    world.clock.advance(days=-1)
    await world.at.keep_house()
    shown = await world.call("network_show", "office")
    assert [e.epoch for e in shown.epochs] == [0, 1, 2] and shown.rotation_due is None


async def test_a_delivery_that_failed_before_the_clock_was_set_back_is_tried_again(world: World) -> None:
    ref, statuses = (await world.network()).network_id, [500]
    async with WebReceiver(answer=lambda _: statuses.pop() if statuses else 204) as receiver:
        world.clock.advance(days=1)
        await hook(world, receiver.url, "office")
        await happen(world, ref, "one")
        while (await world.call("webhook_list"))[0].state != "failing":
            assert not receiver.taken
        world.clock.advance(days=-1)
        await receiver.until(lambda: fields(receiver.taken) == ["one"])


@pytest.mark.lab
async def test_a_node_whose_clock_is_ahead_leaves_delivery_to_others_when_it_is_gone(
    nodes: tuple[World, World],
) -> None:
    one, two = nodes
    ref = (await one.network()).network_id
    async with WebReceiver() as receiver:
        one.clock.advance(days=1)
        await hook(one, receiver.url, "office")
        await happen(one, ref, "before")
        await receiver.until(lambda: "before" in fields(receiver.taken))
        leader, other = (one, two) if any(True for _ in one.at.delivery.standing()) else (two, one)
        assert leader.at.delivery._task is not None
        leader.at.delivery._task.cancel()  # as if it had died: it releases nothing
        await leader.at.delivery._end()
        one.clock.advance(days=-1)
        await happen(other, ref, "after")
        await receiver.until(lambda: "after" in fields(receiver.taken))


@pytest.mark.lab
async def test_who_is_online_at_another_node_is_not_idle_by_this_ones_clock(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    device = two.device()
    await device.join((await two.invite(ephemeral=True, idle=60)).invite)
    await (await device.connect()).settled()
    while (await one.call("client_list", "office"))[0].status != "online":
        pass
    one.clock.advance(days=1)
    await one.at.ephemeral.remove_idle()
    assert len(await one.call("client_list", "office")) == 1
