"""The typed client of the daemon's socket, `STATE_DIR/daemon.sock`.

One request per connection: a line of JSON `{"method", "params"}`; the answer is one line `{"result"}` or
`{"error"}`, or for streams lines `{"item"}` and a last `{"end"}`. While the daemon works on it, a line `{"working"}`
comes each second: a daemon that says nothing for longer is stuck, and people aren't kept waiting for it. Uses the
standard library and msgspec only, since `shadowmesh status` has to start quickly.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shadowmesh.client_api.starting import until_answers
from shadowmesh.client_api.unixsocket import connect, peer_pid, short_path
from shadowmesh.model.codec import from_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.places import DEFAULT_STATE_DIR
from shadowmesh.model.status import JoinResult, PingTry, Status, Why

if TYPE_CHECKING:
    import asyncio

SOCKET_NAME = "daemon.sock"
LOCK_NAME = "daemon.lock"  # held by the daemon from its start on
WORKING = 1.0  # seconds between two signs of life
SILENCE = 3.5  # seconds without one that mean a stuck daemon: with the start of a command, people wait 5 s at most
_LOOKS = 7  # within that


def unreachable(state_dir: Path, error: OSError) -> ShadowMeshError:
    """The one error for a daemon that can't be asked."""
    if isinstance(error, PermissionError):
        return ShadowMeshError(
            "not_allowed",
            f"no permission to ask the daemon in {state_dir}",
            "run this as root",
            kind=Kind.NOT_ALLOWED,
        )
    start = "`shadowmesh daemon run` (or `systemctl start shadowmesh`)"
    if state_dir != DEFAULT_STATE_DIR:
        start = f"`shadowmesh daemon run --state-dir {state_dir}`"
    return ShadowMeshError(
        "daemon_unreachable",
        f"no daemon answers in {state_dir}",
        f"start it with {start}",
        kind=Kind.UNREACHABLE,
    )


def stuck(pid: int | None) -> ShadowMeshError:
    """The one error for a daemon that is there and says nothing."""
    return ShadowMeshError(
        "daemon_stuck",
        f"the daemon{'' if pid is None else f' (pid {pid})'} doesn't answer",
        "see whether it is stopped; `systemctl restart shadowmesh` starts it anew",
        kind=Kind.UNREACHABLE,
    )


def error_from_wire(error: dict[str, Any]) -> ShadowMeshError:
    return ShadowMeshError(
        str(error.get("code", "failed")),
        str(error.get("what", "the daemon failed")),
        str(error.get("remedy", "")),
        kind=Kind(error.get("kind", 1)),
    )


def error_to_wire(error: ShadowMeshError) -> dict[str, Any]:
    return {"code": error.code, "what": error.what, "remedy": error.remedy, "kind": error.kind.value}


def _request(method: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"method": method, "params": params}).encode() + b"\n"


def _lost(state_dir: Path) -> ShadowMeshError:
    return unreachable(state_dir, ConnectionResetError())


class DaemonClient:
    """Blocking client; every call opens its own connection. Raises ShadowMeshError."""

    def __init__(self, state_dir: Path, *, starts_within: float | None = None) -> None:
        """`starts_within`: that many seconds a daemon may take until it answers, started already or not."""
        self.state_dir = state_dir
        self._starts_within = starts_within

    def _open(self) -> socket.socket:
        path = self.state_dir / SOCKET_NAME
        try:
            try:
                return connect(path, SILENCE)
            except (FileNotFoundError, ConnectionRefusedError):
                if not self._started(path):
                    raise
                return connect(path, SILENCE)
        except (BlockingIOError, TimeoutError) as e:  # it takes no connections, as many as wait
            raise stuck(None) from e
        except OSError as e:
            raise unreachable(self.state_dir, e) from e

    def _started(self, path: Path) -> bool:
        within = self._starts_within
        return until_answers(path, self.state_dir / LOCK_NAME, locked_s=within, unlocked_s=within or 0.0)

    def _lines(self, method: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._open() as sock:
            try:
                with suppress(BrokenPipeError):  # it has answered without asking
                    sock.sendall(_request(method, params))
                with sock.makefile("rb") as answers:
                    for line in answers:
                        message: dict[str, Any] = json.loads(line)
                        if "error" in message:
                            raise error_from_wire(message["error"])
                        if "working" not in message:
                            yield message
            except TimeoutError as e:
                raise stuck(peer_pid(sock)) from e
            except OSError as e:
                raise _lost(self.state_dir) from e

    def call(self, method: str, **params: Any) -> Any:
        """The result of one method, as plain JSON values."""
        for message in self._lines(method, params):
            return message.get("result")
        raise _lost(self.state_dir)

    def stream(self, method: str, **params: Any) -> Iterator[Any]:
        """The items of a streaming method, until its end."""
        ended = False
        for message in self._lines(method, params):
            if "item" in message:
                yield message["item"]
            ended = "end" in message
        if not ended:
            raise _lost(self.state_dir)

    def status(self) -> Status:
        return from_builtins(self.call("status"), Status)

    def join(self, *, invite: str, wait: bool, timeout: float, **options: Any) -> JoinResult:
        """`invite`: smi1_… or a short code (then `controller` and perhaps `fingerprint` are among `options`)."""
        answer = self.call("join", invite=invite, wait=wait, timeout_s=timeout, **options)
        return from_builtins(answer, JoinResult)

    def ping(self, peer: str, *, count: int, timeout: float, until_direct: bool) -> Iterator[PingTry]:
        for item in self.stream("ping", peer=peer, count=count, timeout_s=timeout, until_direct=until_direct):
            yield from_builtins(item, PingTry)

    def why(self, peer: str) -> Why:
        return from_builtins(self.call("why", peer=peer), Why)


async def _heard(reader: asyncio.StreamReader) -> bytes:
    """The next line. Raises TimeoutError after `SILENCE`; a pause of this very process counts as one look of many."""
    import asyncio  # 20 ms that the blocking client doesn't need

    line = asyncio.ensure_future(reader.readline())
    try:
        for _ in range(_LOOKS):
            if (await asyncio.wait((line,), timeout=SILENCE / _LOOKS))[0]:
                return await line
        raise TimeoutError
    finally:
        line.cancel()


class AsyncDaemonClient:
    """The same for programs with an event loop, such as the TUI."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    async def _lines(self, method: str, params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        import asyncio  # 20 ms that the blocking client doesn't need

        try:
            with short_path(self.state_dir / SOCKET_NAME) as name:
                reader, writer = await asyncio.open_unix_connection(name, limit=1 << 26)
        except BlockingIOError as e:
            raise stuck(None) from e
        except OSError as e:
            raise unreachable(self.state_dir, e) from e
        try:
            writer.write(_request(method, params))
            with suppress(BrokenPipeError):
                await writer.drain()
            while line := await _heard(reader):
                message: dict[str, Any] = json.loads(line)
                if "error" in message:
                    raise error_from_wire(message["error"])
                if "working" not in message:
                    yield message
        except TimeoutError as e:
            raise stuck(peer_pid(writer.get_extra_info("socket"))) from e
        except OSError as e:
            raise _lost(self.state_dir) from e
        finally:
            writer.close()

    async def call(self, method: str, **params: Any) -> Any:
        async for message in self._lines(method, params):
            return message.get("result")
        raise _lost(self.state_dir)

    async def stream(self, method: str, **params: Any) -> AsyncIterator[Any]:
        """The items of a streaming method, until its end."""
        ended = False
        async for message in self._lines(method, params):
            if "item" in message:
                yield message["item"]
            ended = "end" in message
        if not ended:
            raise _lost(self.state_dir)

    async def status(self) -> Status:
        return from_builtins(await self.call("status"), Status)

    async def watch(self, interval: float = 1.0) -> AsyncIterator[Status]:
        """A Status now, then one at every change, at least each `interval` seconds."""
        async for item in self.stream("watch", interval_s=interval):
            yield from_builtins(item, Status)

    async def why(self, peer: str) -> Why:
        return from_builtins(await self.call("why", peer=peer), Why)
