"""A real wireguard-go in a network namespace of its own, and one UDP socket in there to talk to it.

Run as root, this file captures a conversation with fixed keys into `wireguard_go.json`, which the unit tests replay:
`python tests/protocol/wireguard_go_peer.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import MalformedError
from shadowmesh.model.keys import Secret, WireGuardPublicKey
from shadowmesh.protocol import cookies, noise
from shadowmesh.protocol.noise import Initiation, ReceivedInitiation, StaticKeys, TransportKeys

VECTORS = Path(__file__).with_name("wireguard_go.json")
THEIR_IP, OUR_IP = "10.77.0.1", "10.77.0.2"
CLONE_NEWNET = 0x40000000


def now() -> Now:
    return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class WireGuardGo:
    """wireguard-go, with one peer: whoever holds `ours`. `initiates`: it starts the handshake itself."""

    def __init__(self, private: Secret, ours: WireGuardPublicKey, psk: Secret, *, initiates: bool) -> None:
        self.public = noise.public_key(private)
        self._name = f"proto-{os.getpid() % 100000}"
        self._cleanup = contextlib.ExitStack()
        try:
            self._start(private, ours, psk, initiates)
        except BaseException:
            self._cleanup.close()
            raise

    def _start(self, private: Secret, ours: WireGuardPublicKey, psk: Secret, initiates: bool) -> None:
        _run("ip", "netns", "add", self._name)
        self._cleanup.callback(_run, "ip", "netns", "delete", self._name)
        _run("ip", "-n", self._name, "link", "set", "lo", "up")
        self.socket = self._cleanup.enter_context(_socket_in(self._name))
        self.address = SockAddr(*self.socket.getsockname())
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._name, "wireguard-go", "-f", self._name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LOG_LEVEL": "verbose", "WG_PROCESS_FOREGROUND": "1"},
        )
        self._cleanup.callback(_stop, process)
        assert process.stdout is not None
        for line in process.stdout:
            if b"UAPI listener started" in line:
                break
        else:
            raise RuntimeError("wireguard-go did not start")
        ThreadPoolExecutor(1).submit(process.stdout.read)  # its log is read to its end, so that it never blocks
        config = f"[Interface]\nPrivateKey = {WireGuardPublicKey(private.reveal())}\n[Peer]\nPublicKey = {ours}\n"
        config += f"PresharedKey = {WireGuardPublicKey(psk.reveal())}\nAllowedIPs = {OUR_IP}/32\n"
        if initiates:
            config += f"Endpoint = {self.address}\nPersistentKeepalive = 25\n"
        _run("ip", "netns", "exec", self._name, "wg", "setconf", self._name, "/dev/stdin", text=config)
        _run("ip", "-n", self._name, "address", "add", f"{THEIR_IP}/24", "dev", self._name)
        _run("ip", "-n", self._name, "link", "set", self._name, "up")
        shown = _run("ip", "netns", "exec", self._name, "wg", "show", self._name, "listen-port")
        self.endpoint = ("127.0.0.1", int(shown))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.endpoint)

    def receive(self, kind: int, timeout: float = 3.0) -> bytes:
        """The next message of this type; others are passed over. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            data = self.socket.recv(2048)
            if noise.message_type(data) == kind:
                return data
        raise TimeoutError

    def echo(self, keys: TransportKeys, counter: int) -> bytes:
        """Sends an ICMP echo through the session; the transport message that brings the host's answer."""
        self.send(seal(keys, counter, echo_request()))
        while True:
            answer = self.receive(noise.TRANSPORT)
            if len(answer) > noise.TRANSPORT_OVERHEAD:  # not a keepalive
                return answer


def seal(keys: TransportKeys, counter: int, packet: bytes) -> bytes:
    """A transport message, section 5.4.6 of the paper."""
    padded = packet + bytes(-len(packet) % 16)
    header = struct.pack("<IIQ", noise.TRANSPORT, keys.remote_index, counter)
    return header + ChaCha20Poly1305(keys.send).encrypt(bytes(4) + header[8:], padded, b"")


def unseal(keys: TransportKeys, message: bytes) -> bytes:
    assert noise.receiver_index(message) == keys.local_index
    return ChaCha20Poly1305(keys.recv).decrypt(bytes(4) + message[8:16], message[16:], b"")


def echo_request() -> bytes:
    body = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + b"is anybody there"
    body = body[:2] + _checksum(body) + body[4:]
    source, dest = (ipaddress.IPv4Address(a).packed for a in (OUR_IP, THEIR_IP))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0) + source + dest
    return head[:10] + _checksum(head) + head[12:] + body


def is_echo_answer(packet: bytes) -> bool:
    return packet[9] == 1 and packet[12:16] == ipaddress.IPv4Address(THEIR_IP).packed and packet[20] == 0


def cookie_under_load(peer: WireGuardGo, static: StaticKeys, jar: cookies.CookieJar) -> tuple[bytes, bytes]:
    """Floods until an initiation of `static` is answered with a cookie: that initiation and the reply."""
    flood = cookies.CookieJar(peer.public)
    deadline = time.monotonic() + 10
    index = 0x1000
    while time.monotonic() < deadline:
        index += 1
        for _ in range(400):  # well-formed to the eye of mac1, so that each costs the responder its Diffie–Hellman
            peer.send(flood.add_macs(struct.pack("<II", noise.INITIATION, 0xDEAD) + os.urandom(108) + bytes(32), now()))
        first = Initiation.create(static, peer.public, index, noise.tai64n(time.time()))
        message = jar.add_macs(first.message, now())
        peer.send(message)
        with contextlib.suppress(TimeoutError):
            while True:
                reply = peer.receive(noise.COOKIE_REPLY, timeout=0.1)
                if noise.receiver_index(reply) == index:
                    return message, reply
    raise AssertionError("wireguard-go never came under load")


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(5)


def _socket_in(namespace: str) -> socket.socket:
    def make() -> socket.socket:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/var/run/netns", namespace).open() as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):  # of this thread alone
                raise OSError(ctypes.get_errno(), "setns")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("127.0.0.1", 0))
        return sock

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def capture() -> dict[str, dict[str, str]]:
    """Conversations with fixed keys, everything that the replay needs in hexadecimal."""
    theirs, ours, ephemeral, psk = (Secret(bytes([n]) * 32) for n in (0x11, 0x22, 0x33, 0x44))
    static = StaticKeys(ours)
    with WireGuardGo(theirs, static.public, psk, initiates=False) as peer:
        timestamp = noise.tai64n(1.7e9)
        first = Initiation.create(static, peer.public, 0xA1, timestamp, ephemeral=ephemeral)
        initiation = cookies.CookieJar(peer.public).add_macs(first.message, now())
        peer.send(initiation)
        response = peer.receive(noise.RESPONSE)
        answer = peer.echo(first.consume_response(response, psk), 0)
        initiator = {"timestamp": timestamp, "initiation": initiation, "response": response, "transport": answer}
        asked, reply = cookie_under_load(peer, static, cookies.CookieJar(peer.public))
    with WireGuardGo(theirs, static.public, psk, initiates=True) as peer:
        heard = ReceivedInitiation.open(static, message := peer.receive(noise.INITIATION))
        second, _ = heard.respond(0xB2, psk, ephemeral=ephemeral)
        second = cookies.CookieJar(peer.public).add_macs(second, now())
        peer.send(second)
        keepalive = peer.receive(noise.TRANSPORT)
    groups = {
        "keys": {
            k: v.reveal() for k, v in {"theirs": theirs, "ours": ours, "ephemeral": ephemeral, "psk": psk}.items()
        },
        "initiator": initiator,
        "responder": {"initiation": message, "response": second, "transport": keepalive},
        "cookie": {"initiation": asked, "reply": reply},
    }
    return {group: {name: value.hex() for name, value in values.items()} for group, values in groups.items()}


if __name__ == "__main__":
    try:
        VECTORS.write_text(json.dumps(capture(), indent=1) + "\n")
    except (OSError, RuntimeError, MalformedError) as e:
        sys.exit(f"could not capture: {e}")
