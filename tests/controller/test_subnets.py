"""What subnet a network may have: none that takes its clients' way to this controller and its relays, none that drops a member."""

from __future__ import annotations

from collections.abc import Awaitable
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.engine import Connection

from shadowmesh.controller.service.addresspool import next_free
from shadowmesh.controller.settings import DataDir, Settings, write_settings
from shadowmesh.controller.store import schema
from shadowmesh.model.api import NetworkCreate, NetworkPatch
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

    await world.at.context.write(add)


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


async def test_a_network_made_without_a_subnet_gets_the_next_free_24(world: World) -> None:
    async def made(name: str) -> str:
        return str((await world.call("network_create", NetworkCreate(name=name))).subnet)

    await world.network("wide", subnet="10.100.1.0/25")  # takes its /24
    assert [await made("one"), await made("two")] == ["10.100.0.0/24", "10.100.2.0/24"]
    await world.call("network_delete", "one")
    assert await made("three") == "10.100.0.0/24"
    await world.network("rest", subnet="10.100.0.0/16")
    error = await refused(made("four"))
    assert (error.code, error.kind) == ("no_free_subnet", Kind.CONFLICT) and "--subnet" in error.remedy


@pytest.mark.parametrize(
    ("pool", "taken", "free"),
    [
        ("10.0.0.0/8", [], "10.0.0.0/24"),
        ("10.9.0.0/16", ["10.9.0.7/32", "10.9.1.0/30"], "10.9.2.0/24"),
        ("10.9.0.0/16", ["10.8.0.0/13", "10.9.0.0/24"], None),
        ("10.9.0.0/23", ["10.9.0.0/24", "10.9.0.0/30", "10.10.0.0/16"], "10.9.1.0/24"),
        ("10.9.0.0/24", ["10.9.0.128/25"], None),
        ("10.9.0.0/16", ["10.9.1.0/24", "10.7.0.0/16"], "10.9.0.0/24"),
    ],
)
def test_the_next_free_24(pool: str, taken: list[str], free: str | None) -> None:
    found = next_free(IPv4Network(pool), map(IPv4Network, taken))
    assert found == (free and IPv4Network(free))


@pytest.mark.parametrize("pool", ["lan", "10.9.0.1/16", "10.9.0.0/25", "fd00::/64"])
def test_a_default_subnet_that_cant_be_is_refused_at_the_start(tmp_path: Path, pool: str) -> None:
    where = DataDir(tmp_path)
    settings = Settings(public_urls=("https://h:1",), listen="0.0.0.0:1", default_subnet=pool)
    write_settings(where.config, settings)
    with pytest.raises(ShadowMeshError, match=r"controller\.json can't be read"):
        where.read()


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
