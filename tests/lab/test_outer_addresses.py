"""A network never cuts its hosts off, whatever its subnet covers: controllers, relays, peers' outer addresses, the programs that talk to them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import pytest

from shadowmesh.dataplane.outer import FirewallMark
from shadowmesh.lab.internet import Host
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import CONTROLLER_PORT, RELAY_PORT, World
from shadowmesh.model.addresses import SockAddr

pytestmark = pytest.mark.lab

OTHER = "controller2"
SERVICE = 7000


@dataclass
class Covered:
    """h1 is in networks of a controller of its own whose subnets cover all that the mesh "demo" stands on, and in "demo" with h2."""

    world: World
    ips: dict[str, str]

    def host(self, name: str) -> Host:
        return self.world.lab.host(name)


def around(address: str) -> str:
    """The /24 of an address."""
    return address.rpartition(".")[0] + ".0/24"


def cover(world: World, *machines: str) -> dict[str, str]:
    """A network of the other controller over each machine's outer address; returns their invites."""
    invites = {}
    for name in machines:
        network = f"over-{name}"
        world.manage("network", "create", network, "--subnet", around(world.lab.host(name).address), controller=OTHER)
        made = world.manage("network", "invite", network, "--uses", "5", controller=OTHER)
        invites[name] = str(made["invite"])
    return invites


def until(check: Callable[[], object], what: str, timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def connects(host: Host, address: str, port: int) -> bool:
    """Whether a program that knows nothing of marks gets a TCP connection."""

    def attempt() -> bool:
        try:
            with closing(socket.create_connection((address, port), timeout=2.0)):
                return True
        except OSError:
            return False

    return host.run_in(attempt)


@pytest.fixture(scope="module")
def covered(module_lab_factory) -> Covered:
    lab = module_lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec()), relays=1, controllers=2))
    world = World(lab)
    world.start_controller(OTHER)
    world.start_daemon("h1")
    # before there is anything to be cut off from, as an innocent network would be
    for invite in cover(world, "controller1", "relay1", "h2").values():
        world.join("h1", invite)
    world.start_controller()
    world.start_relay()
    world.create_network()
    world.start_daemon("h2")
    invite = world.invite(uses=2)
    ips = {host: world.join(host, invite).ip for host in ("h1", "h2")}
    until(lambda: world._knows("h1", "demo", {"h2"}), "h1 has the map")
    return Covered(world, ips)


def test_the_mesh_goes_on_over_networks_that_cover_controller_relay_and_peer(covered: Covered) -> None:
    world = covered.world
    status = world.client("h1").status()
    assert {n.name: (n.state, n.controller) for n in status.networks} == dict.fromkeys(
        ("demo", "over-controller1", "over-relay1", "over-h2"), ("up", "connected")
    )
    world.run("h1", "ping", "h2", "--until-direct", "--timeout", "20")
    (network,) = [n for n in world.client("h1").status().networks if n.name == "demo"]
    assert network.home_relay == "relay1"
    (peer,) = network.peers
    assert peer.endpoint and SockAddr.parse(peer.endpoint).host == covered.host("h2").address
    assert covered.host("h1").exec(["ping", "-c", "3", "-i", "0.2", "-w", "5", covered.ips["h2"]]).returncode == 0


@pytest.mark.parametrize("name", ["h1", "relay1", "controller1", "controller2"])
def test_every_socket_of_every_role_is_marked(covered: Covered, name: str) -> None:
    """TCP and UDP, listening, accepted and connecting, as the kernel lists them."""
    lines = covered.host(name).exec(["ss", "-Htuanpe"]).stdout.splitlines()
    sockets = [line for line in lines if "users:" in line and "127.0.0.1" not in line]
    assert {line.split()[0] for line in sockets} == {"tcp", "udp"}
    assert [line for line in sockets if f"fwmark:{FirewallMark().value:#x}" not in line] == []


def test_programs_that_mark_nothing_reach_controller_relay_and_peers_in_use(covered: Covered) -> None:
    world, h1, h2 = covered.world, covered.host("h1"), covered.host("h2")
    world.run("h1", "ping", "h2", "--until-direct", "--timeout", "20")

    def serve() -> socket.socket:
        return socket.create_server(("0.0.0.0", SERVICE))

    with closing(h2.run_in(serve)):
        assert connects(h1, world.lab.host("controller1").address, CONTROLLER_PORT)
        assert connects(h1, world.lab.host("relay1").address, RELAY_PORT)
        until(lambda: connects(h1, h2.address, SERVICE), "ssh to the peer's outer address")


def test_two_networks_live_on_when_one_goes_down(covered: Covered) -> None:
    world = covered.world
    world.run("h1", "down", "over-relay1")
    assert covered.host("h1").exec(["ping", "-c", "3", "-i", "0.2", "-w", "5", covered.ips["h2"]]).returncode == 0
    done = world.run("h1", "up", "over-relay1", codes=(6,))  # who asks is told now that it covers a relay
    assert covered.host("relay1").address in done.stderr
    assert connects(covered.host("h1"), world.lab.host("relay1").address, RELAY_PORT)


def test_a_network_over_what_this_host_needs_is_refused_and_the_invite_stays_good(covered: Covered) -> None:
    world = covered.world
    invite = str(world.manage("network", "invite", "over-controller1", controller=OTHER)["invite"])
    done = world.run("h2", "join", "-", stdin=invite + "\n", codes=(6,))
    assert world.lab.host("controller1").address in done.stderr
    listed = world.manage("network", "invites", "over-controller1", controller=OTHER)
    assert all(i["uses_left"] for i in listed["invites"] if i["uses"] == 1)
    assert [n.name for n in world.client("h2").status().networks] == ["demo"]


def test_nothing_of_it_remains_after_a_crash_and_a_stop(covered: Covered) -> None:
    world, host = covered.world, covered.host("h1")

    def ours() -> list[str]:
        found = []
        for family in ("-4", "-6"):
            rules = json.loads(host.exec(["ip", "-j", family, "rule"]).stdout)
            found += [f"rule {r['priority']}" for r in rules if r["priority"] not in (0, 32766, 32767)]
            routes = host.exec(["ip", family, "route", "show", "table", "all", "proto", "83"], check=False).stdout
            found += routes.splitlines()
        return found

    assert len(ours()) > 8
    world.stop("h1", kill=True)
    until(lambda: "dev shadowmesh" not in "".join(ours()), "the devices went with the daemon")
    assert ours()  # rules outlive a process
    world.start_daemon("h1")
    world.run("h1", "ping", "h2", "--until-direct", "--timeout", "20")
    world.stop("h1")
    assert ours() == []
    assert host.exec(["cat", "/proc/sys/net/ipv4/conf/all/src_valid_mark"]).stdout.strip() == "0"
