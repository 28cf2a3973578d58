"""What is measured, on a contender that runs. Each measure gives named figures."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import relay_bench
from bench_contenders import Contender, Running, Stream
from bench_spaces import inside, process, run, until

from shadowmesh.bench import cpu

LOAD = Path(__file__).with_name("bench_load.py")
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measure:
    key: str
    take: Callable[[Contender, Running, int], Figures]
    groups: tuple[str, ...] = ("direct", "relayed")
    seconds: Callable[[float], float] = lambda seconds: seconds + 0.7  # how long it takes
    without_offloads: tuple[str, ...] = ("direct",)  # groups of which it is taken there, too


def processes(running: Running) -> tuple[list[int], list[int]]:
    """All of the contender's, and the relay's among them."""
    return cpu.with_children(running.pids), cpu.with_children(running.relay)


def tcp(running: Running, seconds: int, *, streams: int = 1, reverse: bool = False) -> Figures:
    """Gbit/s that arrived, CPU seconds per GB of all the contender's processes (`relay_…`: of the relay)."""
    near, far = running.spaces
    options = ["-P", str(streams), *(["-R"] if reverse else [])]
    with process(far, "iperf3", "-s", "-1"):
        until(lambda: ":5201" in run(*inside(far, "ss", "-ltn")), "iperf3 listens")
        pids, relay = processes(running)
        before = cpu.spent(pids), cpu.spent(relay)
        told = run(
            *inside(near, "iperf3", "-C", "cubic", "-c", running.target, "-t", str(seconds), "-J", *options),
            timeout=seconds + 30,
        )
        spent = cpu.spent(pids) - before[0], cpu.spent(relay) - before[1]
    end = json.loads(told)["end"]
    received = end["sum_received"]
    gigabytes = received["bytes"] / 1e9
    figures = {
        "gbit": received["bits_per_second"] / 1e9,
        "retransmits": float(end["sum_sent"].get("retransmits", 0)),
    }
    if pids and gigabytes:
        figures |= {"cpu_s_per_gb": spent[0] / gigabytes, "gb_per_cpu_s": gigabytes / max(spent[0], 0.01)}
    if relay and gigabytes:
        figures["relay_cpu_s_per_gb"] = spent[1] / gigabytes
    return figures


@contextmanager
def listener(running: Running) -> Iterator[None]:
    with process(running.spaces[1], sys.executable, str(LOAD), "serve", running.target, stdin=True) as serving:
        assert serving.stdout is not None
        if serving.stdout.readline() != "ready\n":
            raise SystemExit(f"no listener at {running.target}")
        yield


def load(running: Running, kind: str, value: float) -> Figures:
    with listener(running):
        told = run(*inside(running.spaces[0], sys.executable, str(LOAD), kind, running.target, str(value)), timeout=120)
    figures = json.loads(told)
    return {name: float(value) for name, value in figures.items() if value is not None}


def udp_iperf3(running: Running, seconds: int) -> Figures:
    """The flood by another program, one datagram per call."""
    near, far = running.spaces
    with process(far, "iperf3", "-s", "-1", "-J") as server:
        until(lambda: ":5201" in run(*inside(far, "ss", "-ltn")), "iperf3 listens")
        run(
            *inside(near, "iperf3", "-u", "-b", "0", "-l", "64", "-c", running.target, "-t", str(seconds)),
            timeout=seconds + 30,
        )
        stream = json.loads(server.communicate(timeout=20)[0])["end"]["sum"]
    return {"kpps": (stream["packets"] - stream["lost_packets"]) / stream["seconds"] / 1e3}


def memory(running: Running) -> Figures:
    """Megabytes: each process's largest resident size since it started, together."""
    pids, _ = processes(running)
    return {"mb": cpu.peak_memory(pids) / 1e6} if pids else {}


def checksum_errors(space: str) -> int:
    """TCP segments with a wrong checksum and packets with a wrong IPv4 header that this namespace has received."""
    lines = run(*inside(space, "cat", "/proc/net/snmp")).splitlines()
    total = 0
    for protocol, field in (("Tcp:", "InCsumErrors"), ("Ip:", "InHdrErrors")):
        names, values = [line.split() for line in lines if line.startswith(protocol)]
        total += int(values[names.index(field)])
    return total


def relay_cost(contender: Contender, _running: Running, seconds: int) -> Figures:
    """CPU seconds of the relay per GB delivered of a stream of 60 MB/s."""
    assert isinstance(contender, Stream)
    options = argparse.Namespace(rate=60.0, seconds=seconds)
    with relay_bench.certificate() as cert:
        relay, _clients, delivered = relay_bench.stream(contender.kind, options, cert)
    return {"relay_cpu_s_per_gb": relay, "delivered": delivered}


MEASURES: Sequence[Measure] = (
    Measure("tcp1", lambda _c, r, s: tcp(r, s), without_offloads=("direct", "relayed")),
    Measure("tcp4", lambda _c, r, s: tcp(r, s, streams=4)),
    Measure("tcp1r", lambda _c, r, s: tcp(r, s, reverse=True), ("direct",), without_offloads=()),
    Measure("tcp4r", lambda _c, r, s: tcp(r, s, streams=4, reverse=True), ("direct",), without_offloads=()),
    # memory: of those that have just been under TCP's load
    Measure("memory", lambda _c, r, _s: memory(r), seconds=lambda _s: 0.1, without_offloads=()),
    Measure("udp", lambda _c, r, s: load(r, "udp", s), ("direct",), seconds=lambda s: s + 1.2, without_offloads=()),
    Measure("lossless", lambda _c, r, _s: load(r, "lossless", 20_000.0), seconds=lambda _s: 9.0),
    Measure("ping", lambda _c, r, s: load(r, "rtt", s), seconds=lambda s: s + 1.0),
    Measure("udp-iperf3", lambda _c, r, s: udp_iperf3(r, s), ("direct",), without_offloads=()),
    Measure("stream", relay_cost, ("relay",), seconds=lambda s: s + 2.5, without_offloads=("relay",)),
)
WARM_UP = 1  # seconds of TCP whose figures are dropped


def warm_up(running: Running) -> None:
    subprocess.run(["sync"], check=False)  # what others wrote is not to be flushed while we measure
    tcp(running, WARM_UP)


__all__ = ["MEASURES", "Figures", "Measure", "checksum_errors", "warm_up"]
