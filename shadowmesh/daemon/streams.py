"""WebSockets to relays where UDP doesn't get through: opened as the Node asks, each with its end in the pump."""

from __future__ import annotations

import asyncio

import structlog

from shadowmesh.client_api.dialing import Connect
from shadowmesh.daemon.mesh import Mesh
from shadowmesh.daemon.world import World
from shadowmesh.engine import NeedStream
from shadowmesh.model.ids import RelayID
from shadowmesh.model.pump import AddStream, RemoveStream, Slot

log = structlog.get_logger(__name__)


class Streams:
    """At most one per relay."""

    def __init__(self, world: World, mesh: Mesh, connect: Connect) -> None:
        self._world = world
        self._connect = connect
        self._mesh = mesh
        self._tasks: dict[RelayID, asyncio.Task[None]] = {}
        self._slots: dict[Slot, RelayID] = {}

    def open(self, need: NeedStream) -> None:
        """Without effect while one to this relay is open, or being opened."""
        if need.relay_id not in self._tasks:
            task = asyncio.create_task(self._carry(need), name=f"stream to relay {need.relay_id}")
            self._tasks[need.relay_id] = task
            task.add_done_callback(lambda ended: self._ended(need.relay_id, ended))

    def _ended(self, relay_id: RelayID, task: asyncio.Task[None]) -> None:
        if self._tasks.get(relay_id) is task:
            del self._tasks[relay_id]

    def close(self, slot: Slot) -> None:
        """The Node has done with it."""
        relay_id = self._slots.pop(slot, None)
        if relay_id is not None:
            self._mesh.apply(RemoveStream(slot))
            self._tasks.pop(relay_id).cancel()

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
        stream = self._world.stream(need.url, self._connect)
        try:
            fd = await stream.open()
        except OSError as e:
            log.warning("relay stream failed", relay=need.relay_id, why=str(e))
            return
        slot = self._mesh.new_slot()
        self._slots[slot] = need.relay_id
        self._mesh.apply(AddStream(slot, fd))
        self._mesh.node.add_stream(slot, need.relay_id, self._world.clock())
        self._mesh.poke()
        try:
            await stream.run()
        finally:
            if self._slots.pop(slot, None) is not None:  # it ended by itself
                self._mesh.node.remove_stream(slot, self._world.clock())
                self._mesh.apply(RemoveStream(slot))
                self._mesh.poke()
