"""Real traffic through a tunnel: a conversation that goes on over one TCP connection per pair, and a transfer with a rate."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from shadowmesh.lab.internet import Host

PORT = 7007
_BEAT = 0.25  # seconds between two questions
_CHUNK = 256 * 1024


@dataclass(slots=True)
class Conversation:
    """How one pair's connection fares. Times are seconds since all began."""

    first_answer: float | None = None
    answers: int = 0
    last_ms: float | None = None
    broken: int = 0  # how often the connection ended before it was to


class Conversations:
    """Keeps a TCP connection open between every pair of hosts and asks over it four times a second.

    A connection that lives through a change of path proves that the change broke nothing.
    """

    def __init__(self, hosts: Mapping[str, Host], addresses: Mapping[str, str]) -> None:
        self._hosts = dict(hosts)
        self._addresses = dict(addresses)
        names = list(self._hosts)
        self.pairs: dict[tuple[str, str], Conversation] = {
            (a, b): Conversation() for i, a in enumerate(names) for b in names[i + 1 :]
        }
        self.began = 0.0
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="conversations", daemon=True)

    def start(self) -> None:
        self.began = time.monotonic()
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def __enter__(self) -> Conversations:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner, suppress(asyncio.CancelledError):
            runner.run(self._everything())

    async def _everything(self) -> None:
        self._task = asyncio.current_task()
        self._ready.set()
        async with asyncio.TaskGroup() as group:
            for host in self._hosts.values():
                group.create_task(_answer(group, host))
            for pair, conversation in self.pairs.items():
                group.create_task(self._converse(*pair, conversation))

    async def _converse(self, a: str, b: str, conversation: Conversation) -> None:
        while True:
            try:
                await self._ask(self._hosts[a], self._addresses[b], conversation)
            except OSError:
                conversation.broken += conversation.answers > 0
                await asyncio.sleep(_BEAT)

    async def _ask(self, host: Host, address: str, conversation: Conversation) -> None:
        loop = asyncio.get_running_loop()
        with host.socket(socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, (address, PORT))
            while True:
                asked = loop.time()
                await loop.sock_sendall(sock, b"?")
                if not await loop.sock_recv(sock, 1):
                    raise ConnectionResetError("the other side ended the connection")
                conversation.last_ms = (loop.time() - asked) * 1000
                conversation.answers += 1
                if conversation.first_answer is None:
                    conversation.first_answer = time.monotonic() - self.began
                await asyncio.sleep(_BEAT)


async def _answer(group: asyncio.TaskGroup, host: Host) -> None:
    with _listener(host, PORT) as listener:
        listener.setblocking(False)
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            group.create_task(_echo(connection))


async def _echo(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := await loop.sock_recv(connection, 64):
            await loop.sock_sendall(connection, data)


def _listener(host: Host, port: int) -> socket.socket:
    sock = host.socket(socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", port))
    sock.listen()
    return sock


@dataclass(frozen=True, slots=True)
class Transfer:
    """What arrived, in how long; `intact`: the SHA-256 of both ends is the same."""

    size: int
    seconds: float
    intact: bool

    @property
    def mbit(self) -> float:
        """Megabits per second of payload."""
        return self.size * 8 / 1e6 / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Received:
    size: int = 0
    digest: bytes = b""
    seconds: float = 0.0
    trouble: list[OSError] = field(default_factory=list)


def transfer(source: Host, target: Host, address: str, *, seconds: float = 1.0) -> Transfer:
    """Sends over one TCP connection from `source` to `address` (of `target`) for so long. Raises OSError if that fails."""
    received = _Received()
    with _listener(target, 0) as listener, source.socket(socket.SOCK_STREAM) as sender:
        for sock in (listener, sender):
            sock.settimeout(seconds + 10)
        receiver = threading.Thread(target=_receive, args=(listener, received), name="receiver", daemon=True)
        receiver.start()
        sender.connect((address, listener.getsockname()[1]))
        digest = hashlib.sha256()
        chunk = os.urandom(_CHUNK)
        until = time.monotonic() + seconds
        sent = 0
        while time.monotonic() < until:
            sender.sendall(chunk)
            digest.update(chunk)
            sent += len(chunk)
        sender.shutdown(socket.SHUT_WR)
        receiver.join()
    if received.trouble:
        raise received.trouble[0]
    intact = received.size == sent and received.digest == digest.digest()
    return Transfer(received.size, received.seconds, intact)


def _receive(listener: socket.socket, received: _Received) -> None:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(listener.gettimeout())
            began = time.monotonic()
            while count := connection.recv_into(buffer):
                digest.update(buffer[:count])
                received.size += count
            received.seconds = time.monotonic() - began
    except OSError as e:
        received.trouble.append(e)
    received.digest = digest.digest()
