"""What client and listener say to each other: a line of JSON per message, over a TCP connection that opens with a Hello.

A test is a Request, answered by Ready; data then flows over connections and sockets of its own, and both sides tell at
the end what they saw. TCP data comes on further connections to the same port, each opening with a Join.
"""

from __future__ import annotations

import socket
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import MalformedError

PORT = 9550
VERSION = 1
MAX_SECONDS = 120.0
MAX_STREAMS = 64
_MAX_LINE = 4096

Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of a client; the listener answers with its own."""

    version: int = VERSION


class Join(Struct, frozen=True, kw_only=True, tag="join"):
    """The first line of a TCP data connection."""

    token: str


class Request(Struct, frozen=True, kw_only=True, tag="request"):
    """A test. `reverse`: the listener sends. `rate`: datagrams per second, 0 for as many as go."""

    test: Literal["tcp", "udp", "rtt"]
    seconds: Seconds
    streams: Annotated[int, Meta(ge=1, le=MAX_STREAMS)] = 1
    size: Annotated[int, Meta(ge=16, le=1400)] = 64
    rate: Annotated[float, Meta(ge=0)] = 0.0
    reverse: bool = False


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """`token` opens data connections (TCP) or the socket at `port` (UDP)."""

    token: str
    port: int = 0


class Go(Struct, frozen=True, kw_only=True, tag="go"):
    """By the listener: every data connection or the UDP socket is there. By the client, before datagrams come: it counts."""


class Sent(Struct, frozen=True, kw_only=True, tag="sent"):
    """By the sender, when it has sent all."""

    count: Annotated[int, Meta(ge=0)]  # bytes (TCP) or datagrams (UDP)
    seconds: Annotated[float, Meta(ge=0)]


class Received(Struct, frozen=True, kw_only=True, tag="received"):
    """By the receiver, from the first arrival to the last."""

    count: Annotated[int, Meta(ge=0)]
    seconds: Annotated[float, Meta(ge=0)]


class Refused(Struct, frozen=True, kw_only=True, tag="refused"):
    """The listener can't; the connection ends."""

    code: str
    what: str


Message = Hello | Join | Request | Ready | Go | Sent | Received | Refused
M = TypeVar("M", bound=Struct)


class Lines:
    """Messages over a connected socket, whose timeout is the limit for each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, message: Message) -> None:
        self._sock.sendall(to_json(message) + b"\n")

    def receive(self) -> Message:
        """The next message. Raises MalformedError, or OSError (ConnectionResetError at the end of the stream)."""
        line = bytearray()
        while not line.endswith(b"\n"):
            # byte by byte: what follows a Join's line is data, and belongs to whoever reads that
            byte = self._sock.recv(1)
            if not byte:
                raise ConnectionResetError("the other side ended the connection")
            line += byte
            if len(line) > _MAX_LINE:
                raise MalformedError("a line longer than any message")
        return from_json(bytes(line), Message)  # type: ignore[arg-type]

    def expect(self, kind: type[M]) -> M:
        """The next message, if it is of this kind. Raises RefusedError, MalformedError, OSError."""
        message = self.receive()
        if isinstance(message, Refused):
            raise RefusedError(message.code, message.what)
        if not isinstance(message, kind):
            raise MalformedError(f"{type(message).__name__} where {kind.__name__} was expected")
        return message


class RefusedError(Exception):
    """The listener said no: `code` is busy or version."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
