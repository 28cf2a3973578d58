"""The daemon's socket: who may ask what, one request per connection, answers as JSON lines.

The form of requests and answers is in `client_api.local`. Who asks is known from SO_PEERCRED: root and the
service's own user change things; members of group `shadowmesh` read all; anyone reads the status without endpoints.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import structlog

from shadowmesh.client_api.local import SOCKET_NAME, error_to_wire
from shadowmesh.client_api.unixsocket import listen
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError

log = structlog.get_logger(__name__)

GROUP = "shadowmesh"
_MAX_REQUEST = 64 * 1024


class Access(IntEnum):
    """What a caller may do; each includes the ones before."""

    STATUS = 0  # without endpoints
    READ = 1
    CHANGE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    access: Access


Method = Callable[[Caller, dict[str, Any]], Awaitable[Any] | AsyncIterator[Any]]


class LocalApi:
    """Serves `methods`: name → (needed access, coroutine function or async generator function)."""

    def __init__(
        self, state_dir: Path, methods: dict[str, tuple[Access, Method]], operators: tuple[str, ...] = ()
    ) -> None:
        self._path = state_dir / SOCKET_NAME
        self._methods = methods
        self._operators = operators
        self._server: asyncio.Server | None = None

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
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=_MAX_REQUEST)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if line:
                await self._answer(line, writer)
        except (OSError, ValueError):
            pass  # the caller went away, or sent more than a request is long
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        async def send(message: dict[str, Any]) -> None:
            writer.write(json.dumps(message, default=to_builtins).encode() + b"\n")
            await writer.drain()

        try:
            name, params = _parse(line)
            needed, method = self._method(name)
            caller = Caller(self._access(writer.get_extra_info("socket")))
            if caller.access < needed:
                raise ShadowMeshError(
                    "not_allowed",
                    f"this user may not use `shadowmesh {name.replace('_', ' ')}`",
                    "run it as root",
                    kind=Kind.NOT_ALLOWED,
                )
            outcome = method(caller, params)
            if isinstance(outcome, AsyncIterator):
                async for item in outcome:
                    await send({"item": to_builtins(item)})
                await send({"end": True})
            else:
                await send({"result": to_builtins(await outcome)})
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

    def _access(self, sock: socket.socket) -> Access:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", credentials)
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
