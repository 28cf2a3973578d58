"""A network may be put into a network namespace of its host: then it has nothing to do with the host's LANs, nor with other networks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from daemonkit import Controller, Machine, controller, refused, until

from shadowmesh.model.errors import Kind

SUBNET = "10.91.0.0/24"


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office", subnet=SUBNET)
        yield running


async def place(machine: Machine, namespace: str | None) -> None:
    """The network is up, and its one interface is there."""
    status = await machine.network_status()
    assert (status.state, status.netns) == ("up", namespace)
    looked_after = [host for host in (machine.host, *machine.namespaces.values()) if host and host.interfaces]
    assert [host.netns for host in looked_after] == [namespace]


async def test_what_overlaps_a_lan_is_refused_and_goes_into_a_namespace(there: Controller) -> None:
    a, b = await there.machine("a"), await there.member("b")
    a.host.lans = [("eth0", ip_network("10.91.0.0/16"))]
    invite = await there.invite()
    error = await refused(a.join(invite))
    assert error.kind is Kind.CONFLICT and "--netns NAME" in error.remedy
    error = await refused(a.join(invite, netns="blue"))
    assert (error.code, error.kind) == ("netns_unknown", Kind.NOT_FOUND)
    a.namespaces["blue"] = None
    await a.join(invite, netns="blue")
    await place(a, "blue")
    assert await a.reaches(b)
    await a.restart()
    await place(a, "blue")
    assert await a.reaches(b)


async def test_a_network_is_moved_and_moved_back_and_nothing_is_left(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    await place(a, None)
    a.namespaces["blue"] = None
    await a.client.call("up", network="office", netns="blue")
    await place(a, "blue")
    assert await a.reaches(b)
    await a.client.call("up", network="office")
    await place(a, "blue")
    error = await refused(a.client.call("up", network="office", netns="green"))
    assert error.code == "netns_unknown"
    await place(a, "blue")
    await a.client.call("up", network="office", netns="")
    await place(a, None)
    await until(lambda: a.namespaces == {"blue": None})
    assert await a.reaches(b)


async def test_two_networks_of_one_subnet_live_in_two_namespaces(there: Controller) -> None:
    a = await there.member("a")
    await there.network("lab", subnet=SUBNET)
    invite = await there.invite("lab")
    assert (await refused(a.join(invite))).code == "overlap"
    a.namespaces["blue"] = None
    await a.join(invite, netns="blue")
    assert {n.name: (n.state, n.netns) for n in (await a.status()).networks} == {
        "office": ("up", None),
        "lab": ("up", "blue"),
    }
    error = await refused(a.client.call("up", network="lab", netns=""))
    assert error.code == "overlap"
    assert (await a.network_status("lab")).netns == "blue"


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "", "-x", "x" * 65, "a b", 7])
async def test_what_can_be_no_namespace_is_refused(there: Controller, name: object) -> None:
    a = await there.member("a")
    if name == "":
        await a.client.call("up", network="office", netns=name)  # "" is the daemon's own
    else:
        assert (await refused(a.client.call("up", network="office", netns=name))).kind is Kind.USAGE
    await place(a, None)


async def test_a_namespace_that_is_gone_after_a_restart_is_an_error_until_it_is_there(there: Controller) -> None:
    a = await there.machine("a")
    a.namespaces["blue"] = None
    await a.join(await there.invite(), netns="blue")
    await a.stop()
    del a.namespaces["blue"]
    await a.start()
    status = await a.network_status()
    assert status.state == "error" and "no network namespace blue" in (status.error or "")
    a.namespaces["blue"] = None
    a.network().retry_at = 0.0
    a.daemon.carrier.try_again()
    await place(a, "blue")
