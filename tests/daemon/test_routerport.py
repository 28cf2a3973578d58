"""A port that the router opens for the daemon: a candidate while a network is up, and given back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from daemonkit import Controller, Machine, controller, until
from simrouter import CLIENT, SimRouter

from shadowmesh.daemon.hostnet import UnderlayChanged
from shadowmesh.daemon.options import DaemonOptions

GATEWAY = IPv4Address("192.168.1.1")
ON = DaemonOptions(port_mapping=True)


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


@contextmanager
def behind(machine: Machine) -> Iterator[SimRouter]:
    """Puts it behind a router, whom it asks over a pair of sockets."""
    router, loop = SimRouter(), asyncio.get_running_loop()
    machine.to_router, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    machine.to_router.setblocking(False)
    machine.gateway = GATEWAY, CLIENT

    def readable() -> None:
        answer = router.answers(ours.recv(2000), machine.clock().boot)
        if answer is not None:
            ours.send(answer)

    loop.add_reader(ours.fileno(), readable)
    try:
        yield router
    finally:
        loop.remove_reader(ours.fileno())
        ours.close()
        machine.to_router.close()


def port(machine: Machine) -> int:
    return machine.daemon.mesh.port


async def test_it_is_open_while_a_network_is_up_and_peers_are_told(there: Controller) -> None:
    a = await there.member("a", options=ON)
    assert "mapped_port" not in a.daemon.mesh.node.capabilities
    with behind(a) as router:
        a.host.tell(UnderlayChanged(moved=False))
        await until(lambda: "mapped_port" in a.daemon.mesh.node.capabilities)
        assert list(router.open) == [port(a)]
        await a.client.call("down", network="office")
        await until(lambda: not router.open)
        await a.client.call("up", network="office")
        await until(lambda: bool(router.open))
        await a.stop()
        await until(lambda: not router.open)


async def test_a_new_pump_knows_it_as_well(there: Controller) -> None:
    a = await there.member("a", options=ON)
    with behind(a):
        a.host.tell(UnderlayChanged(moved=False))
        await until(lambda: "mapped_port" in a.daemon.mesh.node.capabilities)
        node = a.daemon.mesh.node
        a.pumps[-1].die()
        await until(lambda: a.daemon.mesh.node is not node)
        assert "mapped_port" in a.daemon.mesh.node.capabilities
        await a.stop()


@pytest.mark.parametrize("options", [DaemonOptions(), DaemonOptions(port_mapping=True, p2p=False)])
async def test_nobody_is_asked_where_it_isnt_wanted(there: Controller, options: DaemonOptions) -> None:
    a = await there.member("a", options=ON)
    await a.stop()
    a.options = options
    with behind(a) as router:
        await a.start()
        await until(lambda: a.network().interface is not None)
        a.host.tell(UnderlayChanged(moved=False))
        assert a.daemon._router._socket is None and not router.asked
        await a.stop()


async def test_a_host_with_a_public_address_asks_nobody(there: Controller) -> None:
    a = await there.member("a", options=ON)
    with behind(a) as router:
        a.gateway = IPv4Address("45.0.0.1"), IPv4Address("45.0.0.7")
        a.host.tell(UnderlayChanged(moved=False))
        assert a.daemon._router._socket is None and not router.asked


async def test_a_router_that_listens_to_nobody_is_left_alone(there: Controller) -> None:
    """A real socket, and the ICMP error that comes of it."""
    a = await there.member("a", options=ON)
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        ours.connect(gone.getsockname())
    a.to_router, a.gateway = ours, (GATEWAY, CLIENT)
    a.host.tell(UnderlayChanged(moved=False))
    await until(lambda: a.daemon._router.problem == "silent")
    assert a.daemon._router._mapper.deadline() > a.clock().boot + 60
    ours.close()
