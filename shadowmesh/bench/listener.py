"""The far side: `shadowmesh bench --serve`. Listens on one overlay address, for one client at a time."""

from __future__ import annotations

import secrets
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType

from shadowmesh.bench import messages, traffic
from shadowmesh.model.errors import MalformedError

PATIENCE = 10.0  # seconds for each step in which the other side has to do something
Served = Callable[[str, messages.Request, messages.Received | None], None]


class Listener:
    """Serves tests in threads until it is closed. A context manager."""

    def __init__(
        self, address: str, port: int = messages.PORT, *, interface: str | None = None, served: Served | None = None
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
            self._listening.listen(messages.MAX_STREAMS)
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
        lines = messages.Lines(sock)
        try:
            first = lines.receive()
            if isinstance(first, messages.Join):
                if self._keep(first, sock):
                    return  # closed by who ends the test
            elif isinstance(first, messages.Hello):
                self._client(sock, lines, first)
        except (OSError, MalformedError):  # the client went, or is none
            pass
        sock.close()

    def _keep(self, join: messages.Join, sock: socket.socket) -> bool:
        with self._joined:
            if self._token is None or not secrets.compare_digest(self._token, join.token):
                return False
            self._streams.append(sock)
            self._joined.notify_all()
            return True

    def _client(self, sock: socket.socket, lines: messages.Lines, hello: messages.Hello) -> None:
        if hello.version != messages.VERSION:
            lines.send(
                messages.Refused(code="version", what=f"the listener speaks version {messages.VERSION} of bench")
            )
            return
        if not self._busy.acquire(blocking=False):
            lines.send(messages.Refused(code="busy", what="another client is measuring there"))
            return
        try:
            lines.send(messages.Hello())
            while True:
                sock.settimeout(messages.MAX_SECONDS)  # a client may take its time between two tests
                request = lines.expect(messages.Request)
                sock.settimeout(PATIENCE + (0 if request.reverse else request.seconds))
                test = {"tcp": self._tcp, "udp": self._udp, "rtt": self._echo}[request.test]
                received = test(sock, lines, request)
                if self._served is not None:
                    self._served(str(sock.getpeername()[0]), request, received)
        finally:
            self._busy.release()

    def _tcp(self, _sock: socket.socket, lines: messages.Lines, request: messages.Request) -> messages.Received | None:
        token = secrets.token_hex(16)
        with self._joined:
            self._token, self._streams = token, []
        try:
            lines.send(messages.Ready(token=token))
            with self._joined:
                if not self._joined.wait_for(lambda: len(self._streams) >= request.streams, PATIENCE):
                    raise TimeoutError("not all data connections came")
                self._token = None
            for stream in self._streams:
                stream.settimeout(PATIENCE + request.seconds)
            lines.send(messages.Go())
            if request.reverse:
                sent = traffic.send_streams(self._streams, request.seconds)
                lines.send(messages.Sent(count=sent.count, seconds=sent.seconds))
                return None
            got = traffic.receive_streams(self._streams)
            lines.expect(messages.Sent)
            received = messages.Received(count=got.count, seconds=got.seconds)
            lines.send(received)
            return received
        finally:
            with self._joined:
                self._token = None
                for stream in self._streams:
                    stream.close()

    def _socket(self, lines: messages.Lines, stack: ExitStack) -> socket.socket:
        """A UDP socket of this test's own, connected to the client's, whose first datagram is the token."""
        sock = stack.enter_context(traffic.open_udp(self.address))
        self._bind_to_interface(sock)
        token = secrets.token_hex(8)
        lines.send(messages.Ready(token=token, port=sock.getsockname()[1]))
        sock.settimeout(PATIENCE)
        data, peer = sock.recvfrom(2048)
        while data != token.encode():
            data, peer = sock.recvfrom(2048)
        sock.connect(peer)
        lines.send(messages.Go())
        return sock

    def _udp(self, _sock: socket.socket, lines: messages.Lines, request: messages.Request) -> messages.Received | None:
        with ExitStack() as stack:
            sock = self._socket(lines, stack)
            if request.reverse:
                lines.expect(messages.Go)
                sent = traffic.send_datagrams(sock, request.size, request.rate, request.seconds)
                lines.send(messages.Sent(count=sent.count, seconds=sent.seconds))
                return None
            counter = traffic.DatagramCounter(sock, request.size)
            try:
                lines.expect(messages.Sent)
            finally:
                got = counter.finish()
            received = messages.Received(count=got.count, seconds=got.seconds)
            lines.send(received)
            return received

    def _echo(self, control: socket.socket, lines: messages.Lines, _request: messages.Request) -> None:
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
            lines.expect(messages.Sent)
