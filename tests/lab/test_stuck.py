"""A tunnel that is dead while the daemons answer, and a daemon or a pump that is stopped: what people are told, and how soon."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from meshkit import ping, until_direct

from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def world(module_lab_factory) -> World:
    world = World(module_lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec()), relays=1, controllers=1)))
    world.mesh()
    until_direct(world, "h1", "h2")
    return world


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def test_ping_goes_through_the_tunnel_and_says_when_only_the_daemon_answers(world: World) -> None:
    (attempt,) = ping(world, "h1", "h2")
    assert attempt.ok and attempt.path == "direct" and attempt.latency_ms
    ignore = "net.ipv4.icmp_echo_ignore_all"
    world.lab.host("h2").exec(["sysctl", "-qw", f"{ignore}=1"])
    try:
        told = world.run("h1", "ping", "h2", "-c", "1", codes=(20,)).stdout
        assert "none.no_echo" in told and "outside" in told
        world.run("h1", "wait", "h2", "--state", "up", "--timeout", "3", codes=(1,))
    finally:
        world.lab.host("h2").exec(["sysctl", "-qw", f"{ignore}=0"])
    world.run("h1", "wait", "h2", "--state", "direct", "--timeout", "10")


def test_a_stopped_daemon_hangs_no_verb_and_carries_nothing_out_later(world: World, told) -> None:
    pid = world.running["h1"].pid
    verbs = (
        "status", "peers", "ping h2", "why h2", "down", "leave demo --yes", "wait h2 --timeout 2", "doctor",
    )  # fmt: skip
    with stopped(pid):
        for verb in verbs:
            began = time.monotonic()
            done = world.run("h1", *verb.split(), codes=(1, 3))
            took = time.monotonic() - began
            told(verb, round(took, 2))
            assert took <= 5.0, verb
            assert f"(pid {pid}) doesn't answer" in done.stdout + done.stderr, (verb, done)
    (network,) = world.client("h1").status().networks
    assert network.state == "up", "what was given up wasn't carried out"


def test_a_stopped_pump_is_replaced(world: World) -> None:
    (pump,) = children(world.running["h1"].pid)
    os.kill(pump, signal.SIGSTOP)
    deadline = time.monotonic() + 40
    while pump in (found := children(world.running["h1"].pid)) or not found:
        assert time.monotonic() < deadline, "it is still there"
        assert world.client("h1").status().networks[0].state == "up", "the daemon answers meanwhile"
        time.sleep(0.2)
    until_direct(world, "h1", "h2", 20.0)
