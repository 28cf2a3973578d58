"""The daemon's socket: who may ask what, one request per connection, answers as JSON lines.

The form of requests and answers is in `client_api.local`. Who asks is known from SO_PEERCRED: root and the
service's own user change things; members of group `shadowmesh` read all; anyone reads the status without endpoints.
A request has to come within seconds, and a user has so many connections at once. What a caller asked who has gone
meanwhile isn't begun, or is ended.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog

from shadowmesh.client_api.local import SOCKET_NAME, WORKING, error_to_wire
from shadowmesh.client_api.unixsocket import hung_up, listen, peer_credentials
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError

log = structlog.get_logger(__name__)

GROUP = "shadowmesh"
_MAX_REQUEST = 64 * 1024
_REQUEST_TIME = 5.0  # seconds for a request to come in
_ANSWER_TIME = 30.0  # seconds for a caller to take what it is sent
MAX_OF_USER, MAX_OF_OTHERS = 16, 64  # connections at once: of a user who may change nothing, and of all of these
MAX_OF_OWNER = 64  # of root, or the service's user: their scripts may go wrong, too


class Access(IntEnum):
    """What a caller may do; each includes the ones before."""

    STATUS = 0  # without endpoints
    READ = 1
    CHANGE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    access: Access


T = TypeVar("T")
Method = Callable[[Caller, dict[str, Any]], Awaitable[Any] | AsyncIterator[Any]]
_END = object()


class LocalApi:
    """Serves `methods`: name → (needed access, coroutine function or async generator function)."""

    def __init__(
        self, state_dir: Path, methods: dict[str, tuple[Access, Method]], operators: tuple[str, ...] = ()
    ) -> None:
        self._path = state_dir / SOCKET_NAME
        self._methods = methods
        self._operators = operators
        self._server: asyncio.Server | None = None
        self._callers: Counter[tuple[bool, int]] = Counter()  # connections by whether they may change things, and uid
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._closing: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Raises ShadowMeshError(CONFLICT) if another daemon answers at the socket."""
        try:
            sock = listen(self._path, 0o666)
        except OSError as e:
            raise ShadowMeshError(
                "daemon_running", f"can't listen on {self._path} ({e.strerror})", "stop the daemon that does",
                kind=Kind.CONFLICT,
            ) from e  # fmt: skip
        sock.setblocking(False)
        self._closing = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=_MAX_REQUEST)

    async def stop(self) -> None:
        if self._server is not None and self._closing is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            self._closing.set_result(None)
            for writer in self._connections.values():
                writer.transport.abort()
            if self._connections:
                await asyncio.wait(list(self._connections))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)
        _, uid, gid = peer_credentials(writer.get_extra_info("socket"))
        access = self._access(uid, gid)
        counted = False
        try:
            if not self._has_room(uid, access):
                error = ShadowMeshError(
                    "busy", "too many ask the daemon at once", "try again in a moment", kind=Kind.CONFLICT
                )
                writer.write(json.dumps({"error": error_to_wire(error)}).encode() + b"\n")
                return
            counted = True
            self._callers[access >= Access.CHANGE, uid] += 1
            async with asyncio.timeout(_REQUEST_TIME):
                line = await reader.readline()
            if line:
                await self._answer(line, Caller(access), writer)
        except (OSError, ValueError):
            pass  # the caller went away, or sent more than a request is long, or nothing in time
        finally:
            if counted:
                self._callers[access >= Access.CHANGE, uid] -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _has_room(self, uid: int, access: Access) -> bool:
        owner = access >= Access.CHANGE
        mine = self._callers[owner, uid]
        if owner:
            return mine < MAX_OF_OWNER
        return (
            mine < MAX_OF_USER and sum(n for (of_owner, _), n in self._callers.items() if not of_owner) < MAX_OF_OTHERS
        )

    async def _answer(self, line: bytes, caller: Caller, writer: asyncio.StreamWriter) -> None:
        async def send(message: dict[str, Any]) -> None:
            writer.write(json.dumps(message, default=to_builtins).encode() + b"\n")
            async with asyncio.timeout(_ANSWER_TIME):
                await writer.drain()

        async def waited_for(work: Awaitable[T]) -> T:
            """The work's result. Raises ConnectionError, and ends the work, once nobody waits for it any more."""
            task = asyncio.ensure_future(work)
            try:
                while True:
                    if hung_up(writer.get_extra_info("socket")):
                        raise ConnectionResetError("the caller has gone")
                    assert self._closing is not None
                    both: set[asyncio.Future[Any]] = {task, self._closing}
                    await asyncio.wait(both, timeout=WORKING, return_when=asyncio.FIRST_COMPLETED)
                    if task.done():
                        return task.result()
                    if self._closing.done():
                        raise ConnectionResetError("the daemon stops")
                    await send({"working": True})
            finally:
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})

        try:
            name, params = _parse(line)
            needed, method = self._method(name)
            if caller.access < needed:
                raise ShadowMeshError(
                    "not_allowed",
                    f"this user may not use `shadowmesh {name.replace('_', ' ')}`",
                    "run it as root",
                    kind=Kind.NOT_ALLOWED,
                )
            if hung_up(writer.get_extra_info("socket")):
                return
            outcome = method(caller, params)
            if isinstance(outcome, AsyncGenerator):
                try:
                    while (item := await waited_for(anext(outcome, _END))) is not _END:
                        await send({"item": to_builtins(item)})
                finally:
                    await outcome.aclose()
                await send({"end": True})
            else:
                await send({"result": to_builtins(await waited_for(cast(Awaitable[Any], outcome)))})
        except ShadowMeshError as e:
            await send({"error": error_to_wire(e)})
        except OSError:
            raise
        except Exception as e:
            log.exception("local request failed", request=line[:60])
            error = ShadowMeshError("internal", f"the daemon failed: {type(e).__name__}", "see the daemon's log")
            await send({"error": error_to_wire(error)})

    def _method(self, name: str) -> tuple[Access, Method]:
        found = self._methods.get(name)
        if found is None:
            raise ShadowMeshError(
                "unknown_method", f"the daemon knows no {name}", "restart it if it is older than this command"
            )
        return found

    def _access(self, uid: int, gid: int) -> Access:
        if uid in (0, os.geteuid()):
            return Access.CHANGE
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            return Access.STATUS
        if user in self._operators:
            return Access.CHANGE
        try:
            group = grp.getgrnam(GROUP)
        except KeyError:
            return Access.STATUS
        return Access.READ if gid == group.gr_gid or user in group.gr_mem else Access.STATUS


def _parse(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        request = json.loads(line)
        name, params = request["method"], request.get("params", {})
        if not isinstance(name, str) or not isinstance(params, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ShadowMeshError("malformed", "that is no request", kind=Kind.USAGE) from e
    return name, params
