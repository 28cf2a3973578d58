"""A fake daemon: the real socket and its protocol, with no mesh behind it. It says what a test tells it to say.

It runs in a thread of its own, as the real one runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shadowmesh.client_api.local import SOCKET_NAME, error_to_wire
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import PingTry, Status, Why


class FakeDaemon:
    """`script` is told to the first who watches, one after the other; later ones hear the last of it, then what is said.

    `asked` holds (method, params) of every call. A method in `refusals` is answered by that error; `garbage` makes
    every answer unreadable. A pinged peer that has no `pings` never answers.
    """

    def __init__(self, state_dir: Path, script: Sequence[Status]) -> None:
        self.state_dir = state_dir
        self.script = list(script)
        self.whys: dict[str, Why] = {}
        self.pings: dict[str, list[PingTry]] = {}
        self.refusals: dict[str, ShadowMeshError] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.garbage = False
        self._watchers: set[asyncio.Queue[Status]] = set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: asyncio.Event | None = None

    def __enter__(self) -> FakeDaemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the socket answers."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="fake daemon")
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the fake daemon doesn't start")

    def stop(self) -> None:
        """As if the process died: the socket is gone, open connections end."""
        if self._thread is not None and self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)
            self._thread = None

    def say(self, status: Status) -> None:
        """Something changed: all watchers hear it."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._say, status)

    def _say(self, status: Status) -> None:
        self.script = [status]
        for watcher in self._watchers:
            watcher.put_nowait(status)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        path = self.state_dir / SOCKET_NAME
        server = await asyncio.start_unix_server(self._answer, path)
        ready.set()
        await self._end.wait()
        server.close()
        path.unlink(missing_ok=True)
        for connection in self._connections:
            connection.transport.abort()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            request = json.loads(await reader.readline())
            method, params = request["method"], request["params"]
            self.asked.append((method, params))
            await self._dispatch(method, params, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _dispatch(self, method: str, params: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        async def send(kind: str, value: object) -> None:
            line = b"not json" if self.garbage else json.dumps({kind: to_builtins(value)}).encode()
            writer.write(line + b"\n")
            await writer.drain()

        if method in self.refusals:
            await send("error", error_to_wire(self.refusals[method]))
        elif method == "status":
            await send("result", self.script[-1])
        elif method == "watch":
            await self._watch(send)
        elif method == "why":
            why = self.whys.get(params["peer"])
            if why is None:
                unknown = ShadowMeshError("peer_unknown", f"no peer {params['peer']}", kind=Kind.NOT_FOUND)
                await send("error", error_to_wire(unknown))
            else:
                await send("result", why)
        elif method == "ping":
            for answer in self.pings.get(params["peer"], []):
                await send("item", answer)
            if params["peer"] in self.pings:
                await send("end", True)
            else:
                await asyncio.Event().wait()
        elif method == "network":
            names = {n.name: n.network_id for n in self.script[-1].networks}
            if params["network"] in names:
                await send("result", {"name": params["network"], "network_id": names[params["network"]]})
            else:
                what = f"no network {params['network']} here"
                remedy = f"there is {', '.join(names)}"
                unknown = ShadowMeshError("network_unknown", what, remedy, kind=Kind.NOT_FOUND)
                await send("error", error_to_wire(unknown))
        elif method in ("up", "down"):
            await send("result", {"networks": []})

    async def _watch(self, send: Any) -> None:
        news: asyncio.Queue[Status] = asyncio.Queue()
        for status in self.script:
            news.put_nowait(status)
        self.script = self.script[-1:]
        self._watchers.add(news)
        try:
            while True:
                await send("item", await news.get())
        finally:
            self._watchers.discard(news)
