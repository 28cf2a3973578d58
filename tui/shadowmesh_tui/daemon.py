"""The daemon as the app sees it: every failure, also of an answer that can't be read, is a ShadowMeshError.

What comes in here is safe to show (`model.text`): no other part of the app has to think of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shadowmesh.client_api.local import AsyncDaemonClient, unreachable
from shadowmesh.model.codec import from_builtins
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.status import PingTry, Status, Why
from shadowmesh.model.text import escaped

WATCH_S = 1.0


def _visible(value: Any) -> Any:
    """The daemon's answer with all text in it made safe to show: some comes from other machines."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [_visible(item) for item in value]
    if isinstance(value, dict):
        return {key: _visible(item) for key, item in value.items()}
    return value


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except ShadowMeshError as e:
        raise ShadowMeshError(e.code, escaped(e.what), escaped(e.remedy), kind=e.kind) from e
    except ValueError as e:  # not JSON, or not the shape that was asked for
        raise ShadowMeshError(
            "daemon_answer_unreadable",
            f"the daemon's answer can't be read ({e})",
            "perhaps it is of another version: restart it with `systemctl restart shadowmesh`",
        ) from e


class Daemon:
    """`silence_s`: a daemon that accepts the call and then says nothing for so long counts as not answering."""

    def __init__(self, state_dir: Path, *, silence_s: float) -> None:
        self._client = AsyncDaemonClient(state_dir)
        self._state_dir = state_dir
        self._silence_s = silence_s

    async def watch(self) -> AsyncIterator[Status]:
        """A Status now, then one at every change, at least each second. Never ends but by ShadowMeshError."""
        statuses = self._client.stream("watch", interval_s=WATCH_S)
        while True:
            try:
                with _readable():
                    async with asyncio.timeout(self._silence_s):
                        status = from_builtins(_visible(await anext(statuses)), Status)
            except StopAsyncIteration:
                raise unreachable(self._state_dir, ConnectionResetError()) from None
            except TimeoutError:
                raise ShadowMeshError(
                    "daemon_silent",
                    f"the daemon in {self._state_dir} has said nothing for {self._silence_s:.0f} s",
                    "see what it does: journalctl -u shadowmesh",
                ) from None
            yield status

    async def why(self, peer: str) -> Why:
        with _readable():
            return from_builtins(_visible(await self._client.call("why", peer=peer)), Why)

    async def ping(self, peer: str, count: int) -> AsyncIterator[PingTry]:
        """Each try as it is answered, or given up after two seconds."""
        with _readable():
            async for item in self._client.stream(
                "ping", peer=peer, count=count, timeout_s=2.0 * count, until_direct=False
            ):
                yield from_builtins(_visible(item), PingTry)

    async def switch(self, verb: str, network: str) -> Any:
        """`up` or `down`."""
        with _readable():
            return await self._client.call(verb, network=network)
