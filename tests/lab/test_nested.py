"""Another VPN, and containers' bridges, on both hosts: the path stays on the real network, and uses the VPN only where nothing else is left."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from shadowmesh.dataplane.tun import open_tun
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.status import PeerStatus

pytestmark = pytest.mark.lab


class Vpn(threading.Thread):
    """A VPN of two hosts that needs no network: what goes into the one's interface comes out of the other's."""

    def __init__(self, fds: list[int]) -> None:
        super().__init__(daemon=True)
        self._fds = fds
        self._ended = os.eventfd(0)
        self.start()

    def run(self) -> None:
        one, other = self._fds
        while True:
            ready, _, _ = select.select([one, other, self._ended], [], [])
            if self._ended in ready:
                return
            for fd in ready:
                os.write(other if fd == one else one, os.read(fd, 1 << 17))

    def close(self) -> None:
        os.eventfd_write(self._ended, 1)
        self.join()
        for fd in (*self._fds, self._ended):
            os.close(fd)


@pytest.fixture(scope="module")
def world(module_lab_factory) -> Iterator[World]:
    lab = module_lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec()), relays=1, controllers=1))
    fds = []
    for number, name in enumerate(("h1", "h2"), 1):
        host = lab.host(name)
        fds.append(host.run_in(lambda: open_tun("vpn0"))[0])
        for command in (
            f"addr add 10.99.0.{number}/24 dev vpn0", "link set vpn0 up",
            "link add docker0 type bridge", "link set docker0 up", f"addr add 172.17.0.{number}/16 dev docker0",
            "link add c0 type veth peer name c1", "link set c0 master docker0", "link set c0 up", "link set c1 up",
        ):  # fmt: skip
            host.exec(["ip", *command.split()])
    vpn = Vpn(fds)
    try:
        world = World(lab)
        world.mesh()
        yield world
    finally:
        vpn.close()


def peer(world: World, host: str) -> PeerStatus:
    (network,) = world.client(host).status().networks
    return network.peers[0]


def until_reason(world: World, *wanted: str, timeout: float = 30.0) -> None:
    """Until both sides give one of these reasons, while one speaks to the other."""
    deadline = time.monotonic() + timeout
    while not {peer(world, "h1").reason, peer(world, "h2").reason} <= set(wanted):
        assert time.monotonic() < deadline, (peer(world, "h1"), peer(world, "h2"), world.client("h1").why("h2"))
        world.lab.host("h1").exec(["ping", "-c", "1", "-W", "0.3", peer(world, "h1").ip], check=False)


def test_the_path_is_the_real_one_though_the_vpn_answers_too(world: World) -> None:
    assert world.lab.host("h1").exec(["ping", "-c", "1", "-W", "2", "10.99.0.2"]).returncode == 0
    world.run("h1", "ping", "h2", "--until-direct", "--timeout", "20")
    until_reason(world, "direct.public", "direct.punched")
    endpoint = peer(world, "h1").endpoint
    assert endpoint and SockAddr.parse(endpoint).host == world.lab.host("h2").address
    kinds = {a.candidate.rpartition(":")[0]: a.kind for a in world.client("h1").why("h2").attempts}
    assert kinds.get("10.99.0.2", "nested") == "nested" and not any(a.startswith("172.17.") for a in kinds)


def test_only_without_a_relay_the_vpn_carries_the_path_and_a_relay_takes_it_back(world: World) -> None:
    world.lab.cut("h1", "h2")
    until_reason(world, "relay.path_lost", "relay.no_answer", "relay.upgrading")
    world.stop("relay1", kill=True)
    until_reason(world, "direct.nested", timeout=40.0)
    assert world.lab.host("h1").exec(["ping", "-c", "3", "-i", "0.2", "-w", "5", peer(world, "h1").ip]).returncode == 0
    why = world.run("h1", "why", "h2", codes=(0,)).stdout
    assert "direct.nested" in why
    world.start_relay()
    until_reason(world, "relay.path_lost", "relay.no_answer", "relay.upgrading", timeout=90.0)
    world.lab.heal()
    until_reason(world, "direct.public", "direct.punched", timeout=90.0)
