"""Counting packets where they pass: an AF_PACKET socket inside a namespace, read by a thread."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType

from shadowmesh.lab import netns
from shadowmesh.model.addresses import IPAddress

_ETH_P_ALL = 0x0003
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_UDP, _TCP = 17, 6


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet as it passed. `data` starts at the IP header; ports are 0 where there are none.

    With segmentation offload on a link one may be larger than its MTU.
    """

    interface: str
    outgoing: bool
    source: IPAddress
    target: IPAddress
    protocol: int
    source_port: int
    target_port: int
    data: bytes


Match = Callable[[Packet], bool]


def parse(data: bytes, interface: str, *, outgoing: bool) -> Packet | None:
    """An IPv4 or IPv6 packet from its bytes; None for anything else. Extension headers are not followed."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        header, protocol = (data[0] & 15) * 4, data[9]
        source, target = ip_address(data[12:16]), ip_address(data[16:20])
    elif len(data) >= 40 and data[0] >> 4 == 6:
        header, protocol = 40, data[6]
        source, target = ip_address(data[8:24]), ip_address(data[24:40])
    else:
        return None
    ports = (0, 0)
    if protocol in (_UDP, _TCP) and len(data) >= header + 4:
        ports = (int.from_bytes(data[header : header + 2]), int.from_bytes(data[header + 2 : header + 4]))
    return Packet(interface, outgoing, source, target, protocol, *ports, data)


class Capture:
    """Keeps the packets that `match` lets through (all, without one), while inside the `with`.

    `count` and `packets` may be read at any time; `wait(n)` waits until there are n.
    """

    def __init__(self, namespace: str, match: Match | None = None, interface: str | None = None) -> None:
        self._namespace = namespace
        self._match = match
        self._interface = interface
        self._packets: list[Packet] = []
        self._changed = threading.Condition()
        self._stop_read, self._stop_write = -1, -1
        self._thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        return len(self._packets)

    @property
    def packets(self) -> list[Packet]:
        return list(self._packets)

    def wait(self, count: int, timeout: float) -> bool:
        """Whether at least `count` packets have been seen within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._packets) >= count, timeout)

    def __enter__(self) -> Capture:
        with netns.entered(self._namespace):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        if self._interface is not None:
            sock.bind((self._interface, _ETH_P_ALL))
        sock.setblocking(False)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._read, args=(sock,), name="capture", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stop_write)
        if self._thread is not None:
            self._thread.join()
        os.close(self._stop_read)

    def _read(self, sock: socket.socket) -> None:
        with sock:
            while True:
                ready, _, _ = select.select([sock.fileno(), self._stop_read], [], [])
                self._take(sock)
                if self._stop_read in ready:
                    return

    def _take(self, sock: socket.socket) -> None:
        until = time.monotonic() + 1.0  # under a flood the end has to be seen, too
        while time.monotonic() < until:
            try:
                data, (interface, protocol, kind, *_) = sock.recvfrom(70_000)
            except BlockingIOError:
                return
            if protocol not in (_ETH_P_IP, _ETH_P_IPV6):
                continue
            packet = parse(data, interface, outgoing=kind == socket.PACKET_OUTGOING)
            if packet is not None and (self._match is None or self._match(packet)):
                with self._changed:
                    self._packets.append(packet)
                    self._changed.notify_all()
