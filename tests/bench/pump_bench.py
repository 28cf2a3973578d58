"""A pump against wireguard-go: two namespaces, one veth, iperf3 in turns, medians. Needs root.

    python tests/bench/pump_bench.py [--pump native|python] [--rounds 5] [--seconds 4] [--udp] [--no-offloads] [--wireguard-go PATH]

Without `--wireguard-go` the newest is built by `go install golang.zx2c4.com/wireguard@latest`. Only ratios carry over to other machines.
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

from shadowmesh.dataplane.pumps import ENVIRONMENT, PUMP_NAMES, choose_pump

NODE = Path(__file__).with_name("pump_node.py")
SPACES = (f"dp-bench-a-{os.getpid()}", f"dp-bench-b-{os.getpid()}")
OUTER = ("10.99.0.1", "10.99.0.2")
PUMP = ("10.98.0.1", "10.98.0.2")
WIREGUARD = ("10.97.0.1", "10.97.0.2")


def run(*command: str, stdin: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, input=stdin).stdout


def inside(space: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", space, *command]


@contextmanager
def namespaces(offloads: bool) -> Iterator[None]:
    made = []
    try:
        for space in SPACES:
            run("ip", "netns", "add", space)
            made.append(space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "link", "add", "dpv0", "netns", SPACES[0], "type", "veth", "peer", "name", "dpv0", "netns", SPACES[1])
        for space, address in zip(SPACES, OUTER, strict=True):
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "dpv0")
            run("ip", "-n", space, "link", "set", "dpv0", "up")
            if not offloads:
                run(
                    *inside(
                        space,
                        "ethtool",
                        "-K",
                        "dpv0",
                        "gso",
                        "off",
                        "gro",
                        "off",
                        "tso",
                        "off",
                        "tx-udp-segmentation",
                        "off",
                    )
                )
        yield
    finally:
        for space in made:
            run("ip", "netns", "del", space)


@contextmanager
def pumps(mtu: int) -> Iterator[list[int]]:
    processes = []
    try:
        for i, space in enumerate(SPACES):
            arguments = [sys.executable, str(NODE), "smb0", PUMP[i], PUMP[1 - i], OUTER[1 - i], "ab"[i], str(mtu)]
            processes.append(
                subprocess.Popen(inside(space, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        yield [int(p.stdout.readline().split()[1]) for p in processes if p.stdout]
    finally:
        for process in processes:
            process.communicate()


@contextmanager
def wireguard(binary: str, mtu: int) -> Iterator[list[int]]:
    keys = [run("wg", "genkey").strip() for _ in SPACES]
    publics = [run("wg", "pubkey", stdin=key).strip() for key in keys]
    processes = []
    try:
        for i, space in enumerate(SPACES):
            name = f"dpw{i}-{os.getpid()}"
            process = subprocess.Popen(
                inside(space, binary, "-f", name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            processes.append(process)
            control = Path(f"/var/run/wireguard/{name}.sock")
            while not control.exists():
                if process.poll() is not None:
                    raise SystemExit(f"{binary} ended")
                time.sleep(0.05)
            with tempfile.NamedTemporaryFile("w") as key:
                key.write(keys[i])
                key.flush()
                run(
                    *inside(space, "wg", "set", name, "listen-port", "51821", "private-key", key.name),
                    *("peer", publics[1 - i], "allowed-ips", f"{WIREGUARD[1 - i]}/32", "endpoint", f"{OUTER[1 - i]}:51821"),
                )  # fmt: skip
            run("ip", "-n", space, "link", "set", name, "mtu", str(mtu), "up")
            run("ip", "-n", space, "addr", "add", f"{WIREGUARD[i]}/32", "dev", name)
            run("ip", "-n", space, "route", "add", f"{WIREGUARD[1 - i]}/32", "dev", name)
        yield [p.pid for p in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def cpu_seconds(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def measure(target: str, pids: list[int], seconds: float, udp: bool) -> tuple[float, float]:
    """TCP: Gbit/s and CPU seconds per GB of both daemons. UDP: kpps delivered and CPU seconds."""
    server = subprocess.Popen(inside(SPACES[1], "iperf3", "-s", "-1", "-J"), stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    before = cpu_seconds(pids)
    kind = ["-u", "-b", "0", "-l", "64"] if udp else ["-C", "cubic"]
    run(*inside(SPACES[0], "iperf3", *kind, "-c", target, "-t", str(seconds), "-J"))
    spent = cpu_seconds(pids) - before
    report = json.loads(server.communicate()[0])["end"]
    if udp:
        stream = report["sum"]
        return (stream["packets"] - stream["lost_packets"]) / stream["seconds"] / 1e3, spent
    received = report["sum_received"]
    return received["bits_per_second"] / 1e9, spent / (received["bytes"] / 1e9)


def checksum_errors() -> int:
    names, values = [
        line.split()
        for line in run(*inside(SPACES[1], "cat", "/proc/net/snmp")).splitlines()
        if line.startswith("Tcp:")
    ]
    return int(values[names.index("InCsumErrors")])


def newest_wireguard() -> str:
    target = Path(tempfile.gettempdir()) / "shadowmesh-bench-wireguard"
    if not (target / "wireguard").exists():
        environment = {**os.environ, "GOBIN": str(target), "GOFLAGS": "-modcacherw"}
        subprocess.run(["go", "install", "golang.zx2c4.com/wireguard@latest"], check=True, env=environment)
    return str(target / "wireguard")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--udp", action="store_true", help="64-byte UDP instead of TCP")
    parser.add_argument("--no-offloads", action="store_true", help="switch the underlay's offloads off")
    parser.add_argument("--mtu", type=int, default=1420)
    parser.add_argument("--wireguard-go", default=None)
    parser.add_argument("--pump", choices=PUMP_NAMES, default=choose_pump())
    options = parser.parse_args()
    binary = options.wireguard_go or newest_wireguard()
    os.environ[ENVIRONMENT] = options.pump  # for the nodes
    found: dict[str, list[tuple[float, float]]] = {options.pump: [], "wireguard-go": []}
    with ExitStack() as stack:
        stack.enter_context(namespaces(not options.no_offloads))
        sides = {
            options.pump: (PUMP[1], stack.enter_context(pumps(options.mtu))),
            "wireguard-go": (WIREGUARD[1], stack.enter_context(wireguard(binary, options.mtu))),
        }
        for target, _ in sides.values():
            run(*inside(SPACES[0], "ping", "-c", "2", "-i", "0.2", target))
        for number in range(options.rounds):
            for name, (target, pids) in sides.items():
                result = measure(target, pids, options.seconds, options.udp)
                found[name].append(result)
                print(f"round {number + 1} {name:13} {result[0]:8.2f} {result[1]:7.2f}", flush=True)
        errors = checksum_errors()
    unit = ("kpps", "CPU s") if options.udp else ("Gbit/s", "CPU s/GB")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, (rate, cost) in medians.items():
        print(f"median  {name:13} {rate:8.2f} {unit[0]} {cost:7.2f} {unit[1]}")
    ratio = medians[options.pump][0] / medians["wireguard-go"][0]
    print(f"{options.pump} / wireguard-go: {ratio:.2f}; TcpInCsumErrors {errors}")


if __name__ == "__main__":
    main()
