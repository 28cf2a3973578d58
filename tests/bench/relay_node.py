"""One process of the relay's benchmark (`relay_bench.py`), to be run in its namespace:

    relay_node.py relay HOST [CERT KEY]                      a relay; prints "ready PID"
    relay_node.py sink VIA URL OWN                           a client that counts what comes, until stdin closes
    relay_node.py blast VIA URL OWN PEER MB_PER_S SECONDS    a client that sends frames
    relay_node.py plain-sink                                 a UDP socket that counts, as coturn's peer
    relay_node.py turn HOST PEER MB_PER_S SECONDS            a TURN client that sends channel data to it
    relay_node.py tunnel VIA URL OWN PEER                    a TUN, a pump and its way through the relay

VIA is udp, ws or wss. OWN and PEER are overlay addresses. Senders offer frames as a pump does that carries TCP: bursts of
full ones, cut by the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from relay_client import CONTROLLER, NETWORK, PORT, RELAY, stream_client, udp_client

from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.pumps import choose_pump
from shadowmesh.dataplane.sockets import gathered_size, open_udp
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr
from shadowmesh.protocol import relay as wire
from shadowmesh.relay.relaycore import RelayCore
from shadowmesh.relay.server import RelayServer

SINK_PORT = 9600
TURN_PORT = 3478
FRAME = 1452  # inner MTU 1,376, WireGuard's 32, the relay's 44
BURST = 45  # frames in 64 KiB
UDP_SEGMENT, UDP_GRO = 103, 104


def paced(send: Callable[[], None], octets: int, rate: float, seconds: float) -> int:
    """Calls `send`, which sends `octets`, at `rate` bytes per second. Returns how many bytes went."""
    start, sent = time.monotonic(), 0
    while (now := time.monotonic() - start) < seconds:
        ahead = sent / rate - now
        if ahead > 0:
            time.sleep(ahead)
            continue
        send()
        sent += octets
    return sent


def segmented(sock: socket.socket, burst: bytes, size: int, to: tuple[str, int]) -> Callable[[], None]:
    """Sends datagrams of `size` bytes in one call, or one by one where the kernel can't cut."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", size))]

    def send() -> None:
        try:
            sock.sendmsg([burst], control, 0, to)
        except BlockingIOError:
            time.sleep(0.0005)
        except OSError:
            for at in range(0, len(burst), size):
                sock.sendto(burst[at : at + size], to)

    return send


class Counter:
    """Counts what comes until stdin closes, and prints bytes and datagrams."""

    def __init__(self) -> None:
        self.octets = self.frames = 0

    def udp(self, sock: socket.socket) -> None:
        sock.settimeout(0.2)
        buffer = bytearray(65536)
        while not stopped():
            with contextlib.suppress(TimeoutError):
                size, ancillary, _, _ = sock.recvmsg_into([buffer], 128)
                step = next((gathered_size(d) for _, kind, d in ancillary if kind == UDP_GRO), size)
                self.octets += size
                self.frames += -(-size // step)
        self.say()

    def stream(self, sock: socket.socket) -> None:
        sock.settimeout(0.2)
        while not stopped():
            with contextlib.suppress(TimeoutError):
                self.octets += len(sock.recv(1 << 18))
        self.frames = self.octets // (FRAME + 2)
        self.say()

    def say(self) -> None:
        print(self.octets, self.frames, flush=True)


def stopped() -> bool:
    return bool(select.select([0], [], [], 0)[0])


def ready() -> None:
    print(f"ready {os.getpid()}", flush=True)


async def serve_relay(host: str, *certificate: str) -> None:
    pump = choose_pump()
    tls = ServerTls(Path(certificate[0]), Path(certificate[1]), pump) if certificate else None
    core = RelayCore(RELAY, token_keys=[CONTROLLER.public], pump=pump)
    async with RelayServer(core, SockAddr(host, PORT), tls=tls):
        ready()
        await asyncio.to_thread(sys.stdin.read)


def host_of(url: str) -> str:
    return url.partition("://")[2].partition(":")[0]


async def sink(via: str, url: str, own: str) -> None:
    counter = Counter()
    if via == "udp":
        sock = await udp_client(host_of(url), own)
        ready()
        await asyncio.to_thread(counter.udp, sock)
        return
    fd, task = await stream_client(url, own)
    with socket.socket(fileno=os.dup(fd)) as end:
        ready()
        await asyncio.to_thread(counter.stream, end)
    task.cancel()


async def blast(via: str, url: str, own: str, peer: str, rate: str, seconds: str) -> None:
    prefix = wire.frame_prefix(NETWORK, IPv4Address(own), IPv4Address(peer))
    frame = prefix + b"\x04\0\0\0" + bytes(FRAME - len(prefix) - 4)
    timing = (float(rate) * 1e6, float(seconds))
    if via == "udp":
        sock = await udp_client(host_of(url), own)
        ready()
        send = segmented(sock, frame * BURST, FRAME, (host_of(url), PORT))
        print(await asyncio.to_thread(paced, send, FRAME * BURST, *timing), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        return
    fd, task = await stream_client(url, own)
    burst = wire.pack_stream([frame] * BURST)
    with socket.socket(fileno=os.dup(fd)) as end:
        ready()
        print(await asyncio.to_thread(paced, lambda: end.sendall(burst), FRAME * BURST, *timing), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    task.cancel()


def plain_sink() -> None:
    sock = open_udp(ip_address("0.0.0.0"), SINK_PORT)
    ready()
    Counter().udp(sock)


# RFC 8656


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack(">HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _turn(sock: socket.socket, method: int, *attributes: bytes) -> None:
    body = b"".join(attributes)
    sock.send(struct.pack(">HHI", method, len(body), 0x2112A442) + os.urandom(12) + body)
    answer = int.from_bytes(sock.recv(2048)[:2], "big")
    if answer != method | 0x0100:
        raise SystemExit(f"the TURN server answered {answer:#06x} to {method:#06x}")


def turn(host: str, peer: str, rate: str, seconds: str) -> None:
    """An allocation, a channel to the sink, and channel data in bursts as `blast` sends them."""
    sock = open_udp(ip_address("0.0.0.0"))
    sock.connect((host, TURN_PORT))
    sock.settimeout(5)
    _turn(sock, 0x0003, _attribute(0x0019, b"\x11\0\0\0"))
    port, address = SINK_PORT ^ 0x2112, int(IPv4Address(peer)) ^ 0x2112A442
    _turn(sock, 0x0009, _attribute(0x000C, b"\x40\0\0\0"), _attribute(0x0012, struct.pack(">HHI", 1, port, address)))
    size = FRAME - wire.PREFIX_SIZE  # the peers' message: coturn puts its own four bytes before it
    frame = struct.pack(">HH", 0x4000, size) + bytes(size)
    ready()
    send = segmented(sock, frame * BURST, len(frame), (host, TURN_PORT))
    print(paced(send, len(frame) * BURST, float(rate) * 1e6, float(seconds)), flush=True)
    sys.stdin.read()


# a whole tunnel


async def tunnel(via: str, url: str, own: str, peer: str) -> None:
    tun, name = open_tun("smrelay0")
    HostNetwork().apply(InterfaceConfig(name, 1376, (ip_address(own),), (ip_network(f"{peer}/32"),)))
    prefix = wire.frame_prefix(NETWORK, IPv4Address(own), IPv4Address(peer))
    net, slot, index = m.NetIndex(0), m.Slot(0), m.PeerIndex(0)
    link: m.Command
    if via == "udp":
        sock = await udp_client(host_of(url), own)
        link, path = m.AddSocket(slot, sock.fileno()), m.Path(slot, SockAddr(host_of(url), PORT), prefix=prefix)
    elif via == "direct":
        sock = open_udp(ip_address("0.0.0.0"), PORT)
        link, path = m.AddSocket(slot, sock.fileno()), m.Path(slot, SockAddr(host_of(url), PORT))
    else:
        fd, _task = await stream_client(url, own)
        link, path = m.AddStream(slot, fd), m.Path(slot, None, prefix=prefix)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    first = own < peer
    keys, indices = ((b"1" * 32, b"2" * 32), (1, 2)) if first else ((b"2" * 32, b"1" * 32), (2, 1))
    pump = PumpProcess()
    pump.apply(
        [
            m.AddTun(net, tun, 1376, (ip_network(f"{own}/32"),)),
            link,
            m.PutPeer(index, net, (ip_network(f"{peer}/32"),)),
            m.SetPath(index, path),
            m.Install(index, m.Session(*indices, *keys, first, now, now + 3600)),
        ]
    )
    print(f"ready {os.getpid()} {pump.pid}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    pump.close()


def main() -> None:
    role, *arguments = sys.argv[1:]
    plain = {"plain-sink": plain_sink, "turn": turn}
    if role in plain:
        plain[role](*arguments)
    else:
        asyncio.run({"relay": serve_relay, "sink": sink, "blast": blast, "tunnel": tunnel}[role](*arguments))


main()
