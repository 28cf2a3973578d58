"""A client whose disk is full, or whose state another process holds: what its controller says counts at once, and is saved
as soon as it can be."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from meshkit import until_direct

from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import NETWORK, World
from shadowmesh.model.status import NetworkStatus

pytestmark = pytest.mark.lab

PAGE = 4096
Trouble = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def world(module_lab_factory) -> Iterator[World]:
    """h1's state, and its log, are on a disk of 1 MiB of their own."""
    world = World(module_lab_factory(LabSpec(sites=(SiteSpec(),) * 3, relays=1, controllers=1)))
    disk = world.lab.host("h1").state_directory
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    try:
        yield world
    finally:
        if "h1" in world.running:
            world.stop("h1")
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="module")
def addresses(world: World) -> dict[str, str]:
    return world.mesh()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte more fits on the disk, nor into the log, whose last page is filled up."""
    filler, log = disk / "filler", disk / "log"
    with log.open("ab") as file:
        file.write(b"\n" * (-log.stat().st_size % PAGE))
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(PAGE))
    yield
    filler.unlink()


@contextmanager
def held(disk: Path) -> Iterator[None]:
    """Another process has begun to write to the state, and doesn't end."""
    with sqlite3.connect(disk / "state.db", isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
    db.close()


def network(world: World) -> NetworkStatus:
    (found,) = world.client("h1").status().networks
    return found


def answers(world: World, source: str, address: str) -> bool:
    ping = ["ping", "-c", "1", "-W", "0.3", address]
    return world.lab.host(source).exec(ping, check=False).returncode == 0


@pytest.mark.parametrize(("trouble", "gone"), [(full, "h2"), (held, "h3")], ids=["full", "held"])
def test_a_removal_acts_at_once_and_is_saved_later(
    world: World, addresses: dict[str, str], told, trouble: Trouble, gone: str
) -> None:
    disk = world.lab.host("h1").state_directory
    until_direct(world, "h1", gone)
    world.lab.cut(gone, "controller1")  # it doesn't hear of its removal, and goes on asking by the direct path
    assert answers(world, gone, addresses["h1"])
    with trouble(disk):
        world.manage("client", "remove", NETWORK, gone, "--yes")
        removed = time.monotonic()
        while answers(world, gone, addresses["h1"]):
            assert time.monotonic() < removed + 10, "it still gets answers"
        told("the removed peer's last answer, s", round(time.monotonic() - removed, 2))
        assert time.monotonic() - removed <= 2.0
        world.manage("network", "rotate-key", NETWORK)  # the map lies beside what is held; the keys are in it
        world.until(lambda: "warning: not everything is saved" in world.run("h1", "status").stdout, "the warning")
        assert not any(answers(world, gone, addresses["h1"]) for _ in range(3))
    world.until(lambda: world.status("h1").warnings == (), "all is saved", timeout=6.0)
    assert world.stop("h1") == 0
    world.lab.cut("h1", "controller1")
    world.start_daemon("h1")
    world.until(lambda: network(world).state == "up", "the network from the disk alone")
    assert gone not in {p.name for p in network(world).peers}
    world.lab.heal()
    world.until(lambda: network(world).controller == "connected", "the controller")

    before = network(world).epoch
    with trouble(disk):
        world.manage("network", "rotate-key", NETWORK)
        world.until(lambda: network(world).epoch > before, "the new key")
        assert world.status("h1").warnings
        assert world.stop("h1") == 0
    world.start_daemon("h1")
    world.until(lambda: network(world).state == "up" and network(world).epoch > before, "the new key after a restart")
    world.until(lambda: world.status("h1").warnings == (), "nothing waits any more")
