"""A listening socket that hands out a connection only when its client has said its first word.

Until then nothing is built for it: no TLS, no protocol, no task. What a stranger sends stays in the kernel, and who connects and is
silent, or stops within his ClientHello, costs a descriptor and a kilobyte, not a hundred. Whether all is there the kernel says by
itself: each connection's low-water mark (SO_RCVLOWAT, see socket(7)) is first the head of a TLS record (RFC 8446, 5.1: type, version,
length), then the whole record. What doesn't look like TLS is handed out as it is, so that a server without TLS may listen so, too.

Where thousands come at once, a handful is handed out in each turn of the event loop, so that those under way go on meanwhile. A client
that can wait says so in its ClientHello, by a protocol name (ALPN, RFC 7301): it comes after the others, but for one in each turn. So a
person at a terminal doesn't queue behind all machines of a site that came back.

asyncio takes it for any other listening socket: its descriptor is an epoll(7) instance over the listener and all that wait, so it
is readable whenever `accept` has something to do.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from shadowmesh.model.addresses import source_of
from shadowmesh.serving.admission import EXHAUSTED, NO_LINGER, Accepted, Admission

BACKLOG = 8192
FIRST_WORD = 10.0  # seconds for it
_LOOKS_PER_TURN = 64
_OUT_PER_TURN = 4  # connections; each means two milliseconds' work within the next turns
_RECORD_HEAD = 5
_HANDSHAKE = 22  # the type of a TLS record with a ClientHello
_LONGEST_RECORD = 2**14  # bytes; TLS refuses longer ones
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class ListeningSocket(socket.socket):
    """Listens with a deep backlog, whatever it is asked (asyncio takes the same number for accepts per turn), and admits."""

    __slots__ = (
        "_events",
        "_expiry",
        "_fresh",
        "_more",
        "_out",
        "_patient",
        "_ready",
        "_told_more",
        "_waiting",
        "admission",
        "first_word",
        "patience",
    )

    admission: Admission
    first_word: float
    patience: bytes  # what is in the ClientHello of a client that can wait

    def __init__(self, family: socket.AddressFamily) -> None:
        # The protocol is named, or asyncio would leave Nagle's algorithm on.
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._waiting: dict[int, Accepted] = {}  # by descriptor, the oldest first
        self._ready: dict[int, Accepted] = {}  # those that said their first word, the oldest first
        self._patient: dict[int, Accepted] = {}  # those of them that can wait
        self._fresh: list[int] = []  # who said it in this turn
        self._told_more = False
        self._out = 0  # handed out in this turn
        self._expiry: asyncio.TimerHandle | None = None
        self._more = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # readable while some were left
        self._events = select.epoll()
        self._events.register(super().fileno(), select.EPOLLIN)
        self._events.register(self._more, select.EPOLLIN)

    def fileno(self) -> int:
        """What is readable when `accept` has something to do; -1 when closed."""
        return -1 if self._events.closed else self._events.fileno()

    def listen(self, _backlog: int = 0, /) -> None:
        super().listen(BACKLOG)

    @property
    def waiting(self) -> int:
        """How many connections haven't said their first word."""
        return len(self._waiting)

    @property
    def ready(self) -> int:
        """How many have said it and weren't handed out yet."""
        return len(self._ready) + len(self._patient)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection whose client said something. Raises BlockingIOError if this turn has none any more, which asyncio
        waits out.

        Call it from the event loop's thread, within the loop, in each turn until it raises.
        """
        if not self._out:
            self._look()
        if self.ready and self._out < _OUT_PER_TURN:
            self._out += 1
            last = self._out == _OUT_PER_TURN
            queue = self._patient if self._patient and (last or not self._ready) else self._ready
            descriptor = next(iter(queue))
            connection = queue.pop(descriptor)
            if connection.deferred:
                self._events.unregister(descriptor)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self.admission.begins(connection)
            return connection, connection.address
        self._out = 0
        self._defer()
        raise BlockingIOError(errno.EAGAIN, "enough for now")

    def _look(self) -> None:
        """Sees who has come, has said something, or has gone."""
        for _ in range(_LOOKS_PER_TURN):
            found = self._events.poll(0, 1)  # the kernel gives each its turn
            if not found:
                break
            ((descriptor, events),) = found
            if descriptor in self._waiting:
                if self._said(self._waiting[descriptor], events):
                    self._events.unregister(descriptor)
                    connection = self._waiting.pop(descriptor)
                    (self._patient if self._can_wait(connection) else self._ready)[descriptor] = connection
                    self._fresh.append(descriptor)
            elif (queue := self._queue(descriptor)) is not None:  # it has gone
                self._drop(descriptor, queue.pop(descriptor))
            elif descriptor != self._more:
                self._admit()

    def _queue(self, descriptor: int) -> dict[int, Accepted] | None:
        return next((queue for queue in (self._ready, self._patient) if descriptor in queue), None)

    def _can_wait(self, connection: Accepted) -> bool:
        try:
            return bool(self.patience) and self.patience in connection.recv(connection.expected, socket.MSG_PEEK)
        except OSError:
            return False  # it was reset

    def _defer(self) -> None:
        """Has the next turn come for those that are left, and hears it when their clients go."""
        for descriptor in self._fresh:
            queue = self._queue(descriptor)
            if queue is not None and not (connection := queue[descriptor]).deferred:
                connection.deferred = True
                self._events.register(descriptor, select.EPOLLRDHUP if connection.expected > _RECORD_HEAD else 0)
        self._fresh.clear()
        before, self._told_more = self._told_more, self.ready > 0
        if self._told_more and not before:
            os.eventfd_write(self._more, 1)
        elif before and not self._told_more:
            os.eventfd_read(self._more)

    def _admit(self) -> None:
        """Takes one from the backlog. Raises OSError."""
        try:
            plain, address = super().accept()
        except OSError as e:
            if e.errno not in EXHAUSTED:
                raise
            self.admission.shed(self, e)
            return
        connection = Accepted(plain.family, plain.type, plain.proto, plain.detach())
        connection.admission = None
        connection.setblocking(False)
        connection.address = address
        connection.deferred = False
        connection.peer = (address[0], address[1])
        connection.source = source_of(address[0])
        if not self.admission.enter(connection):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.deadline = loop.time() + self.first_word
        self._expect(connection, _RECORD_HEAD)
        self._waiting[connection.fileno()] = connection
        self._events.register(connection.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        if self._expiry is None:
            self._expiry = loop.call_at(connection.deadline, self._expire)

    def _expect(self, connection: Accepted, size: int) -> None:
        connection.expected = size
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _said(self, connection: Accepted, events: int) -> bool:
        """Whether its first word is there. Waits for the rest of it, or closes it when there won't be one."""
        try:
            head = connection.recv(_RECORD_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            head = b""  # it was reset
        is_tls = head[:1] == bytes([_HANDSHAKE])
        if head and not is_tls:
            return True
        if not head or events & _ENDED:
            self._drop_waiting(connection)
            return False
        if connection.expected == _RECORD_HEAD == len(head):
            self._expect(connection, _RECORD_HEAD + min(int.from_bytes(head[3:]), _LONGEST_RECORD))
            return False
        return True  # all of it, or the kernel is short of memory and waits no longer

    def _drop_waiting(self, connection: Accepted) -> None:
        descriptor = connection.fileno()
        self._drop(descriptor, self._waiting.pop(descriptor))

    def _drop(self, descriptor: int, connection: Accepted) -> None:
        self._events.unregister(descriptor)
        connection.close()

    def _expire(self) -> None:
        """Ends those that were silent for too long."""
        self._expiry = None
        loop = asyncio.get_running_loop()
        for connection in list(self._waiting.values()):
            if connection.deadline > loop.time():
                self._expiry = loop.call_at(connection.deadline, self._expire)
                break
            self._drop_waiting(connection)

    def close(self) -> None:
        """Ends those that wait, too."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for queue in (self._waiting, self._ready, self._patient):
            for connection in queue.values():
                connection.close()
            queue.clear()
        if not self._events.closed:
            self._events.close()
            os.close(self._more)
        super().close()


def listen(
    family: socket.AddressFamily,
    address: tuple[str, int],
    admission: Admission,
    *,
    prepare: Callable[[socket.socket], object] = lambda _: None,
    send_buffer: int | None = None,
    both_versions: bool = True,
    first_word: float = FIRST_WORD,
    patience: str = "",
) -> ListeningSocket:
    """A listening TCP socket whose connections `admission` counts. Raises OSError.

    `prepare` gets it before it is bound. `both_versions`: an IPv6 one takes IPv4, too. `send_buffer`: bytes that the kernel keeps for each reader that doesn't read; else it decides itself, and takes megabytes. `first_word`: seconds in which a client says something.
    `patience`: the name of the protocol by which a client says that it can wait.
    """
    sock = ListeningSocket(family)
    try:
        sock.admission, sock.first_word = admission, first_word
        sock.patience = bytes([len(patience)]) + patience.encode() if patience else b""  # as ALPN has it
        sock.setblocking(False)
        prepare(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # what is accepted inherits it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_versions)
        sock.bind(address)
        sock.listen()  # now, so that a taken port is found before anything else starts
    except BaseException:
        sock.close()
        raise
    return sock
