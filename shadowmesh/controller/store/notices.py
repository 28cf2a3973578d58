"""What one controller tells the others on its database: PostgreSQL's NOTIFY, told as its transaction commits.

A notice says only that something is new; what it is stands in the database. So one that is lost costs time, nothing else:
what is told is looked at now and then all the same. On SQLite there is nobody to tell.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import URL, Connection, Engine

log = structlog.get_logger("shadowmesh.controller")

PREFIX = "shadowmesh "  # of the name under which a node is known to the database
LONGEST = 7000  # bytes of an argument: PostgreSQL takes 8,000 in all
_CHANNEL = "shadowmesh"
_NOTIFY = sa.text("SELECT pg_notify(:channel, current_setting('application_name') || :rest)")
_RETRY = 1.0
_ALIVE = 15.0  # so often the connection is asked whether it lives
_ANSWER = 10.0
# libpq: a server that lost its power is given up after some ten seconds, not after TCP's quarter of an hour
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def new_node_id() -> str:
    return f"nod_{secrets.token_hex(8)}"


def patience(url: URL) -> dict[str, Any]:
    """Options of a connection that bound how long a silent server is waited for, where the URL doesn't say."""
    return {name: value for name, value in _PATIENCE.items() if name not in url.query}


def tell(conn: Connection, topic: str, argument: str = "") -> None:
    """To all other nodes, once this transaction is committed. `topic`: one word; `argument`: at most LONGEST bytes."""
    if conn.dialect.name == "postgresql":
        conn.execute(_NOTIFY, {"channel": _CHANNEL, "rest": f" {topic} {argument}"})


@dataclass(frozen=True, slots=True)
class Notice:
    node: str
    topic: str
    argument: str


class Notices:
    """Listens on a connection of its own, and makes a new one whenever it breaks."""

    def __init__(
        self, engine: Engine, node: str, heard: Callable[[Notice], None], ready: Callable[[], Awaitable[object]]
    ) -> None:
        """`heard` is called with what others told. `ready`: listening from now on; what happened before is to be looked up."""
        self._engine = engine
        self._node = node
        self._heard = heard
        self._ready = ready
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._listen()
            except Exception as e:
                if self.listening.is_set():
                    log.error("other controllers aren't heard at once now: they are asked each second", why=str(e))
            self.listening.clear()
            await asyncio.sleep(_RETRY)

    async def _listen(self) -> None:
        import psycopg

        _, options = self._engine.dialect.create_connect_args(self._engine.url)
        options = {**options, **patience(self._engine.url), "application_name": f"{PREFIX}{self._node}"}
        async with await psycopg.AsyncConnection.connect(**options, autocommit=True) as connection:
            await connection.execute(f"LISTEN {_CHANNEL}")
            self.listening.set()
            await self._ready()
            while True:
                async for notify in connection.notifies(timeout=_ALIVE):
                    notice = read(notify.payload)
                    if notice is not None and notice.node != self._node:
                        self._heard(notice)
                async with asyncio.timeout(_ANSWER):  # a server may go away without a word
                    await connection.execute("SELECT 1")


def read(payload: str) -> Notice | None:
    """None for what no controller told."""
    if not payload.startswith(PREFIX):
        return None
    node, _, rest = payload.removeprefix(PREFIX).partition(" ")
    topic, _, argument = rest.partition(" ")
    return Notice(node, topic, argument)
