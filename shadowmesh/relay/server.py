"""A relay on its sockets: the core, the UDP side, the WebSocket side, and the clock that drives them."""

from __future__ import annotations

import asyncio
import errno
import time
from contextlib import suppress

import structlog

from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.relay.core import Out, RelayCore
from shadowmesh.relay.metrics import CONTENT_TYPE, RelayMetrics
from shadowmesh.relay.sessions import Session, StreamAddr
from shadowmesh.relay.streams import StreamSide
from shadowmesh.relay.udp import UdpSide

log = structlog.get_logger(__name__)

_PORT_TRIES = 20


def boottime_clock() -> Now:
    return Now(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class RelayServer:
    """Runs in one event loop. `async with RelayServer(core, listen) as relay:` serves; `relay.port` is where."""

    def __init__(
        self,
        core: RelayCore,
        listen: SockAddr,
        *,
        udp: bool = True,
        tls: ServerTls | None = None,
        outer: OuterSockets | None = None,
    ) -> None:
        """`listen.host` of `::` serves both IP versions; `listen.port` 0 picks one that is free for TCP and UDP."""
        self.core = core
        self.clock = boottime_clock
        self.port = listen.port
        self._hosts = ["0.0.0.0", "::"] if listen.host == "::" else [listen.host]
        self._with_udp = udp
        self._tls = tls
        outer = outer or OuterSockets(required=False)
        self._udp = UdpSide(core, self.clock, self._deliver, self.send, outer)
        self._streams = StreamSide(core, self.clock, self._udp, self.send, self._page, outer)
        self._metrics = RelayMetrics(core, self.clock, lambda: self._streams.connections)
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RelayServer:
        """Raises ShadowMeshError `port_taken` (CONFLICT), `cannot_listen`."""
        wanted = self.port
        for attempt in range(_PORT_TRIES):
            try:
                if self._with_udp:
                    self.port = self._udp.open(self._hosts, wanted)
                self.port = await self._streams.open(self._hosts, self.port, self._tls)
                break
            except OSError as e:
                self._udp.close()
                if wanted or e.errno != errno.EADDRINUSE or attempt == _PORT_TRIES - 1:
                    raise self._cannot_listen(e) from e
        self._udp.start(asyncio.get_running_loop())
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Says goodbye to all clients, so that they go elsewhere at once, and closes."""
        self.send(self.core.shutdown())
        if self._ticker is not None:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker
        await self._streams.close()
        self._udp.close()

    def _cannot_listen(self, error: OSError) -> ShadowMeshError:
        why = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            return ShadowMeshError(
                "port_taken",
                f"the relay can't listen on port {self.port} ({why})",
                "stop what uses it (with UDP the next port is needed too), or give another with --listen ADDR:PORT",
                kind=Kind.CONFLICT,
            )
        return ShadowMeshError(
            "cannot_listen",
            f"the relay can't listen on {self._hosts[0]} port {self.port} ({why})",
            "give an address of this machine with --listen ADDR:PORT",
        )

    def send(self, out: Out) -> None:
        """What the core wants sent."""
        for transport, data in out:
            if isinstance(transport, StreamAddr):
                self._streams.send(transport, data)
            else:
                self._udp.send(transport, data)

    def _deliver(self, dest: Session, packed: bytes | memoryview, frames: int) -> None:
        self._streams.deliver(dest, packed, frames)

    async def _tick(self) -> None:
        while True:
            now = self.clock()
            self.send(self.core.tick(now))
            self._udp.forget()
            await asyncio.sleep(max(0.05, self.core.next_deadline() - now.boot))

    def _page(self, path: str) -> tuple[str, str] | None:
        if path == "/healthz":
            heard = "heard" if self.core.fresh(self.clock()) else "away"
            return f"ok\ncontroller: {heard}\npump: {self.core.forwarding.name}\n", "text/plain; charset=utf-8"
        if path == "/metrics":
            return self._metrics.page(), CONTENT_TYPE
        return None
