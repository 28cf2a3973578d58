"""How TCP connections are made, where the caller wants to make them itself.

A daemon's and a relay's sockets have to carry a mark before they connect, which neither httpx nor websockets can be told. So these functions
take a `Connect`; without one, connections are made the usual way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import httpx

Connect: TypeAlias = Callable[[str, int, float], Awaitable[socket.socket]]
"""Host, port, seconds → a connected, non-blocking socket. Raises OSError (TimeoutError is one)."""

_LONGEST = 60.0


def http_client(tls: ssl.SSLContext, timeout: float, connect: Connect | None = None, **options: Any) -> httpx.Client:
    """An httpx client for one controller that heeds no proxy variables. Not to be used in a thread with a running event loop."""
    import httpx  # a daemon that knows its controller starts without it

    if connect is None:
        return httpx.Client(verify=tls, timeout=timeout, trust_env=False, **options)
    return httpx.Client(transport=_transport(tls, connect), timeout=timeout, trust_env=False, **options)


def _transport(tls: ssl.SSLContext, connect: Connect) -> httpx.HTTPTransport:
    import httpcore
    import httpx
    from httpcore._backends.sync import SyncStream  # what httpcore's own backend makes of a socket

    class Backend(httpcore.SyncBackend):
        def connect_tcp(
            self, host: str, port: int, timeout: float | None = None, *_: Any, **_options: Any
        ) -> httpcore.NetworkStream:
            try:
                sock = asyncio.run(_opened(connect, host, port, _LONGEST if timeout is None else timeout))
            except TimeoutError as e:
                raise httpcore.ConnectTimeout(str(e) or "timed out") from e
            except OSError as e:
                raise httpcore.ConnectError(str(e)) from e
            sock.settimeout(timeout)
            return SyncStream(sock)

    class Transport(httpx.HTTPTransport):
        def __init__(self) -> None:
            super().__init__(verify=tls, trust_env=False)
            self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=Backend())

    return Transport()


async def _opened(connect: Connect, host: str, port: int, timeout: float) -> socket.socket:
    return await connect(host, port, timeout)
