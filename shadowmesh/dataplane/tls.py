"""TLS under a relay's WebSockets: by the native extension where that is used, else by Python's own `ssl`.

The extension's (`native/src/tls.rs`) takes a third of `ssl`'s time and makes fewer copies. `TlsTransport` stands between a TCP transport and
its protocol, as asyncio's own does. A WebSocket connection gets it by `websockets`' hook for connection factories.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from shadowmesh.dataplane.pumps import EXTENSION, PumpName, choose_pump

log = structlog.get_logger(__name__)

_C = TypeVar("_C", ClientConnection, ServerConnection)
_BUFFER = 128 * 1024
_RECORD = 16 * 1024  # of TLS, at most


_of_thread = threading.local()


def _shared_buffer() -> memoryview:
    """What comes is decrypted before anything else is read, so an event loop needs one buffer, however many connections it has."""
    if not hasattr(_of_thread, "buffer"):
        _of_thread.buffer = memoryview(bytearray(_BUFFER))
    shared: memoryview = _of_thread.buffer
    return shared


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """To the protocol above, a transport; to the TCP transport below, its protocol. What is written before the handshake is
    over goes with its end. A protocol that pauses reading may get what had come by then."""

    def __init__(self, below: asyncio.Transport, above: asyncio.BaseProtocol, tls: Any) -> None:
        """`tls`: the extension's TlsConnection."""
        super().__init__()
        self._below = below
        self._tls = tls
        self._buffer = _shared_buffer()
        self._ended = False
        self._failure: Exception | None = None
        self.set_protocol(above)
        below.set_protocol(self)
        self._push()

    def _push(self) -> None:
        if data := self._tls.outgoing():
            self._below.write(data)

    def _fail(self, error: ValueError) -> None:
        self._failure = ConnectionError(f"TLS: {error}")
        self._push()  # an alert
        self._ended = True
        self._below.close()

    # as a transport

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above: Any = protocol
        self._takes_buffer = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._above
        return protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._ended:
            try:
                self._below.write(self._tls.send(data))
            except ValueError as e:  # TLS 1.2 has no new keys when those it has have done their share
                self._fail(e)

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._below.write(self._tls.close())
            self._below.close()

    def abort(self) -> None:
        self._ended = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)

    # as a protocol

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        try:
            while self._deliver(data) and not self._ended:
                data = self._buffer[:0]
        except ValueError as e:
            self._fail(e)
            return
        self._push()
        if self._tls.closed and not self._ended:
            self._above.eof_received()
            self.close()

    def _deliver(self, data: memoryview) -> bool:
        """Gives what `data` and earlier bytes say to the protocol. True if there may be more."""
        if self._takes_buffer:
            room = self._above.get_buffer(-1)
            size: int = self._tls.receive(data, room)
            if size:
                self._above.buffer_updated(size)
        else:  # the handshake, and what is unusual: no memory is kept for it
            room = memoryview(bytearray(_RECORD))
            size = self._tls.receive(data, room)
            if size:
                self._above.data_received(bytes(room[:size]))
        return size == len(room)

    def eof_received(self) -> None:
        self._above.eof_received()

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._above.connection_lost(exc or self._failure)


class ServerTls:
    """A relay's certificate and key, from PEM files. Raises OSError (ssl.SSLError is one)."""

    def __init__(self, certificate: Path, key: Path, pump: PumpName) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.num_tickets = 0
        self._context.load_cert_chain(certificate, key)
        self._native: Any = None
        if pump == "native":
            try:
                self._native = import_module(EXTENSION).TlsServer(certificate.read_bytes(), key.read_bytes())
            except ValueError as e:  # a kind of key that only OpenSSL knows
                log.info("tls_by_openssl", reason=str(e))

    def arguments(self, handshake_timeout: float = 10.0) -> dict[str, Any]:
        """What `websockets`' `serve` needs to know; with the extension its own `open_timeout` includes the handshake."""
        if self._native is None:
            return {"ssl": self._context, "ssl_handshake_timeout": handshake_timeout}
        return {"create_connection": _secured(ServerConnection, self._native.accept)}


def connect_arguments(url: str) -> tuple[str, dict[str, Any]]:
    """The URL and what else `websockets`' `connect` needs to know for a relay at `url`, with any certificate. Raises OSError."""
    parts = urlsplit(url)
    if parts.scheme != "wss":
        return url, {}
    if choose_pump() == "native":
        try:
            client = import_module(EXTENSION).TlsClient(parts.hostname or "")
        except ValueError as e:
            raise OSError(f"{parts.hostname or ''}: {e}") from e
        netloc = parts.netloc if parts.port else f"{parts.netloc}:443"
        plain = parts._replace(scheme="ws", netloc=netloc).geturl()
        return plain, {"create_connection": _secured(ClientConnection, client.connect)}
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return url, {"ssl": context}


def _secured(kind: type[_C], make: Callable[[], Any]) -> type[_C]:
    """Connections of this class, with TLS under them."""

    class Secured(kind):  # type: ignore[valid-type,misc]
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(TlsTransport(transport, self, make()))  # type: ignore[arg-type]

    return Secured
