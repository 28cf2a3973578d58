"""Traffic whose loss, doubling and stalls can be told, as a script that runs inside a lab host.

    traffic.py udp-sink PORT SECONDS               traffic.py udp-source HOST PORT PACKETS_PER_S SECONDS
    traffic.py tcp-sink PORT                       traffic.py tcp-source HOST PORT SECONDS [BYTES_PER_S]

A sink prints `ready` when it listens (tcp-sink `flows` at the first bytes) and one JSON document at its end. Sinks end
after SECONDS, or when the stream ends. A source whose SECONDS are 0 goes on until its stdin is closed. `stalls` are
[CLOCK_MONOTONIC of the last arrival before, seconds] for each above 0.1 s; a paced source sends twice as often, so that
its own pauses are none.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from contextlib import suppress

_BLOCK = struct.pack(">16Q", *range(16)) * 64  # 8 KiB whose every offset is known


def udp_sink(port: int, seconds: float) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("", port))
    print("ready", flush=True)
    seen: dict[int, int] = {}
    end, last, gap = time.monotonic() + seconds, 0.0, 0.0
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(2048)
        except TimeoutError:
            break
        number = struct.unpack_from(">Q", data)[0]
        if number == 2**64 - 1:  # the source's end mark
            break
        now = time.monotonic()
        gap = max(gap, now - last) if last else 0.0
        last = now
        seen[number] = seen.get(number, 0) + 1
    doubled = sum(count - 1 for count in seen.values())
    print(json.dumps({"distinct": len(seen), "doubled": doubled, "longest_gap_s": round(gap, 3)}), flush=True)


def udp_source(host: str, port: int, rate: float, seconds: float) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, port))
    start, total = time.monotonic(), int(rate * seconds)
    padding = bytes(192)
    for number in range(total):
        due = start + number / rate
        while (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        sock.send(struct.pack(">Q", number) + padding)
    with suppress(ConnectionRefusedError):  # the sink ends at the first mark
        for _ in range(3):
            time.sleep(0.2)
            sock.send(struct.pack(">Q", 2**64 - 1))
    print(json.dumps({"sent": total}), flush=True)


def tcp_sink(port: int) -> None:
    server = socket.create_server(("", port))
    print("ready", flush=True)
    peer, _ = server.accept()
    total, last, wrong = 0, time.monotonic(), 0
    stalls: list[tuple[float, float]] = []
    while data := peer.recv(1 << 16):
        now = time.monotonic()
        if not total:
            print("flows", flush=True)
        elif now - last > 0.1:
            stalls.append((last, round(now - last, 3)))
        last = now
        at = total % len(_BLOCK)
        expected = (_BLOCK * (len(data) // len(_BLOCK) + 2))[at : at + len(data)]
        wrong += data != expected
        total += len(data)
    peer.close()  # before the document, which may fill the pipe: its reader waits for the source, and that for this
    longest = max((length for _, length in stalls), default=0.0)
    document = {"bytes": total, "wrong_reads": wrong, "longest_stall_s": longest, "stalls": stalls}
    print(json.dumps(document), flush=True)


def tcp_source(host: str, port: int, seconds: float, rate: float = 0) -> None:
    sock = socket.create_connection((host, port), timeout=30)
    piece = min(len(_BLOCK), int(rate * 0.05)) or len(_BLOCK)
    start, total = time.monotonic(), 0
    while time.monotonic() - start < seconds if seconds else not select.select([sys.stdin], [], [], 0)[0]:
        at = total % len(_BLOCK)
        total += sock.send(_BLOCK[at : at + piece])
        if rate:
            time.sleep(max(0.0, start + total / rate - time.monotonic()))
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(4096):
        pass
    took = time.monotonic() - start
    print(json.dumps({"bytes": total, "seconds": round(took, 3)}), flush=True)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    match mode:
        case "udp-sink":
            udp_sink(int(rest[0]), float(rest[1]))
        case "udp-source":
            udp_source(rest[0], int(rest[1]), float(rest[2]), float(rest[3]))
        case "tcp-sink":
            tcp_sink(int(rest[0]))
        case "tcp-source":
            tcp_source(rest[0], int(rest[1]), *map(float, rest[2:]))
        case _:
            sys.exit(__doc__)
