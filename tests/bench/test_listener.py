"""The listener and the client of `shadowmesh bench`, over loopback."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeAlias

import pytest

from shadowmesh.bench import cpu, messages, traffic
from shadowmesh.bench.client import Client
from shadowmesh.bench.listener import Listener
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError

Told: TypeAlias = "queue.Queue[tuple[str, messages.Request, messages.Received | None]]"


@pytest.fixture
def told() -> Told:
    return queue.Queue()


@pytest.fixture
def listener(told: Told) -> Iterator[Listener]:
    with Listener("127.0.0.1", 0, served=lambda *seen: told.put(seen)) as listening:
        yield listening


@pytest.fixture
def client(listener: Listener) -> Iterator[Client]:
    with Client("127.0.0.1", listener.port, name="far") as connected:
        yield connected


@pytest.mark.parametrize("streams", [1, 3])
def test_tcp_counts_what_arrives_there(client: Client, told: Told, streams: int) -> None:
    flow = client.tcp(0.3, streams=streams)
    (_, request, received) = told.get(timeout=5)
    assert request.streams == streams
    assert received is not None and received.count == flow.count > 10e6
    assert 0.1 < flow.seconds < 2
    assert flow.rate == flow.count / flow.seconds


def test_tcp_reversed_counts_what_arrives_here(client: Client, told: Told) -> None:
    flow = client.tcp(0.3, streams=2, reverse=True)
    assert flow.count > 10e6
    assert client.round_trip(0.05).lost == 0  # the connection is ready for the next test
    (_, request, received) = told.get(timeout=5)
    assert request.reverse and received is None


def test_every_byte_that_was_sent_is_counted() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(bytes(70_000))
        near.shutdown(socket.SHUT_WR)
        assert traffic.receive_streams([far]).count == 70_000


@pytest.mark.parametrize("reverse", [False, True])
def test_a_paced_stream_keeps_its_rate(client: Client, reverse: bool) -> None:
    seen = client.udp(0.5, rate=4000, reverse=reverse)
    assert seen.sent_pps == pytest.approx(4000, rel=0.2)
    assert seen.lost < 0.5
    assert seen.received_pps <= seen.sent_pps * 1.01


def test_a_flood_is_faster_than_any_pace_asked_for_here(client: Client) -> None:
    assert client.udp(0.3).sent_pps > 8000


def test_datagrams_of_another_test_are_not_counted() -> None:
    with (
        traffic.open_udp("127.0.0.1") as sock,
        traffic.open_udp("127.0.0.1") as own,
        traffic.open_udp("127.0.0.1") as other,
    ):
        sock.connect(own.getsockname())
        own.connect(sock.getsockname())
        other.connect(sock.getsockname())
        counter = traffic.DatagramCounter(sock, 64)
        traffic.send_datagrams(other, 64, 0, 0.02)
        sent = traffic.send_datagrams(own, 64, 1000, 0.05)
        assert counter.finish().count == sent.count


def test_round_trip(client: Client) -> None:
    seen = client.round_trip(0.2)
    assert seen.lost == 0 and seen.count > 5
    assert seen.median_ms is not None and seen.p99_ms is not None
    assert 0 < seen.median_ms <= seen.p99_ms < 1000


def test_one_client_at_a_time(client: Client, listener: Listener) -> None:
    with pytest.raises(ShadowMeshError, match=r"another client is measuring") as refused:
        Client("127.0.0.1", listener.port)
    assert refused.value.code == "bench_busy" and refused.value.kind is Kind.CONFLICT
    assert client.round_trip(0.05).lost == 0  # and the first goes on


def test_the_next_client_is_let_in_when_one_has_gone(listener: Listener) -> None:
    for _ in range(2):
        with Client("127.0.0.1", listener.port) as one:
            one.round_trip(0.02)
        deadline = time.monotonic() + 5  # the listener learns of the end of the stream in a thread
        while listener._busy.locked():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_nobody_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ShadowMeshError) as refused:
        Client("127.0.0.1", port, name="h2")
    assert refused.value.code == "bench_not_served"
    assert "bench --serve" in refused.value.remedy and "h2" in refused.value.what


def test_something_else_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"220 mail.example ESMTP\r\n")
                sock.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ShadowMeshError, match="doesn't speak as a bench listener"):
            Client("127.0.0.1", server.getsockname()[1])
        thread.join()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"null\n",
        b"[]\n",
        b'{"type":"nonsense"}\n',
        b'{"type":"request","test":"tcp","seconds":1e9}\n',
        b'{"type":"request","test":"tcp","seconds":1,"streams":100000}\n',
        b'{"type":"request","test":"rm","seconds":1}\n',
        b'{"type":"sent","count":-1,"seconds":1}\n',
        b"\xff\xfe\n",
        b"x" * 5000,
    ],
)
def test_malformed_lines(line: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(line)
        with pytest.raises(MalformedError):
            messages.Lines(near).receive()


def test_a_stranger_does_not_join_a_test(listener: Listener) -> None:
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        messages.Lines(sock).send(messages.Join(token="0" * 32))
        sock.settimeout(5)
        assert sock.recv(1) == b""


def test_a_malformed_client_does_not_stop_the_listener(listener: Listener) -> None:
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sock.settimeout(5)
        with suppress(ConnectionResetError):  # it may not have read all of it
            assert sock.recv(1) == b""
    with Client("127.0.0.1", listener.port) as one:
        assert one.round_trip(0.02).lost == 0


def test_cpu_of_processes_and_their_children() -> None:
    work = "import subprocess,sys,time\n"
    child = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{work}subprocess.run([sys.executable, '-c', {child!r}])"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    family = cpu.with_children([process.pid])
    assert len(family) == 2 and family[0] == process.pid
    assert cpu.spent(family) - cpu.spent([process.pid]) >= 0.25
    assert cpu.peak_memory(family) > cpu.peak_memory([process.pid]) > 1 << 20
    process.communicate(b"\n")
    assert cpu.with_children([process.pid]) == []
    assert cpu.spent([process.pid]) == 0
    assert os.getpid() in cpu.with_children([os.getppid()])
