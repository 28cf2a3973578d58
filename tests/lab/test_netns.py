"""`up --netns`: a network over this host's own LAN lives in a namespace of the host's, and the LAN stays what it is."""

from __future__ import annotations

import os
import subprocess

import pytest

from shadowmesh.lab import netns
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = pytest.mark.lab

PLACE = f"smtest-{os.getpid()}"


def around(address: str) -> str:
    """The /24 of an address."""
    return address.rpartition(".")[0] + ".0/24"


def test_a_network_over_the_hosts_own_lan_lives_in_a_namespace(module_lab_factory) -> None:
    world = World(module_lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec()), relays=1, controllers=1)))
    world.start_controller()
    world.start_relay()
    for host in ("h1", "h2"):
        world.start_daemon(host)
    h1 = world.lab.host("h1")
    world.create_network("wide", around(h1.address))
    invite = world.invite("wide", uses=2)
    done = world.run("h1", "join", "-", "--name", "h1", stdin=invite + "\n", codes=(6,))
    assert "--netns NAME" in done.stderr
    world.run("h1", "join", "-", "--name", "h1", "--netns", PLACE, stdin=invite + "\n", codes=(5,))
    lan = h1.exec(["ip", "-brief", "addr"]).stdout
    netns.create(PLACE)
    try:
        world.run("h1", "join", "-", "--name", "h1", "--netns", PLACE, stdin=invite + "\n")
        other = world.join("h2", invite).ip
        (network,) = world.client("h1").status().networks
        assert (network.state, network.netns) == ("up", PLACE)
        world.until(lambda: world._knows("h1", "wide", {"h2"}), "h1 has the map")
        world.run("h1", "ping", "h2", "--until-direct", "--timeout", "20")
        inside = ["ip", "netns", "exec", PLACE]
        pinged = subprocess.run(
            [*inside, "ping", "-c", "3", "-i", "0.2", "-w", "10", other], capture_output=True, text=True, timeout=60
        )
        assert pinged.returncode == 0, pinged.stdout + pinged.stderr
        assert h1.exec(["ip", "-brief", "addr"]).stdout == lan, "nothing of it is on the host itself"
        world.run("h1", "up", "wide", "--no-netns", codes=(6,))
        (network,) = world.client("h1").status().networks
        assert (network.state, network.netns) == ("up", PLACE)
        world.stop("h1")
        shown = subprocess.run([*inside, "ip", "-brief", "link"], capture_output=True, text=True, timeout=60)
        assert "shadowmesh" not in shown.stdout
    finally:
        netns.delete(PLACE)
