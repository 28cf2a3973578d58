"""Connections come out of a listening socket when their clients have said their first word, and not before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from shadowmesh.serving import listening
from shadowmesh.serving.admission import Accepted, Admission
from shadowmesh.serving.listening import ListeningSocket, listen
from shadowmesh.serving.rarelog import RareLog


@pytest.fixture
def admission() -> Iterator[Admission]:
    made = Admission(10_000, RareLog("test"))
    yield made
    made.close()


class Listening:
    """A listening socket and what comes out of it, read as asyncio reads it."""

    def __init__(self, listener: ListeningSocket) -> None:
        self.listener = listener
        self.out: asyncio.Queue[socket.socket] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(listener.fileno(), self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.out.put_nowait(self.listener.accept()[0])

    def stop(self) -> None:
        if self.listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.listener.fileno())

    def client(self) -> socket.socket:
        client = socket.create_connection(self.listener.getsockname())
        client.setblocking(False)
        return client

    async def waiting(self, number: int) -> None:
        while self.listener.waiting != number:  # noqa: ASYNC110 - a plain counter
            await asyncio.sleep(0.001)

    async def said(self) -> bytes:
        """What the next connection that comes out has to say."""
        connection = await self.out.get()
        with connection:
            return await asyncio.get_running_loop().sock_recv(connection, 65536)


@pytest.fixture
async def doors(admission: Admission) -> AsyncIterator[Listening]:
    with listen(socket.AF_INET, ("127.0.0.1", 0), admission) as listener:
        doors = Listening(listener)
        async with asyncio.timeout(30):
            yield doors
        doors.stop()


def client_hello(padding: int = 0, alpn: Sequence[str] = ()) -> bytes:
    """A record as OpenSSL sends it, with ALPN names to make it longer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([*alpn, *["x" * 250] * (padding // 251)])
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="x.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


async def test_who_is_silent_doesnt_come_out(doors: Listening, admission: Admission) -> None:
    silent = [doors.client() for _ in range(5)]
    await doors.waiting(5)
    with doors.client() as speaker:
        speaker.send(b"GET / HTTP/1.1\r\n")
        assert await doors.said() == b"GET / HTTP/1.1\r\n"
    assert doors.out.empty() and admission.held == 5
    for client in silent:
        client.close()
    await doors.waiting(0)
    assert doors.out.empty() and admission.held == 0


@pytest.mark.parametrize("padding", [0, 6000])
async def test_a_client_hello_comes_out_whole(doors: Listening, padding: int) -> None:
    hello = client_hello(padding)
    assert hello[0] == 22 and len(hello) > padding
    with doors.client() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (hello[:1], hello[1:5], hello[5:6], hello[6:-1]):
            client.send(piece)
            await doors.waiting(1)
            await asyncio.sleep(0.005)  # were it handed out too early, it would be now
            assert doors.out.empty()
        client.send(hello[-1:])
        assert await doors.said() == hello
    await doors.waiting(0)


@pytest.mark.parametrize("end", ["closed", "half closed", "reset"])
@pytest.mark.parametrize("size", [0, 1, 5, 100])
async def test_a_hello_that_ends_is_closed(doors: Listening, admission: Admission, end: str, size: int) -> None:
    client = doors.client()
    client.send(client_hello()[:size])
    await doors.waiting(1)
    if end == "half closed":
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # what it said wasn't read
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    elif end == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    await doors.waiting(0)
    assert doors.out.empty() and admission.held == 0


async def test_a_short_word_before_the_end_is_heard(doors: Listening) -> None:
    with doors.client() as client:
        client.send(b"PRI")
        client.shutdown(socket.SHUT_WR)
        assert await doors.said() == b"PRI"


async def test_a_record_that_is_too_long_is_for_tls_to_refuse(doors: Listening) -> None:
    with doors.client() as client:
        record = b"\x16\x03\x01\xff\xff" + bytes(2**14)
        await asyncio.get_running_loop().sock_sendall(client, record)
        assert (await doors.said())[:5] == record[:5]


async def test_a_few_come_out_in_each_turn_and_those_that_can_wait_after_the_others(admission: Admission) -> None:
    patient, other = client_hello(alpn=["link/1", "http/1.1"]), client_hello(alpn=["http/1.1"])
    with listen(socket.AF_INET, ("127.0.0.1", 0), admission, patience="link/1") as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(24)]
        for number, client in enumerate(clients):
            client.send(patient if number < 16 else other)
        out: list[list[bool]] = []  # by turn: whether it could wait
        async with asyncio.timeout(10):
            while listener.ready < 24:
                listener._look()  # all have come before the first turn
                await asyncio.sleep(0)
        while listener.ready:
            out.append([])
            with contextlib.suppress(BlockingIOError):
                for _ in range(24):
                    connection, _ = listener.accept()
                    out[-1].append(b"link/1" in connection.recv(65536))
                    connection.close()
    assert out == [[False, False, False, True]] * 2 + [[False, False, True, True]] + [[True] * 4] * 3
    assert admission.held == 0
    for client in clients:
        client.close()


@pytest.mark.parametrize("end", ["closed", "reset"])
async def test_who_goes_before_his_turn_is_forgotten(doors: Listening, admission: Admission, end: str) -> None:
    loop, hello = asyncio.get_running_loop(), client_hello()
    loop.remove_reader(doors.listener.fileno())
    crowd = [doors.client() for _ in range(20)]
    for client in crowd:
        client.send(hello)
    out: list[socket.socket] = []
    while doors.listener.ready < 10:
        await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                out.append(doors.listener.accept()[0])
    for client in crowd:
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with contextlib.suppress(BlockingIOError):
        doors.listener.accept()[0].close()
    assert doors.listener.ready == 0
    assert admission.held == len(out)
    for connection in out:
        connection.close()


async def test_time_ends_for_who_says_nothing_or_trickles(admission: Admission) -> None:
    loop = asyncio.get_running_loop()
    with listen(socket.AF_INET, ("127.0.0.1", 0), admission, first_word=0.2) as listener:
        doors = Listening(listener)
        began = loop.time()
        silent, trickling = doors.client(), doors.client()
        trickling.send(b"\x16\x03\x01\x02\0")

        async def trickle() -> None:
            while True:
                trickling.send(b"x")
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        async with asyncio.timeout(30):
            assert await loop.sock_recv(silent, 1) == b""
            with contextlib.suppress(OSError):
                await task  # until it is told
            await doors.waiting(0)
        assert loop.time() - began >= 0.2
        assert admission.held == 0 and doors.out.empty()
        doors.stop()


async def test_who_has_to_make_room_while_he_waits_goes(doors: Listening, admission: Admission) -> None:
    admission.most_unproven, admission.most_of_source = 4, 3
    clients = [doors.client() for _ in range(10)]
    for client in clients[:7]:
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    await doors.waiting(3)
    assert admission.unproven == admission.held == 3


async def test_closing_ends_those_that_wait(doors: Listening, admission: Admission) -> None:
    client = doors.client()
    await doors.waiting(1)
    doors.stop()
    doors.listener.close()
    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert admission.held == 0 and doors.listener.fileno() == -1
    doors.listener.close()
    client.close()


async def test_without_descriptors_it_neither_stops_nor_spins(
    admission: Admission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, out = socket.socket.accept, 0

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        nonlocal out
        if isinstance(self, ListeningSocket) and out == 0:  # the spare descriptor is still taken
            out = 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        out = 0
        return plain(self)

    with listen(socket.AF_INET, ("127.0.0.1", 0), admission) as listener:
        monkeypatch.setattr(socket.socket, "accept", accept)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert [client.recv(1) for client in clients] == [b""] * 5, "each was taken and closed"
        assert "".join(capsys.readouterr()).count("no descriptor for a connection") == 1
        monkeypatch.setattr(socket.socket, "accept", plain)
        with socket.create_connection(listener.getsockname()) as last:
            last.send(b"hello")
            connection, address = listener.accept()
            assert address == last.getsockname() and isinstance(connection, Accepted)
            connection.close()
    assert listening.BACKLOG >= 5000
