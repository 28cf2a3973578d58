"""Keeps what is known of a controller true: reads it, hears what changes, and reads it anew after a lost connection.

First the events are subscribed to, then everything is read: so nothing is missed in between. What an event doesn't tell is read
once for all that came within a moment. Figures (latencies, rates) no event tells: they are read again every few seconds, more
seldom the longer that takes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar

from shadowmesh.client_api.eventstream import Subscribed, watch
from shadowmesh.client_api.offloop import ControllerCalls
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.accounts import WhoAmI
from shadowmesh.model.api import Event, Network, Permission, Relay
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.console.safe import visible
from shadowmesh_tui.console.state import MOST_EVENTS, Console, Wants
from shadowmesh_tui.console.used import UsedOf, read_used

T = TypeVar("T")

MANY = 20  # clients of one network that changed at once: then all are read


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `share`: reading figures takes at most one part in so many of the time."""

    gather: float = 0.1
    figures: float = 5.0
    share: float = 20.0
    all_again: float = 60.0
    first_wait: float = 1.0
    longest_wait: float = 30.0


def waits(failures: int, pace: Pace, chance: float) -> float:
    """How long to wait after so many failures in a row (1 is the first); `chance` is from 0 to 1."""
    whole = min(pace.longest_wait, pace.first_wait * 2.0 ** min(failures - 1, 16))
    return whole * (0.5 + chance / 2)


def read_all(client: ControllerClient) -> tuple[WhoAmI, list[Network], list[Relay]]:
    who = client.whoami()
    if who.second_factor_missing:
        raise ShadowMeshError(
            "mfa_required",
            f"{who.name}'s role asks for a second factor",
            "set it up with `shadowmesh user mfa enrol`, before all else",
            kind=Kind.NOT_ALLOWED,
        )
    return who, client.network_list(), client.relay_list()


class ControllerFollower:
    """`run` goes on until it is cancelled; it calls `changed` whenever something did. `now`: seconds of a clock that goes on in sleep."""

    def __init__(
        self,
        calls: ControllerCalls,
        console: Console,
        now: Callable[[], float],
        changed: Callable[[], None],
        pace: Pace = Pace(),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._calls = calls
        self._console = console
        self._now = now
        self._changed = changed
        self._pace = pace
        self._chance = chance
        self._wants = Wants()
        self._wanted = asyncio.Event()
        self._again = asyncio.Event()
        self._held: list[Event] | None = None  # what happened while something was read
        self.looking = False  # somebody looks at the figures
        self.besides: Callable[[Console], Wants] = lambda _console: Wants()  # figures that the screen shows besides
        self.connected = False

    async def call(self, function: Callable[[ControllerClient], T]) -> T:
        """Off the loop; what comes back is safe to show. Raises ShadowMeshError."""
        return await self._calls(lambda client: visible(function(client)))

    def want(self, wants: Wants) -> None:
        """Has it read soon."""
        self._wants.add(wants)
        self._wanted.set()

    def try_again(self) -> None:
        """Now, rather than after the wait."""
        self._again.set()

    # the connection

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                await self._followed()
            except ShadowMeshError as e:
                failures = 1 if self.connected else failures + 1
                wait = waits(failures, self._pace, self._chance())
                self._console.lose(e, self._now(), self._now() + wait)
            self.connected = False
            self._changed()
            self._again.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), wait)

    async def _followed(self) -> None:
        """Until the connection is lost. Raises ShadowMeshError."""
        watching = await self._calls(lambda _client: self._calls.opens())
        try:
            told = watch(watching, off_loop=lambda function: self._calls(lambda _client: function()))
            async with aclosing(told):
                first = await anext(told)  # from here on nothing is missed
                listening = asyncio.create_task(self._listen(told))
                reading = asyncio.create_task(self._read_and_go_on(first.seq))
                try:
                    await asyncio.wait((listening, reading), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    ended = [task.done() for task in (listening, reading)]
                    for task in (listening, reading):
                        task.cancel()
                    results = await asyncio.gather(listening, reading, return_exceptions=True)
        finally:
            watching.close()
        for done, result in zip(ended, results, strict=True):
            if done and isinstance(result, BaseException):
                raise result

    async def _listen(self, told: AsyncIterator[Subscribed | Event]) -> None:
        async for event in told:
            if not isinstance(event, Event):
                continue
            if self._held is not None:
                self._held.append(event)
            else:
                self._apply(event)

    def _apply(self, event: Event) -> None:
        wants = self._console.apply(visible(event))
        self._changed()
        if wants:
            self.want(wants)

    async def _read_and_go_on(self, number: int) -> None:
        """`number`: of the newest event that isn't told."""
        self._wants = Wants()
        await self._read(Wants(everything=True))
        await self._read_events(number)
        self.connected = True
        if self.looking:
            self.want(self.besides(self._console))
        everything_at, figures_at = self._now() + self._pace.all_again, self._now() + self._pace.figures
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._pace.figures / 5)
            if self._wanted.is_set():
                await asyncio.sleep(self._pace.gather)
            began = self._now()
            wants, self._wants = self._wants, Wants()
            self._wanted.clear()
            network = self._console.network
            if began >= everything_at:
                wants.everything = True
            if self.looking and (began >= figures_at or wants.everything):
                wants.add(self.besides(self._console))
            if (
                self.looking
                and network is not None
                and (began >= figures_at or network.network_id not in self._console.clients)
            ):
                wants.lists.add(network.network_id)
            if not wants:
                continue
            await self._read(wants)
            ended = self._now()
            if wants.everything:
                everything_at = ended + self._pace.all_again
            if wants.lists or wants.everything:
                figures_at = ended + max(self._pace.figures, self._pace.share * (ended - began))

    # reading

    async def _read(self, wants: Wants) -> None:
        """What happens meanwhile is taken in afterwards: it is newer than what was read, or in it already."""
        self._held = []
        try:
            if wants.everything:
                await self._read_everything()
            else:
                await self._read_parts(wants)
            await self._read_views(wants)
        finally:
            held, self._held = self._held, None
            for event in held:
                self._apply(event)
        self._changed()

    async def _read_everything(self) -> None:
        console = self._console
        who, networks, relays = await self.call(read_all)
        console.take_all(who, networks, relays, self._now())
        self._changed()
        chosen = console.network
        if chosen is not None and self.looking:
            await self._read_list(chosen.network_id)
        for network_id in console.clients.keys() - {"" if chosen is None else chosen.network_id}:
            console.clients.pop(network_id)  # as old as the last look at it
        await self._read_waiting([n.network_id for n in networks if n.pending or n.network_id in console.waiting])

    async def _read_events(self, number: int) -> None:
        """What happened last, or since the connection was lost: to be shown; what came of it has been read."""
        known = self._console.events[-1].seq if self._console.events else 0
        since = max(known, number - MOST_EVENTS)
        if known < number and self._console.may_anywhere(Permission.LOGS_VIEW):
            found = await self.call(lambda client: client.events(since))
            self._console.remember(event for event in found if event.seq <= number)
            self._changed()

    async def _read_waiting(self, network_ids: Iterable[str]) -> None:
        for network_id in network_ids:
            if network_id not in self._console.clients and self._console.may(Permission.NETWORK_INVITE, network_id):
                await self._of_network(network_id, lambda c, n=network_id: self._waiting(c, n))  # type: ignore[misc]

    def _waiting(self, client: ControllerClient, network_id: str) -> Callable[[], None]:
        found = visible(client.client_list(network_id, "pending"))
        return lambda: self._console.take_waiting(network_id, found)

    async def _read_list(self, network_id: str) -> None:
        def read(client: ControllerClient) -> Callable[[], None]:
            found = visible(client.client_list(network_id))
            return lambda: self._console.take_clients(network_id, found, self._now())

        await self._of_network(network_id, read)

    async def _of_network(self, network_id: str, read: Callable[[ControllerClient], Callable[[], None]]) -> None:
        """A network that isn't there any more, or not for them, is no failure."""
        try:
            take = await self._calls(read)
        except ShadowMeshError as e:
            if e.kind is Kind.NOT_FOUND:
                self._console.drop_network(network_id)
            elif e.kind is not Kind.NOT_ALLOWED or e.code == "not_signed_in":
                raise
            return
        if network_id in self._console.networks:
            take()

    async def _read_parts(self, wants: Wants) -> None:
        console = self._console
        if wants.relays:
            relays = await self.call(lambda client: client.relay_list())
            console.take_relays(relays)
        if len(wants.networks) > MANY:
            networks = await self.call(lambda client: client.network_list())
            for network in networks:
                console.take_network(network)
        else:
            for network_id in wants.networks:
                await self._read_network(network_id)
        for network_id in wants.lists & console.networks.keys():
            await self._read_list(network_id)
        await self._read_waiting(wants.waiting & console.networks.keys())
        by_network: dict[str, list[str]] = {}
        for network_id, client_id in wants.clients:
            if network_id in console.networks and network_id not in wants.lists:
                by_network.setdefault(network_id, []).append(client_id)
        for network_id, client_ids in by_network.items():
            if len(client_ids) <= MANY:
                for client_id in client_ids:
                    await self._read_client(network_id, client_id)
            elif network_id in console.clients:
                await self._read_list(network_id)
            else:
                await self._read_waiting([network_id])

    async def _read_views(self, wants: Wants) -> None:
        """What single screens show."""
        console = self._console
        if wants.everything and console.used_shown is not None:
            wants.usages.add(console.used_shown)
        for network_id in wants.topologies & console.networks.keys():
            await self._of_network(network_id, lambda c, n=network_id: self._topology(c, n))  # type: ignore[misc]
        for of in wants.usages:
            if of.network_id is None or of.network_id in console.networks:
                await self._read_used(of)

    def _topology(self, client: ControllerClient, network_id: str) -> Callable[[], None]:
        found = visible(client.topology(network_id))
        return lambda: self._console.take_topology(found)

    async def _read_used(self, of: UsedOf) -> None:
        """A network that isn't there any more, or a role that doesn't allow it, is no failure."""
        try:
            found = await self.call(lambda client: read_used(client, of))
        except ShadowMeshError as e:
            if e.kind not in (Kind.NOT_FOUND, Kind.NOT_ALLOWED) or e.code == "not_signed_in":
                raise
        else:
            self._console.take_used(of, found)

    async def _read_network(self, network_id: str) -> None:
        try:
            network = await self.call(lambda client: client.network_show(network_id))
        except ShadowMeshError as e:
            if e.kind is not Kind.NOT_FOUND and (e.kind is not Kind.NOT_ALLOWED or e.code == "not_signed_in"):
                raise
            self._console.drop_network(network_id)
        else:
            self._console.take_network(network)

    async def _read_client(self, network_id: str, client_id: str) -> None:
        try:
            found = await self.call(lambda client: client.client_show(network_id, client_id))
        except ShadowMeshError as e:
            if e.kind is not Kind.NOT_FOUND and (e.kind is not Kind.NOT_ALLOWED or e.code == "not_signed_in"):
                raise
            self._console.drop_client(network_id, client_id)
        else:
            self._console.take_client(found, self._now())
