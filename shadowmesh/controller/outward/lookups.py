"""Looking up names that people gave, on threads of its own: a name server that doesn't answer holds up nobody else.

Files, passwords and this controller's own names are looked after on the event loop's threads, of which there are few.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 10.0  # seconds
_THREADS = ThreadPoolExecutor(8, "lookups")


async def look_up(host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[str]:
    """Addresses of this host, in the system's order. Raises OSError, also where nothing is known in time, and UnicodeError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT):
            found = await loop.run_in_executor(_THREADS, lambda: socket.getaddrinfo(host, port, type=kind))
    except TimeoutError as e:
        raise OSError(f"no answer within {TIMEOUT:g} s") from e
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
