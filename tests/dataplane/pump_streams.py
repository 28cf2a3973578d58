"""Streams through a pair of pumps whose path is switched as the stream gets on."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pump_pair import Pair

_RANDOM = memoryview(os.urandom(1 << 20) * 2)


def pattern(offset: int) -> memoryview:
    """What a stream has from `offset` on: 256 kB of it."""
    return _RANDOM[offset % (1 << 20) :][: 1 << 18]


def tcp_over_switches(pair: Pair, switches: int, step: int, used: Callable[[], bool] = lambda: True) -> list[float]:
    """One connection over so many switches, each `step` bytes after the last, or more until the way is `used`.

    All must arrive whole. Returns the seconds between arrivals.
    """
    gaps: list[float] = []
    arrived = 0
    over, steps = threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(2) as pool:
        client, server = pair.tcp(0)

        def send() -> int:
            sent = 0
            while not over.is_set():
                sent += client.send(pattern(sent))
            client.shutdown(socket.SHUT_WR)
            return sent

        def receive() -> None:
            nonlocal arrived
            last = time.monotonic()
            while data := server.recv(1 << 18):
                gaps.append(time.monotonic() - last)
                last += gaps[-1]
                assert data == pattern(arrived)[: len(data)]
                if done := (arrived + len(data)) // step - arrived // step:
                    steps.release(done)
                arrived += len(data)

        receiving, sending = pool.submit(receive), pool.submit(send)
        try:
            for turn in range(switches):
                pair.steer(turn % 2)
                assert steps.acquire(timeout=5), turn
                while not used():
                    assert steps.acquire(timeout=5), turn
        finally:
            over.set()
        sent = sending.result(20)
        receiving.result(20)
    assert arrived == sent >= switches * step
    return gaps
