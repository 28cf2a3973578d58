"""Each pump in its process keeps the rules: rootless, with socketpairs where TUN descriptors would be."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from conformance import Conformance
from pump_peer import Peer, ip_packet
from pump_rig import ProcessRig, Rig

from shadowmesh.dataplane.interface import PumpDied
from shadowmesh.dataplane.pumpprocess import PUMP_SUBCOMMAND, PumpProcess, pump_argv
from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr

pytestmark = pytest.mark.whole


class TestPumpOnSocketpairs(Conformance):
    @pytest.fixture
    def rig(self, pump_name: PumpName) -> Iterator[Rig]:
        rig = ProcessRig(pump_name)
        yield rig
        rig.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_pump_is_noticed_by_drain_and_by_apply(pump_name: PumpName) -> None:
    for use in (lambda pump: pump.drain(), lambda pump: pump.apply([m.Keepalive(m.PeerIndex(1))] * 50_000)):
        pump = PumpProcess(pump_name)
        os.kill(pump.pid, signal.SIGKILL)
        assert select.select([pump], [], [], 5)[0]  # an event loop sees it at once
        with pytest.raises(PumpDied):
            use(pump)
        pump.close()


def test_what_a_dying_pump_still_said_is_not_lost(pump_name: PumpName) -> None:
    rig = ProcessRig(pump_name)
    rig.add_net(m.NetIndex(0), "10.7.0.1/32")
    rig.add_socket(m.Slot(0))
    peer = Peer(rig)
    rig.host_sends(m.NetIndex(0), ip_packet("10.7.0.1", "10.7.0.2"))
    assert select.select([rig.pump], [], [], 5)[0]
    os.kill(rig.pump.pid, signal.SIGKILL)
    wait_until(lambda: not alive(rig.pump.pid))
    (event,) = rig.pump.drain()
    assert isinstance(event, m.Wants) and event.peer == peer.index
    assert select.select([rig.pump], [], [], 5)[0]  # its last thread has gone, not only its first
    with pytest.raises(PumpDied):
        rig.pump.drain()
    rig.close()


def test_a_pump_ends_with_its_parent_however_that_goes(pump_name: PumpName) -> None:
    code = (
        "import os, signal; from shadowmesh.dataplane.pumpprocess import PumpProcess\n"
        f"pump = PumpProcess({pump_name!r}); print(pump.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: not alive(int(parent.stdout)))


def test_a_pump_outlives_the_signals_of_its_group(pump_name: PumpName) -> None:
    rig = ProcessRig(pump_name)
    rig.add_socket(m.Slot(0))
    rig.sync()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(rig.pump.pid, number)
    rig.sync()
    pid = rig.pump.pid
    rig.close()
    assert not alive(pid)


def test_keys_are_neither_in_arguments_nor_in_the_environment(pump_name: PumpName) -> None:
    rig = ProcessRig(pump_name)
    rig.add_net(m.NetIndex(0), "10.7.0.1/32")
    rig.add_socket(m.Slot(0))
    keys = Peer(rig).session(7)
    process = Path(f"/proc/{rig.pump.pid}")
    visible = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    for key in (keys.from_pump, keys.to_pump):
        assert key not in visible and key.hex().encode() not in visible
    rig.close()


def test_a_frozen_binary_starts_itself(pump_name: PumpName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert pump_argv(pump_name) == [sys.executable, PUMP_SUBCOMMAND, pump_name]


def test_the_pump_answers_from_the_address_that_was_asked(pump_name: PumpName) -> None:
    rig = ProcessRig(pump_name)
    sock = open_udp(ip_address("0.0.0.0"))
    port = sock.getsockname()[1]
    rig.apply(m.AddSocket(m.Slot(0), sock.fileno()))
    sock.close()
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.bind(("127.0.0.1", 0))
    asker.settimeout(5)
    asker.sendto(b"SM\x01\x03hello", ("127.0.0.9", port))
    (event,) = rig.expect(m.Datagram)
    assert event.path.local == ip_address("127.0.0.9")
    rig.apply(m.Send(event.path, b"answer"))
    assert asker.recvfrom(100) == (b"answer", ("127.0.0.9", port))
    asker.close()
    rig.close()


def test_ipv6_outside(pump_name: PumpName) -> None:
    rig = ProcessRig(pump_name)
    rig.add_net(m.NetIndex(0), "10.7.0.1/32")
    rig.add_socket(m.Slot(0))
    sock = open_udp(ip_address("::1"))
    address = sock.getsockname()
    rig.apply(m.AddSocket(m.Slot(1), sock.fileno()))
    sock.close()
    peer = Peer(rig)
    keys = peer.session(7)
    other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    other.bind(("::1", 0))
    other.settimeout(5)
    rig.apply(m.SetPath(peer.index, m.Path(m.Slot(1), SockAddr("::1", other.getsockname()[1]), ip_address("::1"))))
    rig.sync()
    outwards = [ip_packet("10.7.0.1", "10.7.0.2", bytes([i]) * 1300) for i in range(40)]
    rig.host_sends(m.NetIndex(0), *outwards)
    assert [keys.opened(other.recv(2000))[1][:1320] for _ in outwards] == outwards
    inwards = [ip_packet("10.7.0.2", "10.7.0.1", bytes([i]) * 1300) for i in range(40)]
    for packet in inwards:
        other.sendto(keys.seal(packet), address)
    assert rig.host_got(m.NetIndex(0), 40) == inwards
    assert not [e for e in rig.drain() if isinstance(e, m.Source)]
    other.close()
    rig.close()
