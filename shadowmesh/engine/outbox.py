"""What the parts of the engine give out: commands for the pump, events for the daemon, deadlines."""

from __future__ import annotations

from shadowmesh.engine.events import NodeEvent
from shadowmesh.engine.timers import Timed, Timers
from shadowmesh.model.pump import Command, Path, Send


class Outbox:
    """One for a whole node, written by all of its parts, emptied by the Node's caller."""

    __slots__ = ("_commands", "_events", "emit", "publish", "timers")

    def __init__(self) -> None:
        self._commands: list[Command] = []
        self._events: list[NodeEvent] = []
        self.timers = Timers()
        self.emit = self._commands.append  # a command for the pump; bound once, as each datagram makes some
        self.publish = self._events.append  # an event for the daemon

    def send(self, path: Path, data: bytes) -> None:
        """A datagram to be sent by the pump."""
        self.emit(Send(path, data))

    def schedule(self, item: Timed) -> None:
        """Takes note that an item's deadline may have become earlier."""
        self.timers.schedule(item)

    def take_commands(self) -> list[Command]:
        """The commands since the last call, in order."""
        if not self._commands:
            return []
        commands = self._commands.copy()
        self._commands.clear()
        return commands

    def take_events(self) -> list[NodeEvent]:
        """The events since the last call, in order."""
        if not self._events:
            return []
        events = self._events.copy()
        self._events.clear()
        return events
