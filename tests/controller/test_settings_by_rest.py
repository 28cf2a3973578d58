"""`mfa_required`, set while the controller runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import pytest
from people import person

from shadowmesh.controller.settings import Authentication
from shadowmesh.model import accounts, api

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def test_a_second_factor_is_asked_for_from_the_moment_on_that_it_is_set(world: World) -> None:
    await world.network()
    root, ann = await person(world, "root", admin=True), await person(world, "ann", {"office": "owner"})
    meg = await person(world, "meg", {"office": "member"})
    async with ann.watching(network_id="office") as hers, meg.watching(network_id="office") as megs:
        answer = await root.ask("PATCH", "/settings", {"mfa_required": ["owner", "owner"]})
        assert answer.json() == {"mfa_required": ["owner"], "mfa_required_by_file": [], "mfa_missing": [ann.email]}
        assert await hers.ended() == (4003, "mfa_required")
        await world.call("network_set", "office", api.NetworkPatch(description="x"))
        await megs.until("network_changed", change="set")
    assert (await ann.ask("GET", "/networks")).json()["code"] == "mfa_required"
    assert (await ann.ask("GET", "/whoami")).json()["second_factor_missing"]
    assert (await meg.ask("GET", "/networks")).status_code == 200
    for _ in range(2):  # the second time nothing changes
        await root.ask("PATCH", "/settings", {"mfa_required": []})
    assert (await ann.ask("GET", "/networks")).status_code == 200
    entries = [e.detail for e in await world.call("audit_list") if e.action == "controller.set"]
    assert entries == [
        {"before": {"mfa_required": []}, "after": {"mfa_required": ["owner"]}},
        {"before": {"mfa_required": ["owner"]}, "after": {"mfa_required": []}},
    ]


async def test_what_the_configuration_asks_for_stays(world: World) -> None:
    policy = world.at.sign_in_policy
    settings = msgspec.structs.replace(
        world.at.context.settings, authentication=Authentication(mfa_required=("admin",))
    )
    policy._context = dataclasses.replace(world.at.context, settings=settings)
    shown = await world.call("settings_set", accounts.ControllerSettingsPatch(mfa_required=["guest"]))
    assert (shown.mfa_required, shown.mfa_required_by_file) == (["admin", "guest"], ["admin"])
    shown = await world.call("settings_set", accounts.ControllerSettingsPatch(mfa_required=[]))
    assert shown.mfa_required == ["admin"]
    assert await world.call("settings_show") == shown


async def test_a_role_that_there_is_not_is_refused(world: World) -> None:
    root = await person(world, "root", admin=True)
    assert (await root.ask("PATCH", "/settings", {"mfa_required": ["king"]})).status_code == 422


@pytest.mark.lab
async def test_it_holds_at_the_other_node_at_once(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann", {"office": "owner"}), world=two)
    async with ann.watching(network_id="office") as watch:
        await one.call("settings_set", accounts.ControllerSettingsPatch(mfa_required=["owner"]))
        assert (await ann.ask("GET", "/networks")).json()["code"] == "mfa_required"
        assert await watch.ended() == (4003, "mfa_required")
