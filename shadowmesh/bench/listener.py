"""The far side: `shadowmesh bench --serve`. Listens on one overlay address, for one client at a time."""

from __future__ import annotations

import secrets
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType

from shadowmesh.bench import traffic, wire
from shadowmesh.model.errors import MalformedError

PATIENCE = 10.0  # seconds for each step in which the other side has to do something
Served = Callable[[str, wire.Request, wire.Received | None], None]


class Listener:
    """Serves tests in threads until it is closed. A context manager."""

    def __init__(
        self, address: str, port: int = wire.PORT, *, interface: str | None = None, served: Served | None = None
    ) -> None:
        """Listens on this address, and for packets of this interface only, so that no neighbour on a LAN gets in.

        `served` is told of each finished test (client's address, request, what was received here), from a thread.
        Raises OSError.
        """
        self._interface = interface
        self._served = served
        self._busy = threading.Lock()
        self._joined = threading.Condition()
        self._token: str | None = None
        self._streams: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._bind_to_interface(self._listening)
            traffic.use_cubic(self._listening)
            self._listening.bind((address, port))
            self._listening.listen(wire.MAX_STREAMS)
        except BaseException:
            self._listening.close()
            raise
        self.address = address
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="bench listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes no more clients. A test that runs is cut off with the process."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bind_to_interface(self, sock: socket.socket) -> None:
        if self._interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode())

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._welcome, args=(sock,), name="bench client", daemon=True).start()

    def _welcome(self, sock: socket.socket) -> None:
        """One connection: a client, or a data connection of its test."""
        sock.settimeout(PATIENCE)
        lines = wire.Lines(sock)
        try:
            first = lines.receive()
            if isinstance(first, wire.Join):
                if self._keep(first, sock):
                    return  # closed by who ends the test
            elif isinstance(first, wire.Hello):
                self._client(sock, lines, first)
        except (OSError, MalformedError):  # the client went, or is none
            pass
        sock.close()

    def _keep(self, join: wire.Join, sock: socket.socket) -> bool:
        with self._joined:
            if self._token is None or not secrets.compare_digest(self._token, join.token):
                return False
            self._streams.append(sock)
            self._joined.notify_all()
            return True

    def _client(self, sock: socket.socket, lines: wire.Lines, hello: wire.Hello) -> None:
        if hello.version != wire.VERSION:
            lines.send(wire.Refused(code="version", what=f"the listener speaks version {wire.VERSION} of bench"))
            return
        if not self._busy.acquire(blocking=False):
            lines.send(wire.Refused(code="busy", what="another client is measuring there"))
            return
        try:
            lines.send(wire.Hello())
            while True:
                sock.settimeout(wire.MAX_SECONDS)  # a client may take its time between two tests
                request = lines.expect(wire.Request)
                sock.settimeout(PATIENCE + (0 if request.reverse else request.seconds))
                test = {"tcp": self._tcp, "udp": self._udp, "rtt": self._echo}[request.test]
                received = test(sock, lines, request)
                if self._served is not None:
                    self._served(str(sock.getpeername()[0]), request, received)
        finally:
            self._busy.release()

    def _tcp(self, _sock: socket.socket, lines: wire.Lines, request: wire.Request) -> wire.Received | None:
        token = secrets.token_hex(16)
        with self._joined:
            self._token, self._streams = token, []
        try:
            lines.send(wire.Ready(token=token))
            with self._joined:
                if not self._joined.wait_for(lambda: len(self._streams) >= request.streams, PATIENCE):
                    raise TimeoutError("not all data connections came")
                self._token = None
            for stream in self._streams:
                stream.settimeout(PATIENCE + request.seconds)
            lines.send(wire.Go())
            if request.reverse:
                sent = traffic.send_streams(self._streams, request.seconds)
                lines.send(wire.Sent(count=sent.count, seconds=sent.seconds))
                return None
            got = traffic.receive_streams(self._streams)
            lines.expect(wire.Sent)
            received = wire.Received(count=got.count, seconds=got.seconds)
            lines.send(received)
            return received
        finally:
            with self._joined:
                self._token = None
                for stream in self._streams:
                    stream.close()

    def _socket(self, lines: wire.Lines, stack: ExitStack) -> socket.socket:
        """A UDP socket of this test's own, connected to the client's, whose first datagram is the token."""
        sock = stack.enter_context(traffic.open_udp(self.address))
        self._bind_to_interface(sock)
        token = secrets.token_hex(8)
        lines.send(wire.Ready(token=token, port=sock.getsockname()[1]))
        sock.settimeout(PATIENCE)
        data, peer = sock.recvfrom(2048)
        while data != token.encode():
            data, peer = sock.recvfrom(2048)
        sock.connect(peer)
        lines.send(wire.Go())
        return sock

    def _udp(self, _sock: socket.socket, lines: wire.Lines, request: wire.Request) -> wire.Received | None:
        with ExitStack() as stack:
            sock = self._socket(lines, stack)
            if request.reverse:
                lines.expect(wire.Go)
                sent = traffic.send_datagrams(sock, request.size, request.rate, request.seconds)
                lines.send(wire.Sent(count=sent.count, seconds=sent.seconds))
                return None
            counter = traffic.DatagramCounter(sock, request.size)
            try:
                lines.expect(wire.Sent)
            finally:
                got = counter.finish()
            received = wire.Received(count=got.count, seconds=got.seconds)
            lines.send(received)
            return received

    def _echo(self, control: socket.socket, lines: wire.Lines, _request: wire.Request) -> None:
        """Sends datagrams back until the client says that it is done."""
        with ExitStack() as stack:
            sock = self._socket(lines, stack)
            sock.setblocking(False)
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            poller.register(control, select.POLLIN)
            while True:
                ready = poller.poll(PATIENCE * 1000)
                if not ready:
                    raise TimeoutError("the client is silent")
                if any(fd == control.fileno() for fd, _ in ready):
                    break
                with suppress(BlockingIOError, ConnectionRefusedError):
                    sock.send(sock.recv(2048))
            lines.expect(wire.Sent)
