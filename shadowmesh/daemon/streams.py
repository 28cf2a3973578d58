"""WebSockets to relays where UDP doesn't get through: opened as the Node asks, each with its end in the pump."""

from __future__ import annotations

import asyncio

import structlog

from shadowmesh.client_api.dialing import Connect
from shadowmesh.daemon.environment import Environment
from shadowmesh.daemon.mesh import Mesh
from shadowmesh.engine import NeedStream
from shadowmesh.engine.surroundings import StreamKey, stream_key
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.pump import AddStream, RemoveStream, Slot

log = structlog.get_logger(__name__)


class Streams:
    """At most one per relay."""

    def __init__(self, environment: Environment, mesh: Mesh, connect: Connect) -> None:
        self._environment = environment
        self._connect = connect
        self._mesh = mesh
        self._tasks: dict[StreamKey, asyncio.Task[None]] = {}
        self._slots: dict[Slot, StreamKey] = {}

    def open(self, need: NeedStream) -> None:
        """Without effect while one to this relay is open, or being opened."""
        key = stream_key(need.relay)
        if key not in self._tasks:
            task = asyncio.create_task(self._carry(need), name=f"stream to relay {need.relay.relay_id}")
            self._tasks[key] = task
            task.add_done_callback(lambda ended: self._ended(key, ended))

    def _ended(self, key: StreamKey, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    def close(self, slot: Slot) -> None:
        """The Node has done with it."""
        key = self._slots.pop(slot, None)
        if key is not None:
            self._mesh.apply(RemoveStream(slot))
            self._tasks.pop(key).cancel()

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        self.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """The pump has gone, and their ends with it."""
        self._slots.clear()
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _carry(self, need: NeedStream) -> None:
        stream = self._environment.stream(need.url, self._connect)
        try:
            fd = await stream.open()
        except (OSError, ShadowMeshError) as e:
            log.warning("relay stream failed", relay=need.relay.relay_id, why=str(e))
            return
        slot = self._mesh.new_slot()
        self._slots[slot] = stream_key(need.relay)
        self._mesh.apply(AddStream(slot, fd))
        self._mesh.node.add_stream(slot, need.relay, self._environment.clock())
        self._mesh.poke()
        try:
            await stream.run()
        finally:
            if self._slots.pop(slot, None) is not None:  # it ended by itself
                self._mesh.node.remove_stream(slot, self._environment.clock())
                self._mesh.apply(RemoveStream(slot))
                self._mesh.poke()
