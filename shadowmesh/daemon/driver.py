"""Node and pump on one event loop: events up, commands down, one timer.

All inputs end in `flush`: commands go to the pump, the Node's events to `on_event`, and the timer is set anew. An event
that can't be taken, because of a fault of ours, is logged and keeps no other from being taken, nor the timer from being set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from shadowmesh.daemon.heartbeat import Heartbeat
from shadowmesh.dataplane.interface import Pump, PumpDied
from shadowmesh.engine.events import NodeEvent, TurnFailed
from shadowmesh.engine.node import Node
from shadowmesh.model.clock import Now
from shadowmesh.model.pump import Command, Event
from shadowmesh.serving.rarelog import RareLog
from shadowmesh.serving.tasks import tell_failure

log = structlog.get_logger(__name__)

_LONGEST_WAIT = 2.0  # the loop's clock stands still in sleep; CLOCK_BOOTTIME doesn't: look at least so often
_BATCH = 512

T = TypeVar("T")


class Driver:
    """Runs until `stop`, or until the pump dies (then `on_death` is called once)."""

    def __init__(
        self,
        node: Node,
        pump: Pump,
        clock: Callable[[], Now],
        on_event: Callable[[NodeEvent], None],
        on_death: Callable[[], None],
        on_commands: Callable[[list[Command]], None] = lambda commands: None,
    ) -> None:
        """`on_commands` sees what the pump is about to be told."""
        self.node = node
        self.pump = pump
        self._clock = clock
        self._on_event = on_event
        self._on_death = on_death
        self._on_commands = on_commands
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._flush_soon: asyncio.Handle | None = None
        self._stopped = False
        self._rare = RareLog(__name__)
        self._fileno = pump.fileno()
        self._loop.add_reader(self._fileno, self._readable)
        self._heartbeat = Heartbeat(self._tell, self._stuck)

    def stop(self) -> None:
        """Stops looking; the pump stays the caller's to close."""
        if not self._stopped:
            self._stopped = True
            self._loop.remove_reader(self._fileno)
            self._heartbeat.stop()
            for handle in (self._timer, self._flush_soon):
                if handle is not None:
                    handle.cancel()

    def poke(self) -> None:
        """To be called after each call into the Node: flushes once, soon."""
        if self._flush_soon is None and not self._stopped:
            self._flush_soon = self._loop.call_soon(self._poked)

    def _poked(self) -> None:
        self._flush_soon = None
        self.flush()

    def flush(self) -> None:
        """Everything that waits goes out now."""
        if self._stopped:
            return
        try:
            while True:
                commands = self.node.pump_commands()
                if commands:
                    self._safely(self._on_commands, commands)
                    self.pump.apply(commands)
                events = self.node.events()
                for event in events:
                    self._safely(self._told, event)
                if not commands and not events:
                    break
        except PumpDied:
            self._died()
            return
        self._set_timer()

    def _told(self, event: NodeEvent) -> None:
        if isinstance(event, TurnFailed):
            self._failed(f"a turn of {event.what}", event.error)
        else:
            self._on_event(event)

    def _safely(self, take: Callable[[T], None], what: T) -> None:
        try:
            take(what)
        except PumpDied:
            raise
        except Exception as e:
            self._failed(f"taking {type(what).__name__}", e)

    def _failed(self, what: str, error: Exception) -> None:
        tell_failure(self._rare, f"{what} failed; all else goes on", error, "the mesh")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.node.next_deadline()
        wait = _LONGEST_WAIT if deadline is None else min(max(deadline - self._clock().boot, 0.0), _LONGEST_WAIT)
        self._timer = self._loop.call_later(wait, self._tick)

    def _tick(self) -> None:
        self.node.tick(self._clock())
        self.flush()

    def _readable(self) -> None:
        try:
            events = self.pump.drain(_BATCH)
        except PumpDied:
            self._died()
            return
        moment = self._clock()

        def take(event: Event) -> None:
            if not self._heartbeat.answered_by(event):
                self.node.receive(event, moment)

        for event in events:
            self._safely(take, event)
        self.flush()

    def _tell(self, commands: list[Command]) -> None:
        try:
            self.pump.apply(commands)
        except PumpDied:
            self._died()

    def _stuck(self) -> None:
        log.error("the pump doesn't answer; ending it")
        self.pump.kill()
        self._died()

    def _died(self) -> None:
        if not self._stopped:
            self.stop()
            self._on_death()
