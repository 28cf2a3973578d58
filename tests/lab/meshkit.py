"""For tests of a running mesh: what daemons say, with the time at which they said it; streams that tell of every stall.

All times are CLOCK_MONOTONIC, which is one for all processes and namespaces.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from shadowmesh.lab.internet import Host
from shadowmesh.lab.world import World
from shadowmesh.model.codec import from_builtins
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.status import NetworkStatus, PeerStatus, PingTry, Status, Why

TRAFFIC = Path(__file__).with_name("traffic.py")
Answer = PeerStatus | None


class Feed:
    """Follows the status of some daemons, each in a thread, over their restarts too."""

    def __init__(self, world: World, hosts: Sequence[str]) -> None:
        self._world = world
        self._latest: dict[str, NetworkStatus | None] = dict.fromkeys(hosts)
        self.log: list[tuple[float, str, NetworkStatus | None]] = []
        self._changed = threading.Condition()
        self._stop = False
        self._threads = [threading.Thread(target=self._follow, args=(h,), daemon=True) for h in hosts]

    def _follow(self, host: str) -> None:
        client = self._world.client(host)
        while not self._stop:
            try:
                for item in client.stream("watch", interval_s=0.5):
                    networks = from_builtins(item, Status).networks
                    self._note(host, networks[0] if networks else None)
                    if self._stop:
                        return
            except ShadowMeshError:
                self._note(host, None)
                time.sleep(0.05)

    def _note(self, host: str, status: NetworkStatus | None) -> None:
        with self._changed:
            self._latest[host] = status
            self.log.append((time.monotonic(), host, status))
            self._changed.notify_all()

    def __enter__(self) -> Feed:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(5)

    # questions

    def network(self, host: str) -> NetworkStatus | None:
        return self._latest[host]

    def peer(self, host: str, name: str) -> Answer:
        """How `host` sees the peer of this name now, None if it doesn't."""
        network = self._latest[host]
        return next((p for p in network.peers if p.name == name), None) if network is not None else None

    def until(self, check: Callable[[], bool], timeout: float, what: str) -> float:
        """Waits for it to be true; returns when it was. Fails with what the daemons said last."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not check():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not within {timeout} s: {what}; {self._summary()}")
                self._changed.wait(left)
            return time.monotonic()

    def until_path(self, a: str, b: str, path: str, timeout: float) -> float:
        """Waits until both ends say that they reach each other so; returns when they did."""

        def both() -> bool:
            return all((p := self.peer(*ends)) is not None and p.path == path for ends in ((a, b), (b, a)))

        return self.until(both, timeout, f"{a} and {b} {path}")

    def until_flows(self, a: str, b: str, timeout: float = 15.0, size: int = 100_000) -> float:
        """Waits until `b` got `size` more bytes from `a`."""
        seen = self.peer(b, a)
        before = seen.rx_bytes if seen is not None else 0
        return self.until(
            lambda: (p := self.peer(b, a)) is not None and p.rx_bytes >= before + size, timeout, f"{a} sends to {b}"
        )

    def until_at(self, a: str, b: str, address: str, timeout: float) -> float:
        """Waits until `a` and `b` are direct, and `a` sees `b` at this address."""

        def there() -> bool:
            seen, back = self.peer(a, b), self.peer(b, a)
            if seen is None or back is None or seen.endpoint is None:
                return False
            return seen.path == back.path == "direct" and seen.endpoint.startswith(f"{address}:")

        return self.until(there, timeout, f"{a} sees {b} at {address}")

    def _summary(self) -> str:
        lines = []
        for host, network in self._latest.items():
            peers = network.peers if network is not None else ()
            lines.append(f"{host}: " + (", ".join(f"{p.name} {p.path} {p.reason}" for p in peers) or "silent"))
        return "; ".join(lines)


def ping(world: World, host: str, peer: str, *, timeout: float = 30.0, count: int = 1) -> list[PingTry]:
    return list(world.client(host).ping(peer, count=count, timeout=timeout, until_direct=False))


def why(world: World, host: str, peer: str) -> Why:
    return world.client(host).why(peer)


def until_direct(world: World, host: str, peer: str, timeout: float = 15.0) -> float:
    """Pings until the path is direct; returns the seconds that it took."""
    began = time.monotonic()
    for attempt in world.client(host).ping(peer, count=1, timeout=timeout, until_direct=True):
        if attempt.ok and attempt.path == "direct":
            return time.monotonic() - began
    raise AssertionError(f"{host} and {peer} not direct in {timeout} s: {why(world, host, peer)}")


@dataclass(slots=True)
class Stalls:
    """What the receiver of a TCP stream saw."""

    bytes: int
    wrong_reads: int
    stalls: list[tuple[float, float]]

    def longest(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest silence that ended in this time, in seconds."""
        return max((s for at, s in self.stalls if since <= at + s <= until), default=0.0)


def _read(process: subprocess.Popen[Any]) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def _start(host: Host, *arguments: object, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[Any]:
    return host.popen(
        [sys.executable, str(TRAFFIC), *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ready(sink: subprocess.Popen[Any]) -> None:
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"


class TcpStream:
    """A paced TCP stream from a host to an overlay address of another, until it is ended. It flows once this is made."""

    def __init__(self, source: Host, target: Host, address: str, port: int, rate: float) -> None:
        self._sink = _start(target, "tcp-sink", port)
        _ready(self._sink)
        self._source = _start(source, "tcp-source", address, port, 0, rate, stdin=subprocess.PIPE)
        assert self._sink.stdout is not None
        assert self._sink.stdout.readline() == "flows\n", "the stream didn't begin"
        self.result: Stalls | None = None

    def end(self) -> Stalls:
        """Ends the stream; all that was sent has to arrive, in order and unbroken."""
        assert self._source.poll() is None, f"the stream broke: {self._source.stderr and self._source.stderr.read()}"
        sent = _read(self._source)
        seen = _read(self._sink)
        assert sent["bytes"] > 0
        self.result = Stalls(seen["bytes"], seen["wrong_reads"], [(at, s) for at, s in seen["stalls"]])
        assert seen["bytes"] == sent["bytes"]
        assert seen["wrong_reads"] == 0
        return self.result

    def stop(self) -> None:
        for process in (self._source, self._sink):
            if process.poll() is None:
                process.kill()
                process.communicate()


@contextmanager
def tcp_stream(
    world: World, addresses: dict[str, str], a: str, b: str, *, port: int = 7100, rate: float = 400_000
) -> Iterator[TcpStream]:
    """From `a` to `b`, bytes per second as given."""
    lab = world.lab
    stream = TcpStream(lab.host(a), lab.host(b), addresses[b], port, rate)
    try:
        yield stream
    finally:
        stream.stop()


def udp_stream(
    world: World, addresses: dict[str, str], a: str, b: str, *, rate: float, seconds: float, port: int = 7200
) -> dict[str, Any]:
    """A numbered, paced stream of datagrams from `a` to `b`: sent, distinct, doubled, longest_gap_s."""
    lab = world.lab
    with ExitStack() as stack:
        sink = _start(lab.host(b), "udp-sink", port, seconds + 10)
        stack.callback(sink.kill)
        _ready(sink)
        source = _start(lab.host(a), "udp-source", addresses[b], port, rate, seconds)
        stack.callback(source.kill)
        return _read(source) | _read(sink)
