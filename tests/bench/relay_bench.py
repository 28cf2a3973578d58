"""What relaying costs: our relay beside coturn, and a tunnel through the relay beside the direct one. Needs root, coturn, iperf3.

    python tests/bench/relay_bench.py [--rounds 3] [--seconds 2] [--rate 60] [--no-offloads] [--only NAME …] [--tunnel]

Three namespaces: sender, relay and receiver, joined by veths. The first table is of one stream of UDP datagrams or WebSocket messages at
a fixed rate: processor seconds that a relay spends per GB of the stream delivered. With `--tunnel`, instead: TCP through two
pumps, and what all processes together spend. Rounds in turns, medians; only ratios carry over to other machines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench_spaces import NO_OFFLOADS, inside, run

NODE = Path(__file__).with_name("relay_node.py")
A, R, B = SPACES = [f"smrb{os.getpid()}{side}" for side in "arb"]
LINKS = {A: ("10.96.1.2", "10.96.1.1"), B: ("10.96.2.2", "10.96.2.1")}  # its own address, the relay's
OWN = {A: "10.95.0.1", B: "10.95.0.2"}
PORTS = {"udp": 9545, "ws": 9545, "wss": 9545}


@contextmanager
def namespaces(offloads: bool) -> Iterator[None]:
    made = []
    try:
        for space in SPACES:
            run("ip", "netns", "add", space)
            made.append(space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        for space, (own, relays) in LINKS.items():
            run(
                "ip", "link", "add", "up0", "netns", space, "type", "veth", "peer", "name", f"to{space[-1]}", "netns", R
            )
            for where, device, address in ((space, "up0", own), (R, f"to{space[-1]}", relays)):
                run("ip", "-n", where, "addr", "add", f"{address}/24", "dev", device)
                run("ip", "-n", where, "link", "set", device, "up")
                if not offloads:
                    run(*inside(where, "ethtool", "-K", device, *NO_OFFLOADS))
            run("ip", "-n", space, "route", "add", "default", "via", relays)
        run(*inside(R, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"))
        yield
    finally:
        for space in made:
            run("ip", "netns", "del", space)


@contextmanager
def started(space: str, *command: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that says "ready PID…"; ends when its stdin is closed."""
    process = subprocess.Popen(inside(space, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        word, *pids = process.stdout.readline().split()
        if word != "ready":
            raise SystemExit(f"{command} says {word}")
        yield process, [int(p) for p in pids]
    finally:
        process.communicate()


def node(space: str, *arguments: object) -> Any:
    return started(space, sys.executable, str(NODE), *map(str, arguments))


@contextmanager
def coturn() -> Iterator[list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        command = ["turnserver", "-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"]
        command += ["--listening-ip", LINKS[A][1], "--relay-ip", LINKS[B][1], "--realm", "bench", "-m", "1"]
        command += ["--db", f"{folder}/turndb", "--pidfile", f"{folder}/pid", "--no-software-attribute"]
        process = subprocess.Popen(inside(R, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield [process.pid]
        finally:
            process.terminate()
            process.wait()


@contextmanager
def certificate() -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", "/CN=relay", "-keyout", key, "-out", cert),
        )  # fmt: skip
        yield [cert, key]


def cpu_seconds(pids: list[int]) -> float:
    """Of all their threads, by the processes' own clocks (as clock_getcpuclockid(3) makes them)."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def stream(kind: str, options: argparse.Namespace, cert: list[str]) -> tuple[float, float, float]:
    """CPU seconds of the relay and of both clients per GB delivered, and the share delivered."""
    with ExitStack() as stack:
        if kind == "coturn":
            relay = stack.enter_context(coturn())
            counter, sink_pids = stack.enter_context(node(B, "plain-sink"))
            sender = node(A, "turn", LINKS[A][1], LINKS[B][0], options.rate, options.seconds)
        else:
            one, _, other = kind.partition("-")
            secured = "wss" in (one, other)
            _, relay = stack.enter_context(node(R, "relay", "0.0.0.0", *(cert if secured else ())))
            counter, sink_pids = stack.enter_context(
                node(B, "sink", other, f"{other}://{LINKS[B][1]}:{PORTS[other]}", OWN[B])
            )
            url = f"{one}://{LINKS[A][1]}:{PORTS[one]}"
            sender = node(A, "blast", one, url, OWN[A], OWN[B], options.rate, options.seconds)
        with sender as (process, pids):
            before, clients = cpu_seconds(relay), cpu_seconds([*sink_pids, *pids])
            assert process.stdout
            sent = int(process.stdout.readline())
            spent, clients = cpu_seconds(relay) - before, cpu_seconds([*sink_pids, *pids]) - clients
        octets, _frames = map(int, counter.communicate("")[0].split())
    return spent / (octets / 1e9), clients / (octets / 1e9), octets / sent


def tunnelled(kind: str, options: argparse.Namespace, cert: list[str]) -> tuple[float, float, float]:
    """Gbit/s of TCP, CPU seconds per GB of all our processes, and of the relay."""
    with ExitStack() as stack:
        relay: list[int] = []
        if kind != "direct":
            _, relay = stack.enter_context(node(R, "relay", "0.0.0.0", *(cert if kind == "wss" else ())))
        pids = list(relay)
        for space, other in ((A, B), (B, A)):
            target = f"direct://{LINKS[other][0]}:9545" if kind == "direct" else f"{kind}://{LINKS[space][1]}:9545"
            _, found = stack.enter_context(node(space, "tunnel", kind, target, OWN[space], OWN[other]))
            pids += found
        run(*inside(A, "ping", "-c", "2", "-i", "0.2", OWN[B]))
        server = subprocess.Popen(inside(B, "iperf3", "-s", "-1", "-J"), stdout=subprocess.PIPE, text=True)
        run(*inside(B, "sh", "-c", "until ss -ltn | grep -q :5201; do sleep 0.05; done"))
        before, relayed = cpu_seconds(pids), cpu_seconds(relay)
        run(
            *inside(A, "iperf3", "-C", "cubic", "-c", OWN[B], "-t", str(options.seconds), "-J"),
            timeout=options.seconds + 60,
        )
        spent, relayed = cpu_seconds(pids) - before, cpu_seconds(relay) - relayed
        received = json.loads(server.communicate()[0])["end"]["sum_received"]
    gigabytes = received["bytes"] / 1e9
    return received["bits_per_second"] / 1e9, spent / gigabytes, relayed / gigabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rate", type=float, default=60, help="MB/s of the stream")
    parser.add_argument("--no-offloads", action="store_true", help="switch the underlay's offloads off")
    parser.add_argument("--tunnel", action="store_true", help="a whole tunnel instead of one stream")
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    kinds = (
        ("direct", "udp", "ws", "wss")
        if options.tunnel
        else ("coturn", "udp-udp", "udp-ws", "ws-udp", "ws-ws", "wss-wss")
    )
    measure = tunnelled if options.tunnel else stream
    heads = ("Gbit/s", "all CPU s/GB", "relay's") if options.tunnel else ("relay CPU s/GB", "clients'", "delivered")
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in options.only or kinds}
    with namespaces(not options.no_offloads), certificate() as cert:
        print(f"{'':9}" + "".join(f"{head:>16}" for head in heads), flush=True)
        for _ in range(options.rounds):
            for kind, rows in found.items():
                rows.append(measure(kind, options, cert))
                print(f"{kind:9}" + "".join(f"{value:16.3f}" for value in rows[-1]), flush=True)
    print("medians")
    for kind, rows in found.items():
        print(f"{kind:9}" + "".join(f"{statistics.median(column):16.3f}" for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
