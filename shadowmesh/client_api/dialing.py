"""How TCP connections are made, where the caller wants to make them itself.

A daemon's and a relay's sockets have to carry a mark before they connect, which neither httpx nor websockets can be told. So these functions
take a `Connect`; without one, connections are made the usual way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import httpx

Connect: TypeAlias = Callable[[str, int, float], Awaitable[socket.socket]]
"""Host, port, seconds → a connected, non-blocking socket. Raises OSError (TimeoutError is one)."""


class Deadline:
    """A moment by which something has to be done, whatever number of steps it takes."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; 0 once it has passed."""
        return max(0.0, self._end - time.monotonic())


def http_client(tls: ssl.SSLContext, timeout: float, connect: Connect | None = None, **options: Any) -> httpx.Client:
    """An httpx client for one controller that heeds no proxy variables. `timeout`: seconds for all that is done with it.

    With a `connect` it isn't to be used in a thread with a running event loop.
    """
    import httpx  # a daemon that knows its controller starts without it

    transport = _transport(tls, connect, Deadline(timeout))
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, **options)


def _transport(tls: ssl.SSLContext, connect: Connect | None, deadline: Deadline) -> httpx.HTTPTransport:
    import httpcore
    import httpx
    from httpcore._backends.sync import SyncStream  # what httpcore's own backend makes of a socket

    def limited(timeout: float | None) -> float:
        left = deadline.left if timeout is None else min(timeout, deadline.left)
        if left <= 0.0:
            raise httpcore.ReadTimeout("timed out") from TimeoutError("timed out")
        return left

    class Stream(SyncStream):
        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return super().read(max_bytes, limited(timeout))

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            super().write(buffer, limited(timeout))

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            secured = super().start_tls(ssl_context, server_hostname, limited(timeout))
            return Stream(secured.get_extra_info("socket"))

    class Backend(httpcore.SyncBackend):
        def connect_tcp(
            self, host: str, port: int, timeout: float | None = None, *_: Any, **_options: Any
        ) -> httpcore.NetworkStream:
            try:
                if connect is None:
                    sock = socket.create_connection((host, port), limited(timeout))
                else:
                    sock = asyncio.run(_opened(connect, host, port, limited(timeout)))
            except TimeoutError as e:
                raise httpcore.ConnectTimeout(str(e) or "timed out") from e
            except OSError as e:
                raise httpcore.ConnectError(str(e)) from e
            sock.settimeout(timeout)
            return Stream(sock)

    class Transport(httpx.HTTPTransport):
        def __init__(self) -> None:
            super().__init__(verify=tls, trust_env=False)
            self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=Backend())

    return Transport()


async def _opened(connect: Connect, host: str, port: int, timeout: float) -> socket.socket:
    return await connect(host, port, timeout)
