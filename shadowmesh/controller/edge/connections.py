"""Connections as they come from anywhere: uvicorn's HTTP and WebSocket protocols, with limits of time and size.

Each phase of a connection has its time: the TLS handshake, a request's head, its body, an answer that isn't read. A trickle of
bytes doesn't extend it. Who is behind a connection is the application's business: it says so by `proven` or `active`, and until
then a message on a WebSocket is small, and the connection may have to make room (`serving.admission`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
from starlette.requests import HTTPConnection
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.protocol import State

from shadowmesh.controller.edge.tlswriting import tls_of, write_now
from shadowmesh.controller.settings import Timing
from shadowmesh.protocol.websocket import TEXT, frame_head
from shadowmesh.serving.admission import Admission

FIRST_MESSAGE = 64 * 1024  # a hello with some hundred maps
MAX_MESSAGE = 1024 * 1024
_MAX_FRAGMENTS = 256
_MAX_LEFT = 16  # messages that are still read when their connection has gone
_WRITE_BUFFER = 16 * 1024  # what waits in TLS for a reader that takes nothing; the transport below it keeps 64 KiB more
TLS_PIECE = 4096  # bytes to or from OpenSSL at once: it keeps room for the most there was while a connection lasts
_CLOSE_TIMEOUT = 2.0  # for the other side's close frame
_PROVEN, _ACTIVE, _SEND_TEXT = "shadowmesh.proven", "shadowmesh.active", "shadowmesh.send_text"
_TLS = "shadowmesh.tls"


def proven(connection: HTTPConnection) -> None:
    """Who is behind the connection is known, and it is theirs for as long as it lasts."""
    _tell(connection, _PROVEN)


def active(connection: HTTPConnection) -> None:
    """A request on it was somebody's."""
    _tell(connection, _ACTIVE)


def certificate(connection: HTTPConnection) -> dict[str, Any] | None:
    """The certificate of our authority that the other side showed in its TLS handshake, as `ssl` tells it."""
    tls = connection.scope.get(_TLS, lambda: None)()
    return None if tls is None else tls.getpeercert() or None


def sender(socket: HTTPConnection) -> Callable[[str], bool]:
    """Sends a text on an accepted WebSocket at once; False if something waits before it, or it can't be sent."""
    send: Callable[[str], bool] = socket.scope.get(_SEND_TEXT, lambda _text: False)
    return send


def _tell(connection: HTTPConnection, what: str) -> None:
    told = connection.scope.get(what)
    if told is not None:
        told()


class Http(H11Protocol):
    """HTTP/1.1 whose phases have their time. One timer a connection, set where a phase begins."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        timing: Timing,
        admission: Admission | None,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.ws_protocol_class = partial(Messages, admission=admission)  # type: ignore[assignment]
        self._timing = timing
        self._admission = admission
        self._deadline: asyncio.TimerHandle | None = None
        self._phase = ""
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._enter("head", self._timing.request_head)

    def handle_events(self) -> None:
        super().handle_events()
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            self._enter("", None)
            return
        if self.scope is not None and self._admission is not None:
            # The request's task was made just now, and hasn't run yet.
            self.scope[_ACTIVE] = partial(self._admission.active, self.client)  # type: ignore[literal-required]
            self.scope[_TLS] = partial(self.transport.get_extra_info, "ssl_object")  # type: ignore[literal-required]
        if self.conn.their_state is h11.SEND_BODY:
            self._enter("body", self._timing.request_body)
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._enter("head", self._timing.request_head)
        else:
            self._enter("", None)  # an answer is being made, or uvicorn's own timer of idle connections runs

    def _enter(self, phase: str, seconds: float | None) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._timing.write_stall, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unstall()

    def _unstall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._enter("", None)
        self._unstall()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter("", None)
        self._unstall()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)


class Messages(WebSocketsSansIOProtocol):
    """A WebSocket on which only who is known may send large messages. Text that is none ends it without a word in the log.

    What it took goes with it, without waiting for the collector of cycles, which a flood would be long before.
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], *, admission: Admission | None
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.close_timeout = _CLOSE_TIMEOUT
        self._admission = admission
        self._in_app = False
        self._tls: Any = None

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope[_PROVEN] = self._proven  # type: ignore[literal-required]
            self.scope[_SEND_TEXT] = self._send_text  # type: ignore[literal-required]
            self.scope[_TLS] = partial(self.transport.get_extra_info, "ssl_object")  # type: ignore[literal-required]
            self._tls = tls_of(self.transport)
            self._in_app = True

    def _send_text(self, text: str) -> bool:
        """One frame to the transport, without an ASGI message and a task."""
        if self.disconnected or self.conn.state is not State.OPEN or not self.writable.is_set():
            return False
        data = text.encode()
        frame = frame_head(TEXT, len(data)) + data
        if len(frame) <= TLS_PIECE and self._tls is not None and write_now(self._tls, frame):
            return True
        for start in range(0, len(frame), TLS_PIECE):
            self.transport.write(frame[start : start + TLS_PIECE])
        return True

    def _proven(self) -> None:
        self.conn.max_message_size = MAX_MESSAGE
        del self.request, self.response  # the handshake's heads, some kilobytes
        if self._admission is not None:
            self._admission.proven(self.client)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.queue.qsize() > _MAX_LEFT:  # a flood; a goodbye and what came just before it is still heard
            self.queue = asyncio.Queue()
        super().connection_lost(exc)
        self._release()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._in_app = False
        self._release()

    def _release(self) -> None:
        """Cuts what holds itself, once neither the transport nor the application needs it."""
        if self.disconnected and not self._in_app:
            self.scope = {}  # type: ignore[typeddict-item]
            self._tls = None
            vars(self.conn).clear()  # its parser, a generator that waits for more, and errors hold frames that hold it

    def handle_cont(self, event: Any) -> None:
        super().handle_cont(event)
        if len(self.frames) > _MAX_FRAGMENTS:
            self._end(1009)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._end(1007)
                return
        super().send_receive_event_to_app()

    def shutdown(self) -> None:
        """The other side may have begun to close: then this one's close frame is under way, and there is no other."""
        if self.handshake_complete and self.conn.state is not State.OPEN:
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()

    def _end(self, code: int) -> None:
        self.frames = []
        if not self.close_sent:
            self.conn.send_close(code)
            self.handle_parser_exception()
