"""What the conformance suite sees of a pump: interfaces, sockets, remotes, time. One rig per way to run a pump.

A remote is a bare UDP endpoint of the test's own: it plays peers, relays and strangers by hand.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from pump_namespaces import entered

from shadowmesh.dataplane import counters as c
from shadowmesh.dataplane.interface import Pump
from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.pumps import PumpName, native_built
from shadowmesh.dataplane.sim import SimPump
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now

PATIENCE = 5.0
SLOT = m.Slot(0)


def pump_or_skip(name: PumpName) -> PumpName:
    """The pump's name. Where cargo works, the native pump is there or the test fails; without it, it is skipped."""
    if name == "native" and not native_built():
        if _cargo_works():
            pytest.fail(
                "cargo is here, but the native pump isn't built: `pip install -e .` builds it and says why it can't"
            )
        pytest.skip("the native pump needs cargo to be built")
    return name


def _cargo_works() -> bool:
    """rustup's proxy is on the path without a toolchain, too."""
    cargo = shutil.which("cargo")
    return cargo is not None and subprocess.run([cargo, "--version"], capture_output=True, check=False).returncode == 0


class Rig(ABC):
    """A pump under test and its surroundings."""

    pump: Pump
    real = True  # packets cross descriptors; False: everything happens within the call

    def __init__(self) -> None:
        self.events: list[m.Event] = []

    # commands and events

    def apply(self, *commands: m.Command) -> None:
        self.pump.apply(commands)

    def drain(self) -> list[m.Event]:
        """Takes all events that are there, and returns all that were not yet taken."""
        while found := self.pump.drain(1000):
            self.events += found
        taken, self.events = self.events, []
        return taken

    def expect(self, kind: type, number: int = 1) -> list[m.Event]:
        """Waits for `number` events of a type; others stay for later."""

        def enough() -> bool:
            while found := self.pump.drain(1000):
                self.events += found
            return sum(isinstance(e, kind) for e in self.events) >= number

        self.until(enough)
        matching = [e for e in self.events if isinstance(e, kind)]
        self.events = [e for e in self.events if not isinstance(e, kind)]
        return matching

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds; fails after a few seconds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.real and time.monotonic() < deadline, "waited in vain"
            time.sleep(0.002)

    def counter(self, peer: int | None, field: str) -> int:
        """A counter of a peer, or with None of what belongs to nobody."""
        wanted = 0 if peer is None else peer + 1
        table = self.pump.counters()
        for number in range(1 if peer is not None else 0, 64):
            if table[number * c.FIELDS] == wanted:
                return table[number * c.FIELDS + m.COUNTER_FIELDS.index(field)]
        return 0

    def settle(self, slot: m.Slot = SLOT) -> None:
        """Returns when the pump has handled all that had arrived on the slot (its sockets are first in, first out)."""
        if not self.real:
            return
        marker = b"SM\x01\x01" + os.urandom(100)
        self.arrive(slot, "settler", marker)

        def handled() -> bool:
            while found := self.pump.drain(1000):
                self.events += found
            return any(isinstance(e, m.Datagram) and e.data == marker for e in self.events)

        self.until(handled)
        self.events = [e for e in self.events if not (isinstance(e, m.Datagram) and e.data == marker)]

    def sync(self, slot: m.Slot = SLOT) -> None:
        """Returns when all commands so far are in effect."""
        self.apply(m.Send(m.Path(slot, self.remote("sync")), b"sync"))
        self.sent_to("sync", 1)

    def fail_sends(self, slot: m.Slot, error: int) -> bool:
        """Lets sends on the slot fail with an errno, 0 to end it. False where that can't be arranged."""
        return False

    def expect_counter(self, peer: int | None, field: str, value: int) -> None:
        self.until(lambda: self.counter(peer, field) >= value)
        assert self.counter(peer, field) == value

    # surroundings

    @abstractmethod
    def now(self) -> float:
        """CLOCK_BOOTTIME as the pump sees it."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None: ...

    @abstractmethod
    def add_net(self, net: m.NetIndex, local: str, mtu: int = 1376) -> None: ...

    @abstractmethod
    def add_socket(self, slot: m.Slot) -> None: ...

    @abstractmethod
    def add_stream(self, slot: m.Slot) -> None: ...

    @abstractmethod
    def close_stream(self, slot: m.Slot) -> None:
        """The task at the other end of the stream goes away."""

    @abstractmethod
    def remote(self, name: str) -> SockAddr:
        """The address of a remote, made on first mention."""

    @abstractmethod
    def arrive(self, slot: m.Slot, remote: str, *datagrams: bytes) -> None:
        """Datagrams from the remote reach the pump's socket, in order."""

    @abstractmethod
    def sent_to(self, remote: str, number: int) -> list[bytes]:
        """Waits for `number` datagrams at the remote and returns all that are there."""

    @abstractmethod
    def frames_in(self, slot: m.Slot, *frames: bytes) -> None: ...

    @abstractmethod
    def frames_out(self, slot: m.Slot, number: int) -> list[bytes]: ...

    @abstractmethod
    def host_sends(self, net: m.NetIndex, *packets: bytes) -> None:
        """This host's kernel hands packets to the network's interface."""

    @abstractmethod
    def host_got(self, net: m.NetIndex, number: int) -> list[bytes]:
        """Waits for `number` packets from the interface and returns all that are there."""

    @abstractmethod
    def lose_remote(self, name: str) -> None:
        """The remote's port closes: sends to it come back as ICMP errors where there is ICMP."""

    def close(self) -> None:
        self.pump.close()


class SimRig(Rig):
    """SimPump, in virtual time."""

    real = False

    def __init__(self) -> None:
        super().__init__()
        self._time = 1000.0
        self.pump = self.sim = SimPump(lambda: Now(self._time, 0.0))
        self._names: dict[str, SockAddr] = {}
        self._wire: dict[SockAddr, list[bytes]] = {}
        self._frames: dict[int, list[bytes]] = {}
        self._host: dict[int, list[bytes]] = {}

    def _collect(self) -> None:
        for out in self.sim.take_outgoing():
            if out.remote is None:
                self._frames.setdefault(out.slot, []).append(out.data)
            else:
                self._wire.setdefault(out.remote, []).append(out.data)
        for net, packet in self.sim.take_delivered():
            self._host.setdefault(net, []).append(packet)

    def now(self) -> float:
        return self._time

    def pass_time(self, seconds: float) -> None:
        self._time += seconds

    def add_net(self, net: m.NetIndex, local: str, mtu: int = 1376) -> None:
        self.apply(m.AddTun(net, -1, mtu, (ip_network(local),)))

    def add_socket(self, slot: m.Slot) -> None:
        self.apply(m.AddSocket(slot, -1))

    def add_stream(self, slot: m.Slot) -> None:
        self.apply(m.AddStream(slot, -1))

    def close_stream(self, slot: m.Slot) -> None:
        self.sim.end(slot)

    def remote(self, name: str) -> SockAddr:
        return self._names.setdefault(name, SockAddr("198.51.100.7", 4000 + len(self._names)))

    def arrive(self, slot: m.Slot, remote: str, *datagrams: bytes) -> None:
        for data in datagrams:
            self.sim.receive(slot, self.remote(remote), data)

    def sent_to(self, remote: str, number: int) -> list[bytes]:
        self._collect()
        found = self._wire.pop(self.remote(remote), [])
        assert len(found) >= number
        return found

    def frames_in(self, slot: m.Slot, *frames: bytes) -> None:
        for frame in frames:
            self.sim.receive_stream(slot, frame)

    def frames_out(self, slot: m.Slot, number: int) -> list[bytes]:
        self._collect()
        found = self._frames.pop(slot, [])
        assert len(found) >= number
        return found

    def host_sends(self, net: m.NetIndex, *packets: bytes) -> None:
        for packet in packets:
            self.sim.inject_tun(net, packet)

    def host_got(self, net: m.NetIndex, number: int) -> list[bytes]:
        self._collect()
        found = self._host.pop(net, [])
        assert len(found) >= number
        return found

    def lose_remote(self, name: str) -> None:
        pass

    def fail_sends(self, slot: m.Slot, error: int) -> bool:
        self.sim.fail(slot, error)
        return True


class ProcessRig(Rig):
    """A pump in its process, sockets on loopback, and SOCK_SEQPACKET socketpairs where TUN descriptors go.

    Needs no root. A socketpair carries one packet per read as a TUN does, without the kernel's offloads.
    """

    pump: PumpProcess

    def __init__(self, name: PumpName) -> None:
        super().__init__()
        self.pump = PumpProcess(name)
        self._sockets: dict[int, SockAddr] = {}
        self._remotes: dict[str, socket.socket] = {}
        self._streams: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._tuns: dict[int, socket.socket] = {}
        self._closing = contextlib.ExitStack()

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def add_net(self, net: m.NetIndex, local: str, mtu: int = 1376) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._tuns[net] = self._closing.enter_context(ours)
        self.apply(m.AddTun(net, theirs.fileno(), mtu, (ip_network(local),)))
        theirs.close()

    def add_socket(self, slot: m.Slot) -> None:
        sock = open_udp(ip_address("127.0.0.1"))
        self._sockets[slot] = SockAddr(*sock.getsockname())
        self.apply(m.AddSocket(slot, sock.fileno()))
        sock.close()

    def add_stream(self, slot: m.Slot) -> None:
        ours, theirs = socket.socketpair()
        self._streams[slot] = self._closing.enter_context(ours)
        self._partial[slot] = b""
        self.apply(m.AddStream(slot, theirs.fileno()))
        theirs.close()

    def close_stream(self, slot: m.Slot) -> None:
        self._streams[slot].close()

    def _remote_socket(self, name: str) -> socket.socket:
        if name not in self._remotes:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            sock.bind(("127.0.0.1", 0))
            self._remotes[name] = self._closing.enter_context(sock)
        return self._remotes[name]

    def remote(self, name: str) -> SockAddr:
        return SockAddr(*self._remote_socket(name).getsockname())

    def arrive(self, slot: m.Slot, remote: str, *datagrams: bytes) -> None:
        sock = self._remote_socket(remote)
        for data in datagrams:
            sock.sendto(data, self._sockets[slot])

    def _take(self, sock: socket.socket, number: int) -> list[bytes]:
        found: list[bytes] = []
        while select.select([sock], [], [], PATIENCE if len(found) < number else 0)[0]:
            found.append(sock.recv(70000))
        assert len(found) >= number, f"{len(found)} of {number} came"
        return found

    def sent_to(self, remote: str, number: int) -> list[bytes]:
        return self._take(self._remote_socket(remote), number)

    def frames_in(self, slot: m.Slot, *frames: bytes) -> None:
        self._streams[slot].sendall(b"".join(len(f).to_bytes(2, "big") + f for f in frames))

    def frames_out(self, slot: m.Slot, number: int) -> list[bytes]:
        stream, data, found = self._streams[slot], self._partial[slot], []
        while True:
            while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
                end = 2 + int.from_bytes(data[:2], "big")
                found.append(data[2:end])
                data = data[end:]
            if not select.select([stream], [], [], PATIENCE if len(found) < number else 0)[0]:
                break
            data += stream.recv(1 << 16)
        self._partial[slot] = data
        assert len(found) >= number
        return found

    def host_sends(self, net: m.NetIndex, *packets: bytes) -> None:
        for packet in packets:
            self._tuns[net].send(packet)

    def host_got(self, net: m.NetIndex, number: int) -> list[bytes]:
        return self._take(self._tuns[net], number)

    def lose_remote(self, name: str) -> None:
        self._remotes.pop(name).close()

    def close(self) -> None:
        super().close()
        self._closing.close()


class TunRig(ProcessRig):
    """As ProcessRig, with real TUN devices, each in a namespace of its own; packets pass them by packet sockets. Needs root."""

    def __init__(self, name: PumpName) -> None:
        super().__init__(name)
        self._spaces: list[str] = []
        self._names: dict[int, tuple[str, int]] = {}

    def run_inside(self, net: m.NetIndex, *command: str) -> None:
        """A command in the namespace of this network's interface."""
        subprocess.run(["ip", "netns", "exec", self._space(net), *command], check=True)

    def _space(self, net: m.NetIndex) -> str:
        return f"dp-{os.getpid()}-{net}"

    def add_net(self, net: m.NetIndex, local: str, mtu: int = 1376) -> None:
        space = self._space(net)
        subprocess.run(["ip", "netns", "add", space], check=True)
        self._spaces.append(space)
        with entered(space):
            fd, name = open_tun("dptun")
            # the kernel's own IPv6 chatter would be counted
            subprocess.run(["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1"], check=True)
            subprocess.run(["ip", "link", "set", name, "mtu", str(mtu), "up"], check=True)
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            tap.bind((name, 3))
        self._tuns[net] = self._closing.enter_context(tap)
        self._names[net] = (name, mtu)
        self.apply(m.AddTun(net, fd, mtu, (ip_network(local),)))
        os.close(fd)

    def host_sends(self, net: m.NetIndex, *packets: bytes) -> None:
        for packet in packets:
            kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
            self._tuns[net].sendto(packet, (self._names[net][0], kind))

    def host_got(self, net: m.NetIndex, number: int) -> list[bytes]:
        found: list[bytes] = []
        tap = self._tuns[net]
        while select.select([tap], [], [], PATIENCE if len(found) < number else 0)[0]:
            packet, address = tap.recvfrom(70000)
            if address[2] != socket.PACKET_OUTGOING:  # what this test itself sent
                found.append(packet)
        assert len(found) >= number, f"{len(found)} of {number} came"
        return found

    def close(self) -> None:
        super().close()
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=True)
