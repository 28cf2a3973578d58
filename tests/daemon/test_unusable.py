"""What a machine says of peers where it can have none: in no network, waiting, removed, or asked for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from daemonkit import Controller, Machine, controller, refused, until

from shadowmesh.model.errors import Kind, ShadowMeshError


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


async def pinged(machine: Machine, peer: str) -> None:
    async for _ in machine.client.stream("ping", peer=peer, count=1, timeout_s=1.0):
        pass


async def each_says(machine: Machine, peer: str) -> list[ShadowMeshError]:
    """What `ping`, `why`, `wait` and `peers` answer."""
    call = machine.client.call
    asked: list[Any] = [
        pinged(machine, peer), call("why", peer=peer), call("wait", target=peer, state="up", timeout_s=1.0),
        call("check_usable"),
    ]  # fmt: skip
    return [await refused(one) for one in asked]


async def test_in_no_network(there: Controller) -> None:
    a = await there.machine("a")
    for error in [*await each_says(a, "b"), await refused(a.client.call("up"))]:
        assert (error.code, error.kind) == ("no_network", Kind.NOT_FOUND) and "shadowmesh join" in error.remedy


async def test_waiting_for_approval(there: Controller) -> None:
    await there.network("guarded", "10.45.0.0/24", approval=True)
    a = await there.machine("a")
    joined = await a.join(await there.invite("guarded"), name="anna")
    assert (joined.state, joined.name) == ("pending-approval", "anna")
    again = await refused(a.join(await there.invite("guarded")))
    for error in [*await each_says(a, "b"), *await each_says(a, "b@guarded"), again]:
        assert (error.code, error.kind) == ("pending_approval", Kind.WAITING)
        assert "shadowmesh client approve guarded anna" in error.remedy


async def test_removed(there: Controller) -> None:
    a, _b = await there.member("a"), await there.member("b")
    await there.call("client_remove", "office", "a")
    await until(lambda: not a.daemon.networks)
    for error in await each_says(a, "b"):
        assert (error.code, error.kind) == ("network_removed", Kind.NOT_ALLOWED) and "leave office" in error.remedy


async def test_a_machine_knows_its_own_name(there: Controller) -> None:
    a, _b = await there.member("a"), await there.member("b")
    await there.call("client_set", "office", "a", name="anna")
    await until(lambda: a.network().record.client_name == "anna")
    assert (await a.network_status()).client_name == "anna"
    for name in ("anna", "anna@office", a.network().record.ip):
        error = await refused(pinged(a, name))
        assert (error.code, error.kind) == ("that_is_here", Kind.USAGE) and "is this machine" in error.what
    assert (await refused(pinged(a, "nobody"))).code == "peer_unknown"


async def test_a_network_that_is_down_has_the_epoch_that_it_has(there: Controller) -> None:
    a = await there.member("a")
    await there.call("network_rotate_key", "office")
    await until(lambda: max(a.network().keys) > 0)
    epoch = (await a.network_status()).epoch
    await a.client.call("down", network="office")
    shown = await a.network_status()
    assert (shown.state, shown.epoch) == ("down", epoch) and epoch > 0
