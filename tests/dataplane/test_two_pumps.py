"""Two python pumps, each in a namespace of its own, joined by a veth: TCP of either family over either family, in super-packets."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network

import pytest
from pump_namespaces import entered, transfer

from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr

pytestmark = pytest.mark.lab

INNER = {4: ("10.7.0.1", "10.7.0.2"), 6: ("fd07::1", "fd07::2")}
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
PORT, MTU = 51820, 1376
NET, SLOT, PEER = m.NetIndex(0), m.Slot(0), m.PeerIndex(1)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def pump(space: str, side: int, outer: int) -> Iterator[None]:
    with ExitStack() as stack:
        host = HostNetwork()
        stack.callback(host.close)
        found = PumpProcess("python")
        stack.callback(found.close)
        ours, theirs = ([ip_network(ends[i]) for ends in INNER.values()] for i in (side, 1 - side))
        with entered(space):
            tun, name = open_tun("dpt0")
            sock = open_udp(ip_address(OUTER[outer][side]), PORT)
            host.apply(InterfaceConfig(name, MTU, tuple(n.network_address for n in ours), tuple(theirs)))
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        keys = [bytes([1]) * 32, bytes([2]) * 32]
        found.apply(
            [
                m.AddTun(NET, tun, MTU, tuple(ours)),
                m.AddSocket(SLOT, sock.fileno()),
                m.PutPeer(PEER, NET, tuple(theirs)),
                m.SetPath(PEER, m.Path(SLOT, SockAddr(OUTER[outer][1 - side], PORT))),
                m.Install(PEER, m.Session(side + 1, 2 - side, keys[side], keys[1 - side], True, now, now + 180)),
            ]
        )
        os.close(tun)
        sock.close()
        yield


@pytest.fixture(params=[4, 6], ids=["over-ipv4", "over-ipv6"])
def spaces(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    outer = request.param
    names = (f"dp-two-a-{os.getpid()}", f"dp-two-b-{os.getpid()}")
    with ExitStack() as stack:
        for name in names:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
        run("ip", "link", "add", "dpv0", "netns", names[0], "type", "veth", "peer", "name", "dpv0", "netns", names[1])
        for name, address in zip(names, OUTER[outer], strict=True):
            more = ("nodad",) if outer == 6 else ()
            run("ip", "-n", name, "addr", "add", f"{address}/{24 if outer == 4 else 64}", "dev", "dpv0", *more)
            run("ip", "-n", name, "link", "set", "dpv0", "up")
        for side, name in enumerate(names):
            stack.enter_context(pump(name, side, outer))
        yield names


def statistics(space: str, device: str, way: str) -> dict[str, int]:
    """Bytes and packets of an interface as the kernel counts them: a super-packet is one."""
    found = json.loads(run("ip", "-j", "-s", "-n", space, "link", "show", device))
    return dict(found[0]["stats64"][way])


@pytest.mark.parametrize("inner", [4, 6], ids=["ipv4", "ipv6"])
def test_tcp_arrives_whole_and_in_super_packets(spaces: tuple[str, str], inner: int) -> None:
    transfer(*spaces, INNER[inner][1], 16)
    for space, device, way in ((spaces[0], "dpt0", "tx"), (spaces[0], "dpv0", "tx"), (spaces[1], "dpt0", "rx")):
        counted = statistics(space, device, way)
        assert counted["bytes"] / counted["packets"] > 5 * MTU, (device, way, counted)
