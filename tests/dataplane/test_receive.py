"""Receiving many datagrams by one call, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from shadowmesh.dataplane.pumpcore import PumpCore
from shadowmesh.dataplane.python.inbound import Inbound
from shadowmesh.dataplane.python.receive import MESSAGES, Receiver, parsed
from shadowmesh.dataplane.python.transports import UdpTransport
from shadowmesh.dataplane.sockets import UDP_GRO, open_udp
from shadowmesh.model import pump as m

SIZE = 1000


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A receiver's socket that gathers nothing, and a sender's."""
    with open_udp(ip_address(request.param)) as here, open_udp(ip_address(request.param)) as there:
        here.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 0)
        yield here, there


def test_equal_datagrams_lie_as_rows(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    sent = [bytes([i]) * SIZE for i in range(20)]
    buffer = bytearray(100_000)
    receiver = Receiver(buffer)
    for _ in range(2):
        for data in sent:
            there.sendto(data, here.getsockname())
        assert receiver.receive(here.fileno(), 7, SIZE, MESSAGES) == 20
        assert receiver.uniform(20)
        assert bytes(buffer[7 : 7 + 20 * SIZE]) == b"".join(sent)
    assert receiver.receive(here.fileno(), 0, SIZE, MESSAGES) == 0


def test_address_and_control_messages_are_what_the_socket_module_says(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    for _ in range(2):
        there.sendto(bytes(SIZE), here.getsockname())
    _, control, _, address = here.recvmsg(SIZE, 128)
    receiver = Receiver(bytearray(100_000))
    assert receiver.receive(here.fileno(), 0, SIZE, MESSAGES) == 1
    assert parsed(receiver.raw(0)) == (control, address)


def test_larger_and_smaller_ones_and_those_of_others_are_told_apart_and_stay_whole(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    with open_udp(ip_address(here.getsockname()[0])) as another:
        for odd, sender in ((bytes(range(256)) * 40, there), (b"small", there), (bytes(SIZE), another)):
            receiver = Receiver(bytearray(100_000))
            sent = [b"\1" * SIZE, odd, b"\2" * SIZE]
            for data, by in zip(sent, (there, sender, there), strict=True):
                by.sendto(data, here.getsockname())
            assert receiver.receive(here.fileno(), 0, SIZE, MESSAGES) == 3
            assert not receiver.uniform(3)
            assert [receiver.data(i) for i in range(3)] == sent
            assert parsed(receiver.raw(1))[1][:2] == sender.getsockname()[:2]


class Seen(PumpCore):
    """Notes what it is handed."""

    def __init__(self) -> None:
        super().__init__(self)  # type: ignore[arg-type]
        self.seen: list[tuple[int, bytes]] = []

    def inbound(self, via: m.Slot, remote: Any, local: Any, data: Any, now: float) -> None:
        assert str(local) in ("127.0.0.1", "::1")
        self.seen.append((remote.port, bytes(data)))


def test_whatever_comes_is_handled_in_order_and_nothing_is_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    with open_udp(ip_address(here.getsockname()[0])) as another:
        plan = (
            [(there, SIZE)] * 10 + [(there, 300)] + [(there, SIZE)] * 5 + [(another, SIZE)] * 5 + [(there, SIZE)] * 90
        )
        plan += [(there, 9000)] * 70 + [(another, 60_000)] * 6 + [(there, 1)] * 3
        sent = [bytes([number % 256]) * size for number, (_, size) in enumerate(plan)]
        for data, (sender, _) in zip(sent, plan, strict=True):
            sender.sendto(data, here.getsockname())
        core = Seen()
        inbound = Inbound(core, lambda net, pieces, packets: 0, lambda net: None)  # type: ignore[arg-type, return-value]
        transport = UdpTransport(m.Slot(0), here)
        while len(core.seen) < len(sent):
            before = len(core.seen)
            inbound.read_socket(transport, 1.0)
            assert len(core.seen) > before
        assert core.seen == [(by.getsockname()[1], data) for data, (by, _) in zip(sent, plan, strict=True)]
