"""A controller that is being looked at: where it is, what is known of it, and how it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shadowmesh.client_api.offloop import ControllerCalls
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.console.follower import ControllerFollower, Pace
from shadowmesh_tui.console.rows import ClientRow, client_rows
from shadowmesh_tui.console.state import Console, Wants
from shadowmesh_tui.console.table import Order

T = TypeVar("T")


@dataclass(slots=True)
class Looking:
    """How the lists are looked at: each by the name of its screen."""

    orders: dict[str, Order] = field(default_factory=dict)
    needles: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Fetched(Generic[T]):
    """What a screen has read for itself: `value` as it was the last time that it could be; `error`: why it couldn't be since."""

    value: T | None = None
    error: ShadowMeshError | None = None
    revision: int = 0

    def take(self, value: T) -> None:
        self.value, self.error = value, None
        self.revision += 1


class Desk:
    """What the screens of a controller share."""

    def __init__(self, context: Context, clock: Callable[[], Now], changed: Callable[[], None], pace: Pace) -> None:
        self.context = context
        self.console = Console()
        self.looking = Looking()
        self.fetched: dict[str, Fetched[Any]] = {}  # by what it is
        self._clock = clock
        self.calls = ControllerCalls(context.open)
        self.follower = ControllerFollower(self.calls, self.console, self.now, changed, pace)
        self._rows: tuple[tuple[object, ...], list[ClientRow]] = ((), [])

    def now(self) -> float:
        """Seconds of a clock that goes on in sleep."""
        return self._clock().boot

    def wall(self) -> float:
        """Unix time."""
        return self._clock().wall

    async def call(self, function: Callable[[ControllerClient], T]) -> T:
        """Off the loop. Raises ShadowMeshError."""
        return await self.follower.call(function)

    def want(self, wants: Wants) -> None:
        self.follower.want(wants)

    def order(self, screen: str) -> Order:
        return self.looking.orders.get(screen, Order())

    def needle(self, screen: str) -> str:
        return self.looking.needles.get(screen, "")

    def rows(self) -> list[ClientRow]:
        """The chosen network's clients as the dashboard has them; the same list until something changes."""
        console, network = self.console, self.console.network
        order, needle = self.order("clients"), self.needle("clients")
        mark = (console.revision, network and network.network_id, order, needle, len(console.marked))
        if mark != self._rows[0]:
            clients = [] if network is None else list(console.clients.get(network.network_id, {}).values())
            self._rows = mark, client_rows(clients, console.series, console.marked, needle, order)
        return self._rows[1]

    def mark(self, client_id: str) -> None:
        """Marks it for an action, or takes the mark away."""
        self.console.marked ^= {client_id}
        self.console.revision += 1

    def close(self) -> None:
        self.calls.close()
