"""What subnet a network may have: none that takes its clients' way to this controller and its relays, none that drops a member."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.engine import Connection

from shadowmesh.controller.store import schema
from shadowmesh.model.api import NetworkPatch
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World

PUBLIC = "198.51.100.5"


@pytest.fixture
def other_urls() -> tuple[str, ...]:
    return (f"https://{PUBLIC}:8443",)


async def add_relays(world: World) -> None:
    """One that is known by address, one by name and address."""
    relays = [
        ("rly_a", "paris", "ws://relay.example.invalid:9545", "203.0.113.9:9545"),
        ("rly_b", "berlin", "ws://198.18.0.9:9545", None),
    ]

    def add(conn: Connection) -> None:
        for ref, name, url, udp in relays:
            conn.execute(
                schema.relays.insert().values(
                    id=ref, name=name, key=name.encode(), url=url, udp=udp, region="", version="1", draining=False,
                    created_at=world.clock(),
                )
            )  # fmt: skip

    await world.at.core.write(add)


async def refused(what: Awaitable[Any]) -> ShadowMeshError:
    with pytest.raises(ShadowMeshError) as caught:
        await what
    return caught.value


async def test_a_network_that_covers_the_controller_or_a_relay_is_refused(world: World) -> None:
    await add_relays(world)
    error = await refused(world.network(subnet="198.51.100.0/24"))
    assert (error.code, error.kind) == ("subnet_covers", Kind.CONFLICT)
    assert PUBLIC in error.what and "this controller" in error.what
    assert "relay paris" in (await refused(world.network(subnet="203.0.113.0/24"))).what
    assert "relay berlin" in (await refused(world.network(subnet="198.18.0.0/15"))).what
    assert await world.call("network_list") == []
    await world.network(subnet="198.51.101.0/24")


async def test_a_network_cant_grow_over_the_controller(world: World) -> None:
    await world.network(subnet="198.51.101.0/24")
    assert (await refused(world.call("network_set", "office", NetworkPatch(subnet="198.51.0.0/16")))).code == (
        "subnet_covers"
    )
    assert (await world.call("network_show", "office")).subnet == "198.51.101.0/24"


async def test_nobody_is_told_of_another_tenants_subnet(world: World) -> None:
    await world.network("one", subnet="10.50.0.0/24")
    await world.network("two", subnet="10.50.0.0/24")


async def test_a_subnet_that_grew_shrinks_again_if_no_member_falls_out(world: World) -> None:
    await world.network(subnet="10.42.0.0/24")
    member = await world.member()
    await world.call("network_set", "office", NetworkPatch(subnet="10.42.0.0/16"))
    changed = await world.call("network_set", "office", NetworkPatch(subnet="10.42.0.0/24"))
    assert changed.subnet == "10.42.0.0/24"
    assert await member.until_map(lambda m: str(m.head.subnet) == "10.42.0.0/24" and m.serial > 2)
    assert str(member.answer.ip) == "10.42.0.1"


async def test_a_subnet_doesnt_shrink_past_a_member_and_names_who_would_fall_out(world: World) -> None:
    await world.network(subnet="10.42.0.0/16")
    far = world.device()
    await far.join((await world.invite(ip="10.42.0.127")).invite, name="far")
    error = await refused(world.call("network_set", "office", NetworkPatch(subnet="10.42.0.0/25")))
    assert error.code == "subnet_shrinks" and error.kind is Kind.CONFLICT
    assert "far (10.42.0.127)" in error.what  # 127 would be the broadcast address
    await world.call("client_remove", "office", "far")
    await world.call("network_set", "office", NetworkPatch(subnet="10.42.0.0/25"))
    near = await world.member()
    assert str(near.answer.ip) == "10.42.0.1"  # and not the one that rested outside
