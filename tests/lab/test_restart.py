"""A daemon is killed and started again: packets through the tunnel arrive within a second, whoever speaks, and the controller
may be away. Measured with packets of this test's own, in both directions, directly and by relay.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from meshkit import until_direct

from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = pytest.mark.lab

PORT = 9999
EVERY = 0.02
TRIES = 2  # each way, for each pair, with the controller and without


@pytest.fixture(scope="module", params=["controller", "no controller"])
def mesh(request: pytest.FixtureRequest, module_lab_factory) -> tuple[World, dict[str, str]]:
    """h1 and h2 direct, h3 symmetric and so relayed to both."""
    nats = (NatType.PORT_RESTRICTED, NatType.PORT_RESTRICTED, NatType.SYMMETRIC)
    lab = module_lab_factory(LabSpec(sites=tuple(SiteSpec(nat=nat) for nat in nats), relays=1, controllers=1))
    world = World(lab)
    addresses = world.mesh()
    until_direct(world, "h1", "h2")
    if request.param == "no controller":
        world.stop("controller1", kill=True)
    return world, addresses


@contextmanager
def speaking(world: World, source: str, address: str) -> Iterator[None]:
    """Datagrams from a host to an overlay address, whether there is an interface or not."""
    stop = threading.Event()
    sock = world.lab.host(source).socket()

    def speak() -> None:
        while not stop.wait(EVERY):
            with suppress(OSError):
                sock.sendto(bytes(100), (address, PORT))

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sock.close()


def hears(sock: socket.socket, timeout: float) -> float:
    """When the next datagram is there, that isn't yet."""
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sock.recv(2048)
    ready, _, _ = select.select([sock], [], [], timeout)
    assert ready, f"nothing was heard within {timeout} s"
    return time.monotonic()


def restart(world: World, host: str, own: str, other: str) -> float:
    """Kills a daemon and starts it again; returns when its interface was there."""

    def interface_is_there() -> bool:
        """The kernel is asked for the source address of a way to the other one, which sends nothing."""
        with world.lab.host(host).socket() as probe, suppress(OSError):
            probe.connect((other, PORT))
            return bool(probe.getsockname()[0] == own)
        return False

    world.stop(host, kill=True)
    world.until(lambda: not interface_is_there(), f"the end of {host}'s interface")
    world._start(host, "daemon", "run", "--state-dir", str(world.lab.host(host).state_directory))
    deadline = time.monotonic() + 20.0
    while not interface_is_there():
        assert time.monotonic() < deadline, f"{host} has no interface"
        time.sleep(0.005)
    return time.monotonic()


@pytest.mark.parametrize(("peer", "path"), [("h2", "direct"), ("h3", "relay")])
@pytest.mark.parametrize("speaker", ["the peer", "the restarted one"])
def test_heard_within_a_second(mesh: tuple[World, dict[str, str]], peer: str, path: str, speaker: str, told) -> None:
    world, addresses = mesh
    source, listener = ("h1", peer) if speaker == "the peer" else (peer, "h1")
    took = []
    with world.lab.host(listener).socket() as sock, speaking(world, source, addresses[listener]):
        sock.bind(("", PORT))
        hears(sock, 20.0)
        (entry,) = [p for p in world.status("h1").networks[0].peers if p.name == peer]
        assert entry.path == path
        for _ in range(TRIES):
            time.sleep(3.0)  # until it is on disk whom it talks with
            began = restart(world, peer, addresses[peer], addresses["h1"])
            took.append(hears(sock, 20.0) - began)
    told(f"interface to first packet through the tunnel, {path}, {speaker} speaks, s", [round(t, 2) for t in took])
    assert max(took) <= 1.0
