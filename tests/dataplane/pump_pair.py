"""Two pumps in two namespaces on one veth, with fixed keys and two ways between them. Needs root."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import ExitStack
from ipaddress import ip_address, ip_network

from pump_namespaces import entered, transfer

from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr

INNER = ("10.7.0.1", "10.7.0.2")
_OUTER = ("192.0.2.1", "192.0.2.2")
_PORTS = (51820, 51821)
_KEYS = (bytes([1]) * 32, bytes([2]) * 32)
MTU = 1376
PEER = m.PeerIndex(0)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Pair:
    """The two pumps are named from left to right; `spaces` are the namespaces to open sockets in."""

    def __init__(self, names: tuple[PumpName, PumpName]) -> None:
        self._stack = ExitStack()
        self.spaces = (f"dp-pr-a-{os.getpid()}", f"dp-pr-b-{os.getpid()}")
        for space in self.spaces:
            run("ip", "netns", "add", space)
            self._stack.callback(run, "ip", "netns", "del", space)
        a, b = self.spaces
        run("ip", "link", "add", "dpv0", "netns", a, "type", "veth", "peer", "name", "dpv0", "netns", b)
        for space, address in zip(self.spaces, _OUTER, strict=True):
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "dpv0")
            run("ip", "-n", space, "link", "set", "dpv0", "up")
        self.pumps = [self._side(i, name) for i, name in enumerate(names)]

    def _side(self, i: int, name: PumpName) -> PumpProcess:
        pump = PumpProcess(name)
        self._stack.callback(pump.close)
        with entered(self.spaces[i]):
            tun, device = open_tun("dpt0")
            host = HostNetwork()
            self._stack.callback(host.close)
            host.apply(InterfaceConfig(device, MTU, (ip_address(INNER[i]),), (ip_network(INNER[1 - i]),)))
            run(
                "ip", "-n", self.spaces[i], "link", "set", device, "txqueuelen", "10000"
            )  # a busy machine is not the pump's loss
            socks = [open_udp(ip_address("0.0.0.0"), port) for port in _PORTS]
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        send, receive = (_KEYS, _KEYS[::-1])[i]
        pump.apply(
            [
                m.AddTun(m.NetIndex(0), tun, MTU, (ip_network(INNER[i]),)),
                *(m.AddSocket(m.Slot(n), sock.fileno()) for n, sock in enumerate(socks)),
                m.PutPeer(PEER, m.NetIndex(0), (ip_network(INNER[1 - i]),)),
                m.SetPath(PEER, self.path(i, 0)),
                m.Install(PEER, m.Session(1 + i, 2 - i, send, receive, True, now, now + 600)),
            ]
        )
        os.close(tun)
        for sock in socks:
            sock.close()
        return pump

    def path(self, i: int, way: int) -> m.Path:
        """From side `i` by way 0 or 1: own sockets and ports at both ends."""
        return m.Path(m.Slot(way), SockAddr(_OUTER[1 - i], _PORTS[way]))

    def steer(self, way: int) -> None:
        """Both sides send by way 0 or 1 from now on."""
        for i, pump in enumerate(self.pumps):
            pump.apply([m.SetPath(PEER, self.path(i, way))])

    def counter(self, i: int, field: str) -> int:
        """Of side `i`'s peer."""
        return self.pumps[i].counters()[len(m.COUNTER_FIELDS) + m.COUNTER_FIELDS.index(field)]

    def udp(self, i: int) -> socket.socket:
        """A socket on side `i`'s inner address."""
        with entered(self.spaces[i]):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.bind((INNER[i], 0))
        sock.settimeout(5)
        return self._stack.enter_context(sock)

    def tcp(self, i: int) -> tuple[socket.socket, socket.socket]:
        """A connection from side `i` to the other: both ends, that of side `i` first."""
        with entered(self.spaces[1 - i]):
            listener = socket.create_server((INNER[1 - i], 0))
        with entered(self.spaces[i]):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            self._stack.enter_context(client)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            client.settimeout(5)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
        server.settimeout(5)
        return client, self._stack.enter_context(server)

    def transfer(self, source: int, megabytes: int) -> None:
        """Over TCP from side `source`; both ends must have hashed the same."""
        transfer(self.spaces[source], self.spaces[1 - source], INNER[1 - source], megabytes)

    def close(self) -> None:
        self._stack.close()
