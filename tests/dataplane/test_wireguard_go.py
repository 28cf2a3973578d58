"""Each pump with wireguard-go on the other side: real TUN devices, real TCP, both directions, both families.

`SHADOWMESH_WIREGUARD_GO` names another binary than the one on the PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from pump_namespaces import checksum_errors, entered, transfer

from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.protocol import noise
from shadowmesh.protocol.cookies import CookieJar, mac1_key

BINARY = os.environ.get("SHADOWMESH_WIREGUARD_GO") or shutil.which("wireguard-go")
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not (BINARY and shutil.which("wg")), reason="needs wireguard-go and wireguard-tools"),
]

OURS, THEIRS = ("10.7.0.1", "fd07::1"), ("10.7.0.2", "fd07::2")
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
NET, SLOT, PEER = m.NetIndex(0), m.Slot(0), m.PeerIndex(1)
MTU = 1376


def run(*command: str, stdin: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, input=stdin).stdout


class Side:
    """The pump's side, with the little of an engine that a handshake needs."""

    def __init__(self, space: str, outer: int, name: PumpName) -> None:
        self.space = space
        self.host = HostNetwork()
        self.pump = PumpProcess(name)
        self.static = noise.StaticKeys(noise.generate_private_key())
        with entered(space):
            tun, self.name = open_tun("dpt0")
            sock = open_udp(ip_address("0.0.0.0" if outer == 4 else "::"))
            self.port = sock.getsockname()[1]
            addresses = tuple(map(ip_address, OURS))
            self.host.apply(InterfaceConfig(self.name, MTU, addresses, tuple(ip_network(a) for a in THEIRS)))
        self.pump.apply(
            [
                m.AddTun(NET, tun, MTU, tuple(map(ip_network, OURS))),
                m.AddIdentity(NET, mac1_key(self.static.public)),
                m.AddSocket(SLOT, sock.fileno()),
                m.PutPeer(PEER, NET, tuple(map(ip_network, THEIRS)), roam=True),
            ]
        )
        os.close(tun)
        sock.close()

    def now(self) -> Now:
        return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def wait_for(self, kind: type) -> m.Event:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for event in self.pump.drain():
                if isinstance(event, kind):
                    return event
            time.sleep(0.005)
        raise AssertionError(f"no {kind.__name__} came")

    def install(self, keys: noise.TransportKeys) -> None:
        born = self.now().boot
        session = m.Session(keys.local_index, keys.remote_index, keys.send, keys.recv, keys.initiator, born, born + 180)
        self.pump.apply([m.Install(PEER, session), m.Keepalive(PEER)])

    def initiate(self, peer: WireGuardPublicKey, path: m.Path, index: int) -> None:
        jar = CookieJar(peer)
        hello = noise.Initiation.create(self.static, peer, index, noise.tai64n(time.time()))
        self.pump.apply([m.SetPath(PEER, path), m.Send(path, jar.add_macs(hello.message, self.now()))])
        answer = self.wait_for(m.Datagram)
        assert isinstance(answer, m.Datagram)
        self.install(hello.consume_response(answer.data, Secret(bytes(32))))

    def respond(self, index: int) -> None:
        hello = self.wait_for(m.Datagram)
        assert isinstance(hello, m.Datagram)
        received = noise.ReceivedInitiation.open(self.static, hello.data)
        message, keys = received.respond(index, Secret(bytes(32)))
        jar = CookieJar(received.peer)
        self.pump.apply([m.SetPath(PEER, hello.path)])
        self.install(keys)  # before the answer: the first packet follows it at once
        self.pump.apply([m.Send(hello.path, jar.add_macs(message, self.now()))])
        self.wait_for(m.Confirmed)

    def close(self) -> None:
        self.pump.close()
        self.host.close()


class World:
    """Two namespaces on one veth: the pump in the first, wireguard-go in the second."""

    def __init__(self, family: int, pump: PumpName) -> None:
        self.family = family
        self.pump: PumpName = pump
        self.spaces = (f"dp-wg-a-{os.getpid()}", f"dp-wg-b-{os.getpid()}")
        self.outer = OUTER[family]
        self.wireguard: subprocess.Popen[bytes] | None = None
        self.side: Side | None = None

    def start(self) -> None:
        for space in self.spaces:
            run("ip", "netns", "add", space)
        a, b = self.spaces
        run("ip", "link", "add", "dpv0", "netns", a, "type", "veth", "peer", "name", "dpv0", "netns", b)
        for space, address in zip(self.spaces, self.outer, strict=True):
            run("ip", "-n", space, "link", "set", "lo", "up")
            run(
                "ip",
                "-n",
                space,
                "addr",
                "add",
                f"{address}/{24 if self.family == 4 else 64}",
                "dev",
                "dpv0",
                *(["nodad"] * (self.family == 6)),
            )
            run("ip", "-n", space, "link", "set", "dpv0", "up")
        self.side = Side(a, self.family, self.pump)
        self._start_wireguard(b)

    def _start_wireguard(self, space: str) -> None:
        assert BINARY and self.side
        self.interface = f"dpw{os.getpid()}"[:15]
        command = ["ip", "netns", "exec", space, BINARY, "-f", self.interface]
        self.wireguard = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        control = Path(f"/var/run/wireguard/{self.interface}.sock")
        deadline = time.monotonic() + 10
        while not control.exists():
            assert self.wireguard.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        private = run("wg", "genkey").strip()
        self.public = WireGuardPublicKey.parse(run("wg", "pubkey", stdin=private).strip())
        host = f"[{self.outer[0]}]" if ":" in self.outer[0] else self.outer[0]
        peer = [
            "peer",
            str(self.side.static.public),
            "allowed-ips",
            ",".join(OURS),
            "endpoint",
            f"{host}:{self.side.port}",
        ]
        command = [
            "ip",
            "netns",
            "exec",
            space,
            "wg",
            "set",
            self.interface,
            "listen-port",
            "51820",
            "private-key",
            "/dev/stdin",
        ]
        run(*command, *peer, stdin=private)
        run("ip", "-n", space, "link", "set", self.interface, "mtu", str(MTU), "up")
        for ours, theirs in zip(OURS, THEIRS, strict=True):
            run("ip", "-n", space, "addr", "add", theirs, "dev", self.interface, *(["nodad"] * (":" in theirs)))
            run("ip", "-n", space, "route", "add", ours, "dev", self.interface)

    def path_to_wireguard(self) -> m.Path:
        return m.Path(SLOT, SockAddr(self.outer[1], 51820))

    def close(self) -> None:
        if self.side is not None:
            self.side.close()
        if self.wireguard is not None:
            self.wireguard.terminate()
            self.wireguard.wait()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


@pytest.fixture(params=[4, 6], ids=["outer-ipv4", "outer-ipv6"])
def world(request: pytest.FixtureRequest, pump_name: PumpName) -> Iterator[World]:
    made = World(request.param, pump_name)
    try:
        made.start()
        yield made
    finally:
        made.close()


def everything_passes(world: World) -> None:
    for ours, theirs in zip(OURS, THEIRS, strict=True):
        transfer(*world.spaces, theirs, 24)
        transfer(*reversed(world.spaces), ours, 24)
    assert checksum_errors(world.spaces) == 0
    assert world.side is not None
    record = dict(zip(m.COUNTER_FIELDS, world.side.pump.counters()[len(m.COUNTER_FIELDS) :], strict=False))
    assert record["rx_bytes_direct"] > 48 << 20 and record["tx_bytes_direct"] > 48 << 20
    assert not any(
        record[name] for name in m.COUNTER_FIELDS if name in ("drop_auth", "drop_source", "drop_destination")
    )


def test_with_the_pump_as_initiator_and_across_a_rekey(world: World) -> None:
    assert world.side is not None
    world.side.initiate(world.public, world.path_to_wireguard(), 1)
    everything_passes(world)
    world.side.initiate(world.public, world.path_to_wireguard(), 2)
    transfer(*world.spaces, THEIRS[0], 8)
    transfer(*reversed(world.spaces), OURS[0], 8)
    assert checksum_errors(world.spaces) == 0


def test_with_the_pump_as_responder(world: World) -> None:
    assert world.side is not None
    ping = ["ip", "netns", "exec", world.spaces[1], "ping", "-c", "1", "-W", "10", OURS[0]]
    asking = subprocess.Popen(ping, stdout=subprocess.DEVNULL)
    world.side.respond(1)
    assert asking.wait(15) == 0
    everything_passes(world)
