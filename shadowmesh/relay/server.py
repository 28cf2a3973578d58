"""A relay on its sockets: the core, the UDP side, the WebSocket side, and the clock that drives them."""

from __future__ import annotations

import asyncio
import errno
import hmac
import time
from contextlib import suppress

import structlog
from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request

from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.tls import ServerTls
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.relay.metrics import CONTENT_TYPE, RelayMetrics
from shadowmesh.relay.relaycore import Out, RelayCore
from shadowmesh.relay.sessiontable import ClientSession, StreamAddr
from shadowmesh.relay.streamside import StreamSide
from shadowmesh.relay.udp import UdpSide
from shadowmesh.serving.admission import Admission
from shadowmesh.serving.descriptors import raise_limit
from shadowmesh.serving.rarelog import RareLog

log = structlog.get_logger(__name__)

_PORT_TRIES = 20
_TEXT = "text/plain; charset=utf-8"


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
        metrics_token: Secret | None = None,
    ) -> None:
        """`listen.host` of `::` serves both IP versions; `listen.port` 0 picks one that is free for TCP and UDP.

        `metrics_token`: the bearer token of who may read the metrics and how the relay is; None: nobody.
        """
        self.core = core
        self.clock = boottime_clock
        self.port = listen.port
        self._hosts = ["0.0.0.0", "::"] if listen.host == "::" else [listen.host]
        self._with_udp = udp
        self._tls = tls
        outer = outer or OuterSockets(required=False)
        self._udp = UdpSide(core, self.clock, self._deliver, self.send, outer)
        self._metrics_token = metrics_token
        self._admission = Admission(raise_limit(), RareLog(__name__))
        self._streams = StreamSide(core, self.clock, self._udp, self.send, self._page, outer, self._admission)
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
                    self._admission.close()
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
        self._admission.close()

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

    def _deliver(self, dest: ClientSession, packed: bytes | memoryview, frames: int) -> None:
        self._streams.deliver(dest, packed, frames)

    async def _tick(self) -> None:
        while True:
            now = self.clock()
            try:
                self.send(self.core.tick(now))
                self._udp.forget()
                self._admission.look_after_memory()
            except Exception:  # sessions have to end also after something that nobody thought of
                log.exception("the relay's clock failed once, and goes on")
            await asyncio.sleep(max(0.05, self.core.next_deadline() - now.boot))

    def _page(self, request: Request) -> tuple[str, str] | None:
        path = request.path.partition("?")[0]
        if path == "/healthz":
            if not self._may_look(request):
                return "ok\n", _TEXT
            heard = "heard" if self.core.fresh(self.clock()) else "away"
            return f"ok\ncontroller: {heard}\npump: {self.core.forwarding.name}\n", _TEXT
        if path == "/metrics" and self._may_look(request):
            return self._metrics.page(), CONTENT_TYPE
        return None

    def _may_look(self, request: Request) -> bool:
        """Where a request comes from says nothing: behind a proxy all come from this host."""
        try:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        except MultipleValuesError:
            return False
        known = self._metrics_token
        return (
            known is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(token.strip().encode("utf-8", "replace"), known.reveal())
        )
