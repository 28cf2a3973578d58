"""Two pumps on one veth, like and unlike: whole transfers, order over several threads, path switches under traffic."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pump_namespaces import checksum_errors
from pump_pair import PEER, Pair
from pump_rig import pump_or_skip
from pump_streams import tcp_over_switches

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.model import pump as m

pytestmark = pytest.mark.lab
PAIRS: list[tuple[PumpName, PumpName]] = [
    ("native", "native"),
    ("python", "native"),
    ("native", "python"),
    ("python", "python"),
]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    names = getattr(request, "param", PAIRS[0])
    for name in names:
        pump_or_skip(name)
    made = Pair(names)
    yield made
    made.close()


@pytest.mark.parametrize("size", [256, pytest.param(1024, marks=pytest.mark.prove)])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join, indirect=True)
def test_transfers_arrive_whole_both_ways(pair: Pair, size: int) -> None:
    for source, megabytes in ((0, size), (1, size // 8)):
        pair.transfer(source, megabytes)
        assert pair.counter(1 - source, "rx_bytes_direct") > megabytes << 20
    assert checksum_errors(pair.spaces) == 0
    for i in (0, 1):
        assert not any(pair.counter(i, f) for f in ("drop_auth", "drop_duplicate", "drop_source", "drop_destination"))


def busy_threads(pid: int) -> int:
    """How many threads of a process have used the processor for more than a few ticks."""
    used = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12]) > 2
    return used


def test_threads_share_one_flow_and_keep_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOWMESH_PUMP_THREADS", "4")
    pump_or_skip("native")
    pair = Pair(("native", "native"))
    try:
        sender, receiver = pair.udp(0), pair.udp(1)
        # by 40 segments of a super-packet each, so that batches are full and threads many
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1200)  # UDP_SEGMENT
        sender.connect(receiver.getsockname())
        seen: list[int] = []

        def receive() -> None:
            while (number := int.from_bytes(receiver.recv(2000)[:4], "big")) != 0xFFFFFFFF:
                seen.append(number)

        reading = threading.Thread(target=receive)
        reading.start()
        for start in range(0, 200_000, 40):
            sender.send(b"".join(i.to_bytes(4, "big") + bytes(1196) for i in range(start, start + 40)))
        for _ in range(20):
            time.sleep(0.05)
            sender.send(b"\xff" * 4)
        reading.join(20)
        assert len(seen) > 20_000
        assert seen == sorted(set(seen))  # some may be lost in a flood; none overtakes, none comes twice
        assert max(busy_threads(pump.pid) for pump in pair.pumps) >= 2
        assert pair.counter(1, "drop_duplicate") == 0
    finally:
        pair.close()


def test_four_flows_at_once_arrive_whole(pair: Pair) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(pair.transfer, i % 2, 25) for i in range(4)]:
            done.result(60)
    assert checksum_errors(pair.spaces) == 0


@pytest.mark.parametrize("pair", [("native", "native"), ("python", "python")], ids="-".join, indirect=True)
def test_two_hundred_path_switches_lose_and_double_nothing(pair: Pair) -> None:
    sender, receiver = pair.udp(0), pair.udp(1)
    target = receiver.getsockname()
    seen: list[int] = []

    def receive() -> None:
        while (number := int.from_bytes(receiver.recv(2000)[:4], "big")) != 0xFFFFFFFF:
            seen.append(number)

    reading = threading.Thread(target=receive)
    reading.start()
    for number in range(4000):
        if number % 20 == 0:
            way = number // 20 % 2
            also = pair.path(0, 1 - way) if number % 3 == 0 else None
            pair.pumps[0].apply([m.SetPath(PEER, pair.path(0, way), also)])
        sender.sendto(number.to_bytes(4, "big") + os.urandom(100), target)
        time.sleep(0.0005)
    sender.sendto(b"\xff" * 4, target)
    reading.join(20)
    assert sorted(seen) == list(range(4000))
    assert pair.counter(1, "drop_duplicate") > 0  # the doubles


@pytest.mark.parametrize("pair", [("native", "native"), ("python", "python")], ids="-".join, indirect=True)
def test_two_hundred_path_switches_stall_no_tcp_stream_for_200_ms(pair: Pair) -> None:
    gaps = tcp_over_switches(pair, 200, 1 << 20)
    assert max(gaps) < 0.2, sorted(gaps)[-5:]
