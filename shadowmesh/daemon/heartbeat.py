"""Whether a pump still does its work: it is asked now and then for a sign of life, by what every pump does anyway.

It is given a stream whose other end is closed, and has to say that it is gone: so command, loop and event have all worked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from shadowmesh.model.pump import AddStream, Command, DescriptorGone, DescriptorKind, Event, RemoveStream, Slot

BEAT = 3.0  # seconds between two questions
MISSED = (
    3  # turns without an answer that mean a stuck pump. Turns, not seconds: this process may have been stopped itself
)
SLOT = Slot(15)  # below those of real streams


class Heartbeat:
    """Runs until `stop`. `send` gives the pump commands; `on_stuck` is called once."""

    def __init__(self, send: Callable[[list[Command]], None], on_stuck: Callable[[], None]) -> None:
        self._send = send
        self._on_stuck = on_stuck
        self._unanswered = 0
        self._timer = asyncio.get_running_loop().call_later(BEAT, self._beat)

    def stop(self) -> None:
        self._timer.cancel()

    def answered_by(self, event: Event) -> bool:
        """Whether an event of the pump is such an answer, and nobody else's concern."""
        if isinstance(event, DescriptorGone) and event.what is DescriptorKind.STREAM and event.index == SLOT:
            self._unanswered = 0
            return True
        return False

    def _beat(self) -> None:
        if self._unanswered >= MISSED:
            self._on_stuck()
            return
        self._timer = asyncio.get_running_loop().call_later(BEAT, self._beat)
        if self._unanswered == 0:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.close()
            with theirs:
                self._send([RemoveStream(SLOT), AddStream(SLOT, theirs.fileno())])
        self._unanswered += 1
