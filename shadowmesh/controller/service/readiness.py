"""Whether this controller can do its work: its database can be written, and its disk has room."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from shadowmesh.controller.service.context import ServiceContext
from shadowmesh.controller.store import schema
from shadowmesh.model.errors import ShadowMeshError

log = structlog.get_logger("shadowmesh.controller")

_FRESH = 5.0  # seconds: however often it is asked, it writes no more often
_PATIENCE = 5.0
_ROOM = 8 * 1024 * 1024
_ROW = "readiness"


class Readiness:
    """Asked by load balancers, and by anyone: so it says yes or no, and the log says why. `drained` is asked whether this
    node is to get nothing more."""

    def __init__(self, context: ServiceContext, drained: Callable[[], bool] = lambda: False) -> None:
        self._drained = drained
        self._context = context
        self._turn = asyncio.Lock()
        self._known_at = float("-inf")
        self._why = ""

    async def ready(self) -> bool:
        if self._drained():
            return False
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if now - self._known_at >= _FRESH:
                why = await self._look()
                if why != self._why:
                    log.warning("not ready", why=why) if why else log.info("ready again")
                self._known_at, self._why = asyncio.get_running_loop().time(), why
        return not self._why

    async def _look(self) -> str:
        """Why not, empty if it is."""
        url = self._context.store.engine.url
        try:
            async with asyncio.timeout(_PATIENCE):
                if url.get_backend_name() == "sqlite" and url.database:
                    room = await asyncio.to_thread(_room, Path(url.database).parent)
                    if room < _ROOM:
                        return f"the disk has {room // 1024} KiB left"
                await self._context.write(self._write)
        except TimeoutError:
            return "the database doesn't answer"
        except (ShadowMeshError, OSError, sa.exc.SQLAlchemyError) as e:
            return str(e)
        return ""

    def _write(self, conn: Connection) -> None:
        m, now = schema.meta, self._context.now().isoformat()
        if conn.execute(m.update().where(m.c.key == _ROW).values(value=now)).rowcount == 0:
            conn.execute(m.insert().values(key=_ROW, value=now))


def _room(directory: Path) -> int:
    """Bytes that who runs this may still write there."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
