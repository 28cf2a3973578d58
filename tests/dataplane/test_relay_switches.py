"""From the path through a relay to the direct one and back, 200 times under traffic: two pumps and a relay, each in a namespace of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from operator import sub

import pytest
from pump_namespaces import entered
from pump_pair import INNER, Pair, run
from pump_rig import pump_or_skip
from pump_streams import tcp_over_switches
from relay_bench import node
from relay_client import NETWORK, PORT, stream_client, udp_client

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol import relay as wire

pytestmark = pytest.mark.lab

SWITCHES = 200
PER_SWITCH = 10  # packets that each side sends by a way before the next switch
UNDER_WAY = 32  # packets sent and not yet back: more than that, so a switch finds some on the old way
CARRIED = ("tx_packets_direct", "rx_packets_direct", "tx_packets_relay", "rx_packets_relay")
END = b"\xff" * 4
DIRECT, RELAYED = 0, 1
SLOT = m.Slot(7)
LINKS = (("198.51.100.2", "198.51.100.1"), ("203.0.113.2", "203.0.113.1"))  # a side's address, and the relay's there


class RelayedPair(Pair):
    """Way 0 is the veth between the two, way 1 leads through a relay at which both have logged in; `via` is udp or ws."""

    def __init__(self, name: PumpName, via: str) -> None:
        super().__init__((name, name))
        self._via = via
        self._way, self._before = DIRECT, [0, 0]
        try:
            self._start_relay()
            self._log_in()
        except BaseException:
            self.close()
            raise

    def _start_relay(self) -> None:
        space = f"dp-pr-r-{os.getpid()}"
        run("ip", "netns", "add", space)
        self._stack.callback(run, "ip", "netns", "del", space)
        for i, (side, addresses) in enumerate(zip(self.spaces, LINKS, strict=True)):
            ends = ((side, "dprel"), (space, f"dpside{i}"))
            (_, near), (_, far) = ends
            run("ip", "link", "add", near, "netns", side, "type", "veth", "peer", "name", far, "netns", space)
            for (where, device), address in zip(ends, addresses, strict=True):
                run("ip", "-n", where, "addr", "add", f"{address}/24", "dev", device)
                run("ip", "-n", where, "link", "set", device, "up")
        self._stack.enter_context(node(space, "relay", "0.0.0.0"))

    def _log_in(self) -> None:
        loop = asyncio.new_event_loop()
        self._stack.callback(loop.close)
        for i, pump in enumerate(self.pumps):
            relay = LINKS[i][1]
            with entered(self.spaces[i]):
                if self._via == "udp":
                    with loop.run_until_complete(udp_client(relay, INNER[i])) as sock:
                        pump.apply([m.AddSocket(SLOT, sock.fileno())])
                else:
                    fd, carrying = loop.run_until_complete(stream_client(f"ws://{relay}:{PORT}", INNER[i]))
                    self._stack.callback(loop.run_until_complete, asyncio.wait([carrying]))
                    self._stack.callback(carrying.cancel)
                    pump.apply([m.AddStream(SLOT, fd)])
        running = threading.Thread(target=loop.run_forever)
        running.start()
        self._stack.callback(running.join)
        self._stack.callback(loop.call_soon_threadsafe, loop.stop)

    def path(self, i: int, way: int) -> m.Path:
        if way == DIRECT:
            return super().path(i, 0)
        prefix = wire.frame_prefix(NETWORK, IPv4Address(INNER[i]), IPv4Address(INNER[1 - i]))
        return m.Path(SLOT, SockAddr(LINKS[i][1], PORT) if self._via == "udp" else None, prefix=prefix)

    def steer(self, way: int) -> None:
        self._way, self._before = way, self._sent(way)
        super().steer(way)

    def _sent(self, way: int) -> list[int]:
        return [self.counter(i, ("tx_packets_direct", "tx_packets_relay")[way]) for i in (0, 1)]

    def carried(self) -> list[int]:
        """Packets that each side has sent and received directly and through the relay."""
        return [self.counter(i, field) for i, field in itertools.product((0, 1), CARRIED)]

    def used(self, packets: int = 1) -> bool:
        """Whether each side has sent so many by the present way since it was steered there."""
        return all(now - then >= packets for now, then in zip(self._sent(self._way), self._before, strict=True))


@pytest.fixture(scope="module")
def relayed(request: pytest.FixtureRequest) -> Iterator[RelayedPair]:
    name, via = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHADOWMESH_PUMP", pump_or_skip(name))  # the relay's forwarder, too
        made = RelayedPair(name, via)
    yield made
    made.close()


UDP = [("native", "udp"), ("python", "udp")]
WEBSOCKET = [("native", "ws"), ("python", "ws")]


@pytest.mark.parametrize("relayed", UDP + WEBSOCKET, ids="-".join, indirect=True)
def test_switches_between_relay_and_direct_lose_and_double_nothing(relayed: RelayedPair) -> None:
    before = relayed.carried()
    here, there = relayed.udp(0), relayed.udp(1)
    target = there.getsockname()
    arrived: list[int] = []
    returned: list[int] = []
    free = threading.Semaphore(UNDER_WAY)

    def echo() -> None:
        while True:
            data, source = there.recvfrom(2000)
            there.sendto(data, source)
            if data == END:
                return
            arrived.append(int.from_bytes(data[:4], "big"))

    def hear() -> None:
        while (data := here.recv(2000)) != END:
            returned.append(int.from_bytes(data[:4], "big"))
            free.release()

    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(echo), pool.submit(hear)]
        switches = 0
        for number in itertools.count():  # until all switches are done, or so much is lost that nothing comes back
            if relayed.used(PER_SWITCH):
                if switches == SWITCHES:
                    break
                relayed.steer((RELAYED, DIRECT)[switches % 2])
                switches += 1
            if not free.acquire(timeout=2):
                break
            here.sendto(number.to_bytes(4, "big") + os.urandom(100), target)
        all(free.acquire(timeout=2) for _ in range(UNDER_WAY))
        here.sendto(END, target)  # behind all others
        for thread in threads:
            thread.result(10)
    for seen in (arrived, returned):
        lost, doubled = set(range(number)) - set(seen), [n for n, times in Counter(seen).items() if times > 1]
        assert (lost, doubled) == (set(), [])
    assert switches == SWITCHES
    assert min(map(sub, relayed.carried(), before)) >= SWITCHES // 2 * PER_SWITCH


@pytest.mark.parametrize("relayed", UDP, ids="-".join, indirect=True)
def test_switches_between_relay_and_direct_stall_no_tcp_stream_for_200_ms(relayed: RelayedPair) -> None:
    before = relayed.carried()
    gaps = tcp_over_switches(relayed, SWITCHES, 1 << 18, relayed.used)
    assert max(gaps) < 0.2, sorted(gaps)[-5:]
    assert min(map(sub, relayed.carried(), before)) > SWITCHES // 4  # one may hold many segments
