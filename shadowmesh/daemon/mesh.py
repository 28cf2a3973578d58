"""The daemon's Node with its pump and UDP sockets: made at start, and made anew when the pump dies.

What is decided, the Node decides; what is moved, the pump moves. Descriptors outlive a pump, so nothing on the host
moves when one has a successor.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import cast

import structlog

from shadowmesh.daemon.driver import Driver
from shadowmesh.daemon.environment import ANY_IPV4, ANY_IPV6, Environment, Socket
from shadowmesh.daemon.keeper import Keeper
from shadowmesh.daemon.options import DaemonOptions
from shadowmesh.daemon.recent import LOOK, LOOK_SOON, RecentFile
from shadowmesh.daemon.state import State
from shadowmesh.dataplane.interface import Pump, PumpDied
from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.engine import CounterReader, HandshakeDone, Identity, Node, NodeConfig, NodeEvent, PingResult, WarmStart
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.pump import AddSocket, Command, Slot
from shadowmesh.protocol.signing import Signer

log = structlog.get_logger(__name__)

_IPV4_SLOT, _IPV6_SLOT, _FIRST_STREAM_SLOT = Slot(0), Slot(1), 16
_PUMP_RESTARTS = 5  # within a minute; one more, and the daemon gives up
_PORT_TRIES = 20
_RESERVED = 300.0  # seconds of handshake timestamps that are on disk ahead of their use
_BEYOND = 1.0  # seconds between the limit up to which they follow the clock and what is on disk


class Mesh:
    """`on_event` hears the Node, but for the ends of pings. `on_start` is called with each new Node, to tell it of the
    host and of the networks; `on_stop` when a pump has died; `on_failure` when its successors die as well."""

    def __init__(
        self,
        environment: Environment,
        state: State,
        keeper: Keeper,
        device: Signer,
        *,
        on_event: Callable[[NodeEvent], None],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
        on_failure: Callable[[ShadowMeshError], None],
        on_commands: Callable[[list[Command]], None],
        options: DaemonOptions,
    ) -> None:
        """`on_commands` sees what the Node tells the pump, before that does."""
        self._environment = environment
        self._state = state
        self._keeper = keeper
        self._device = device
        self._options = options
        self._on_event, self._on_start, self._on_stop, self._on_failure = on_event, on_start, on_stop, on_failure
        self._on_commands = on_commands
        self._driver: Driver | None = None
        self._pump: Pump | None = None
        self._sockets: dict[Slot, Socket] = {}
        self._port = 0
        self._next_slot = _FIRST_STREAM_SLOT
        self._deaths: list[float] = []
        self._recent = RecentFile(state.directory)
        self._warm_start: WarmStart | None = None
        self._look_at_recent: asyncio.TimerHandle | None = None
        self._floor = 0.0  # no handshake timestamp above it was used before this Node
        self._limit = -inf
        self._pings: dict[int, asyncio.Future[PingResult]] = {}
        self._next_ping = 0

    @property
    def node(self) -> Node:
        assert self._driver is not None
        return self._driver.node

    @property
    def port(self) -> int:
        """The UDP port of this device."""
        return self._port

    @property
    def pump_name(self) -> PumpName:
        assert self._pump is not None
        return cast(PumpName, self._pump.name)

    # life

    def start(self) -> None:
        """Raises ShadowMeshError if no port is free, or no pump starts."""
        self._open_sockets()
        self._warm_start = self._recent.read()
        self._start()
        self._keep_recent()

    def _keep_recent(self) -> None:
        """Whom we talk with is on disk, for a start after a crash: at once after a handshake, its ways a few seconds later."""
        if self._driver is not None:
            self._recent.keep(self.node.warm_start(self._environment.clock()))
            self._reserve_timestamps()
        self._look_at_recent = asyncio.get_running_loop().call_later(LOOK, self._keep_recent)

    def _keep_recent_soon(self) -> None:
        look, loop = self._look_at_recent, asyncio.get_running_loop()
        if look is not None and look.when() - loop.time() > LOOK_SOON:
            look.cancel()
            self._look_at_recent = loop.call_later(LOOK_SOON, self._keep_recent)

    def stop(self) -> None:
        if self._look_at_recent is not None:
            self._look_at_recent.cancel()
        self._stop()
        if self._warm_start is not None:
            self._recent.keep(self._warm_start)
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def restart(self, device: Signer) -> None:
        """As another device."""
        self._device = device
        self._on_stop()
        self._stop()
        self._start_again()

    def _open_sockets(self) -> None:
        _, kept = self._state.device()
        if self._options.port:
            self._open_chosen(self._options.port)
            return
        port = kept
        for left in reversed(range(_PORT_TRIES)):
            try:
                self._sockets[_IPV4_SLOT] = self._environment.open_udp(ANY_IPV4, port)
                break
            except OSError as e:
                if not left:
                    raise ShadowMeshError(
                        "no_port", f"no UDP port is free ({e.strerror})", "end what holds them"
                    ) from e
                port = 20000 + secrets.randbelow(40000)
        if port != kept:
            log.info("udp port changed", old=kept, new=port)
            self._keeper.keep(None, "port", lambda: self._state.set_port(port))
        self._open_ipv6(port)

    def _open_chosen(self, port: int) -> None:
        """A port that somebody chose, who opened it in a firewall perhaps: no other will do."""
        try:
            self._sockets[_IPV4_SLOT] = self._environment.open_udp(ANY_IPV4, port)
        except OSError as e:
            raise ShadowMeshError(
                "no_port",
                f"UDP port {port} can't be taken ({e.strerror})",
                "end what holds it, or set another p2p.port",
            ) from e
        self._open_ipv6(port)

    def _open_ipv6(self, port: int) -> None:
        self._port = port
        with suppress(OSError):  # a host without IPv6
            self._sockets[_IPV6_SLOT] = self._environment.open_udp(ANY_IPV6, port)

    def _start(self) -> None:
        """A fresh pump and a fresh Node; sessions are made anew."""
        moment = self._environment.clock()
        self._pump = self._environment.start_pump()
        self._floor = self._begin(max(self._floor, self._state.timestamp()), moment.wall)
        config = NodeConfig(timestamp_floor=self._floor, warm_start=self._warm_start, p2p=self._options.p2p)
        node = Node(Identity(self._device), config)
        node.counters = CounterReader(self._pump.counters())
        self._driver = Driver(node, self._pump, self._environment.clock, self._event, self._died, self._on_commands)
        self.apply(*(AddSocket(slot, sock.fileno()) for slot, sock in self._sockets.items()))
        for slot in self._sockets:
            node.add_socket(slot, self._port, moment, ipv6=slot == _IPV6_SLOT)
        self._limit = -inf
        node.limit_timestamps(self._floor)
        self._reserve_timestamps()
        self._on_start()
        self.poke()

    @staticmethod
    def _begin(kept: float, wall: float) -> float:
        """Where a start's handshake timestamps begin, above those that are `kept` as possibly used.

        Where none can be reserved, because the disk takes nothing, the next start finds the same ones kept: so each
        begins higher by a thousandth of the time that has passed, which a start's own steps of a microsecond don't use up.
        """
        return kept + max(0.0, wall - (kept - _RESERVED - _BEYOND)) / 1000

    def _reserve_timestamps(self) -> None:
        """What a killed process had used is known after its restart, also where the clock begins in 1970 then.

        While it can't be kept, those that were reserved go on in small steps. Reserved in seconds only where the clock
        is behind, so that restarts don't carry the floor ever further ahead of it.
        """
        wall, used = self._environment.clock().wall, self.node.timestamp
        if used < self._limit + _BEYOND / 2 and wall + _RESERVED / 2 < self._limit:
            return
        limit = max(wall + _RESERVED, used)
        if self._keeper.keep(None, "timestamp", lambda: self._state.keep_timestamp(limit + _BEYOND)):
            self._limit = limit
            self.node.limit_timestamps(limit)

    def _stop(self) -> None:
        if self._driver is not None:
            self._warm_start = self._driver.node.warm_start(self._environment.clock())
            self._floor = max(self._floor, self._driver.node.timestamp)
            self._keeper.keep(None, "timestamp", lambda: self._state.keep_timestamp(self._floor))
            self._driver.stop()
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        for future in self._pings.values():
            future.cancel()

    def _died(self) -> None:
        moment = self._environment.clock().boot
        self._deaths = [t for t in self._deaths if moment - t < 60.0] + [moment]
        log.error("the pump died; starting another", deaths=len(self._deaths))
        self._on_stop()
        self._stop()
        if len(self._deaths) > _PUMP_RESTARTS:
            self._on_failure(
                ShadowMeshError("pump_dies", "the pump dies again and again", "see its last words in the log")
            )
        else:
            self._start_again()

    def _start_again(self) -> None:
        """Where no other pump starts, as without memory or descriptors, the daemon fails: without one it does nothing."""
        try:
            self._start()
        except ShadowMeshError as e:
            self._on_failure(e)
        except OSError as e:
            what = f"no other pump can be started ({e.strerror})"
            self._on_failure(ShadowMeshError("no_pump", what, "see to the host's memory and limits"))

    # commands and events

    def apply(self, *commands: Command) -> None:
        """Commands that carry descriptors; the Node's own go through the driver.

        To a pump that has just died they are lost: the driver will hear of it, and its successor is told everything.
        """
        if self._pump is not None:
            with suppress(PumpDied):
                self._pump.apply(commands)

    def poke(self) -> None:
        """To be called after each call into the Node: what it wants done is done soon."""
        if self._driver is not None:
            self._driver.poke()

    def flush(self) -> None:
        """What the Node wants done is done now."""
        if self._driver is not None:
            self._driver.flush()

    def new_slot(self) -> Slot:
        """For a stream."""
        self._next_slot += 1
        return Slot(self._next_slot - 1)

    def _event(self, event: NodeEvent) -> None:
        if isinstance(event, PingResult):
            waiting = self._pings.pop(event.token, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(event)
            return
        if isinstance(event, HandshakeDone):
            self._keep_recent_soon()
        self._on_event(event)

    async def ping(self, network: NetworkID, client_id: ClientID, timeout: float) -> PingResult | None:
        """None if the pump was started anew meanwhile. Raises ShadowMeshError if the peer is gone."""
        self._next_ping += 1
        token = self._next_ping
        future: asyncio.Future[PingResult] = asyncio.get_running_loop().create_future()
        self._pings[token] = future
        try:
            self.node.ping(network, client_id, token, self._environment.clock(), timeout)
            self.poke()
            await asyncio.wait({future}, timeout=timeout + 5.0)
            return future.result() if future.done() and not future.cancelled() else None
        finally:
            self._pings.pop(token, None)
