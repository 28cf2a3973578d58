"""Writing on a connection of asyncio's TLS past its layers, where nothing waits before: a third of the time.

What is told to thousands is encrypted and handed to the kernel once for each. asyncio's way there is seven calls, a queue and two
looks at sizes, for the case that something waits; where nothing does, it comes down to the two things that are done here. It looks at
what is private to asyncio, as it has been since Python 3.11; where that isn't as expected, `write_now` says so and does nothing.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
from typing import Any

_WRAPPED = getattr(getattr(asyncio.sslproto, "SSLProtocolState", None), "WRAPPED", None)


def tls_of(transport: asyncio.BaseTransport) -> Any:
    """What to hand to `write_now`; None where the transport isn't asyncio's TLS, or not as it is known here."""
    protocol = getattr(transport, "_ssl_protocol", None)
    parts = ("_sslobj", "_outgoing", "_transport", "_state", "_write_backlog", "_ssl_writing_paused")
    return protocol if _WRAPPED is not None and all(hasattr(protocol, part) for part in parts) else None


def write_now(tls: Any, data: bytes) -> bool:
    """Writes all of `data`, which is at most one TLS record; False if something waits before it, or the connection is ending."""
    if tls._state is not _WRAPPED or tls._write_backlog or tls._ssl_writing_paused:
        return False
    transport = tls._transport
    if transport is None or transport.is_closing():
        return False
    try:
        tls._sslobj.write(data)
    except Exception:  # of this connection alone; a record that was begun can't be taken back
        transport.abort()
        return True
    transport.write(tls._outgoing.read())
    return True
