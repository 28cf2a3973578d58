"""Loads that iperf3 has not, to be run in a namespace; each prints one JSON document.

bench_load.py serve ADDRESS                 the far side; prints "ready"; until stdin closes
bench_load.py udp ADDRESS SECONDS           64-byte datagrams, as many as go
bench_load.py lossless ADDRESS START        the highest rate with a loss below half a percent, from START datagrams per second on
bench_load.py rtt ADDRESS SECONDS           questions and answers, one at a time
"""

from __future__ import annotations

import json
import sys

from shadowmesh.bench.client import Client
from shadowmesh.bench.listener import Listener


def main() -> None:
    kind, address, *more = sys.argv[1:]
    if kind == "serve":
        with Listener(address):
            print("ready", flush=True)
            sys.stdin.read()
        return
    value = float(more[0])
    found: dict[str, float | None]
    with Client(address) as client:
        if kind == "udp":
            seen = client.udp(value)
            found = {"sent_kpps": seen.sent_pps / 1e3, "kpps": seen.received_pps / 1e3, "lost": seen.lost}
        elif kind == "lossless":
            found = {"kpps": client.highest_lossless(value) / 1e3}
        else:
            rtt = client.round_trip(value)
            found = {"median_ms": rtt.median_ms, "p99_ms": rtt.p99_ms, "lost": rtt.lost / rtt.count}
    print(json.dumps(found))


main()
