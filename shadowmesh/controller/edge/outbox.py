"""What waits to be sent on one WebSocket: posting never waits, and a reader that doesn't read is dropped."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.websockets import WebSocket

from shadowmesh.controller.edge.connections import sender

MAX_WAITING = 8 * 1024 * 1024
TOO_SLOW = 4008
_FLUSH = 2.0


class Outbox:
    """What can be sent at once is; a task exists only while something waits: an idle connection costs none."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._send_text = sender(socket)
        self._waiting: deque[str] = deque()
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._closing: tuple[int, str] | None = None
        self._dead = False

    @property
    def closing(self) -> bool:
        return self._closing is not None

    def post(self, text: str) -> None:
        if self._dead or self._closing is not None:
            return
        if self._task is None and self._send_text(text):
            return
        self._waiting.append(text)
        self._size += len(text)
        if self._size > MAX_WAITING:
            self._waiting.clear()
            self.close(TOO_SLOW, "too slow")
        self._wake()

    def close(self, code: int, reason: str) -> None:
        """Sends what waits, then closes."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake()

    def _wake(self) -> None:
        if self._task is None and not self._dead:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                text = self._waiting.popleft()
                self._size -= len(text)
                await self._socket.send({"type": "websocket.send", "text": text})
            if self._closing is not None:
                code, reason = self._closing
                self._dead = True
                await self._socket.close(code, reason[:120])
        except Exception:  # whatever it is, this connection is over; its reader notices
            self._dead = True
            self._waiting.clear()
        finally:
            self._task = None
            if self._waiting and not self._dead:
                self._wake()

    async def flush(self) -> None:
        """Waits until all is sent, a moment at most."""
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=_FLUSH)

    def stop(self) -> None:
        """The connection has ended."""
        self._dead = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
