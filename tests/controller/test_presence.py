"""Presence in a large network: told to those it concerns, at a cost that doesn't grow with the others."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from shadowmesh.controller.service.hub import DeviceLink, Hub
from shadowmesh.controller.service.presence import Presences
from shadowmesh.controller.settings import Timing
from shadowmesh.model.codec import from_json
from shadowmesh.model.devicelink import PRESENCE_OF_ALL, Presence, PresenceUpdate, Report
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID

REF, NETWORK = NetworkRef("net_x"), NetworkID(bytes(32))
FAST = Timing(presence_gather=0.01, presence_gather_per_link=0.0, watch_every=0.05, offline_after=0.01)


class NoEvents:
    def publish(self, *_: object, **__: object) -> None: ...


@dataclass
class Crowd:
    """A network with as many links as are asked for."""

    hub: Hub = field(default_factory=Hub)
    links: list[DeviceLink] = field(default_factory=list)
    told: dict[ClientID, list[Presence]] = field(default_factory=dict)
    messages: int = 0

    def __post_init__(self) -> None:
        self.presences = Presences(self.hub, NoEvents(), FAST, lambda _: None)  # type: ignore[arg-type]

    def come(self, number: int) -> None:
        for _ in range(number):
            index = len(self.links)
            client_id = ClientID(f"cli_{index:05}")
            self.told[client_id] = []
            link = DeviceLink(
                device_key=DevicePublicKey(index.to_bytes(32)),
                boot_id="b",
                version="",
                remote="",
                since=dt.datetime.now(dt.UTC),
                post=lambda text, client_id=client_id: self.hear(client_id, text),
                close=lambda *_: None,
            )
            self.links.append(link)
            self.hub.join(link, REF, client_id)
            self.presences.came(link, REF, NETWORK)

    def hear(self, client_id: ClientID, text: str) -> None:
        self.messages += 1
        self.told[client_id] += from_json(text, PresenceUpdate).changes

    async def settled(self) -> None:
        """All that was gathered has been told."""
        while self.presences._tasks:
            await asyncio.gather(*self.presences._tasks)

    def report(self, index: int, home: str) -> None:
        self.presences.report(self.links[index], REF, Report(network_id=NETWORK, home=RelayID(home)))


def client(index: int) -> ClientID:
    return ClientID(f"cli_{index:05}")


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    found = Crowd()
    yield found
    found.presences.close()


async def test_beyond_the_limit_only_who_watches_is_told(crowd: Crowd) -> None:
    crowd.come(PRESENCE_OF_ALL + 100)
    await crowd.settled()
    crowd.messages = 0
    crowd.presences.watch(crowd.links[0], REF, [client(7), client(8), ClientID("cli_nobody")])
    assert {p.client_id: p.online for p in crowd.told[client(0)]}.items() >= {client(7): True, client(8): True}.items()
    assert not crowd.told[client(0)][-1].online, "who isn't there is told of as such"
    for index in range(5, 15):
        crowd.report(index, "rly_new")
    await crowd.settled()
    assert [(p.client_id, p.home) for p in crowd.told[client(0)][3:]] == [
        (client(7), "rly_new"),
        (client(8), "rly_new"),
    ]
    assert crowd.messages == 2, "one at once, one for what was gathered; to nobody else"


async def test_up_to_the_limit_all_hear_of_all_but_who_chose(crowd: Crowd) -> None:
    crowd.come(20)
    await crowd.settled()
    crowd.presences.watch(crowd.links[0], REF, [client(1)])
    for heard in crowd.told.values():
        heard.clear()
    crowd.report(1, "rly_one")
    crowd.report(2, "rly_two")
    await crowd.settled()
    assert [p.client_id for p in crowd.told[client(0)]] == [client(1)]
    assert all([p.client_id for p in crowd.told[client(n)]] == [client(1), client(2)] for n in range(3, 20))


async def test_a_storm_of_watches_is_heard_once_a_moment_and_the_last_counts(crowd: Crowd) -> None:
    crowd.come(PRESENCE_OF_ALL + 1)
    await crowd.settled()
    crowd.messages = 0
    for n in range(1000):
        crowd.presences.watch(crowd.links[0], REF, [client(1 + n % 400)])
    assert crowd.messages == 1
    await asyncio.sleep(2 * FAST.watch_every)
    assert crowd.messages == 2
    assert crowd.hub.watchers(REF, client(1 + 999 % 400)) == {crowd.links[0]}
    assert not crowd.hub.watchers(REF, client(1))


async def test_who_parts_watches_nobody(crowd: Crowd) -> None:
    crowd.come(3)
    crowd.presences.watch(crowd.links[0], REF, [client(1), client(2)])
    crowd.presences.watch(crowd.links[0], REF, [client(2)])  # heard in a moment: too late
    crowd.hub.part(crowd.links[0], REF)
    await asyncio.sleep(2 * FAST.watch_every)
    assert not crowd.hub._watchers and not crowd.presences._watches
