"""Who is connected: the links of devices and relays. Decides who gets what; the edge owns the sockets."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from shadowmesh.model.api import RelayLoad
from shadowmesh.model.codec import to_json
from shadowmesh.model.devicelink import LinkMessage, Presence
from shadowmesh.model.ids import ClientID, NetworkRef, RelayID
from shadowmesh.model.keys import DevicePublicKey, NetworkID
from shadowmesh.model.relaylink import Load, Revocation, Revocations

FAN_OUT_TURN = 64  # sends between two turns of the event loop


def encode(message: LinkMessage) -> str:
    return to_json(message).decode()


@dataclass(slots=True, eq=False)
class DeviceLink:
    """One device's live connection. `post` queues a message and never waits; `close` ends the link."""

    device_key: DevicePublicKey
    boot_id: str
    version: str
    remote: str
    since: dt.datetime
    post: Callable[[str], None]
    close: Callable[[int, str], None]
    clients: dict[NetworkRef, ClientID] = field(default_factory=dict)
    told: dict[NetworkRef, tuple[int, int]] = field(default_factory=dict)  # order of the map that it has
    watching: dict[NetworkRef, frozenset[ClientID]] = field(default_factory=dict)
    waiting: dict[NetworkRef, ClientID] = field(default_factory=dict)  # clients that the map doesn't have yet
    greeting: bool = False  # its hello is still looked at
    ended: set[str] = field(default_factory=set)  # clients and networks that ended meanwhile
    probe: asyncio.Future[None] | None = None


@dataclass(slots=True, eq=False)
class RelayLink:
    """One relay's live connection."""

    relay_id: RelayID
    boot_id: str
    post: Callable[[str], None]
    close: Callable[[int, str], None]
    draining: bool = False  # as it was told
    networks: frozenset[NetworkID] | None = None  # of which it is told; None: of all
    load: Load | None = None
    load_at: dt.datetime | None = None

    def hears_of(self, entry: Revocation) -> bool:
        """A relay that is for some networks has nothing to know of others'."""
        return self.networks is None or entry.network_id is None or entry.network_id in self.networks

    def load_view(self) -> RelayLoad | None:
        """As it is shown."""
        of, at = self.load, self.load_at
        if of is None or at is None:
            return None
        return RelayLoad(
            at=at,
            sessions=of.sessions,
            networks=of.networks,
            forwarded_frames=of.forwarded_frames,
            forwarded_bytes=of.forwarded_bytes,
            dropped_frames=of.dropped_frames,
            cpu=of.cpu,
            overloaded=of.overloaded,
        )


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A client whose device is connected to another node, as that node told."""

    node: str
    ref: NetworkRef
    presence: Presence
    boot_id: str
    since: dt.datetime


class Hub:
    """All live links of this controller, and what other nodes told of theirs."""

    def __init__(self) -> None:
        self.devices: dict[DevicePublicKey, DeviceLink] = {}
        self.networks: dict[NetworkRef, dict[ClientID, DeviceLink]] = {}
        self.waiting: dict[NetworkRef, dict[ClientID, DeviceLink]] = {}  # for approval, or for the map to have them
        self.relays: dict[RelayID, RelayLink] = {}
        self.presence: dict[NetworkRef, dict[ClientID, Presence]] = {}  # at all nodes; kept by `service.presence`
        self.elsewhere: dict[ClientID, tuple[Elsewhere, ...]] = {}  # the newest first; kept by `service.presence`
        self.relays_elsewhere: dict[RelayID, RelayLoad | None] = {}  # kept by `service.nodes`
        self._watchers: dict[tuple[NetworkRef, ClientID], set[DeviceLink]] = {}

    def join(self, link: DeviceLink, ref: NetworkRef, client_id: ClientID) -> None:
        _take_out(self.waiting, link.waiting, link, ref)
        link.clients[ref] = client_id
        self.networks.setdefault(ref, {})[client_id] = link

    def wait(self, link: DeviceLink, ref: NetworkRef, client_id: ClientID) -> None:
        """The link follows the network once its client is in the map."""
        link.waiting[ref] = client_id
        self.waiting.setdefault(ref, {})[client_id] = link

    def part(self, link: DeviceLink, ref: NetworkRef) -> None:
        _take_out(self.networks, link.clients, link, ref)
        _take_out(self.waiting, link.waiting, link, ref)
        link.told.pop(ref, None)
        self.watch(link, ref, frozenset())
        link.watching.pop(ref, None)

    def watch(self, link: DeviceLink, ref: NetworkRef, peers: frozenset[ClientID]) -> frozenset[ClientID]:
        """The link hears of these members only; returns those that it didn't hear of before."""
        before = link.watching.get(ref, frozenset())
        link.watching[ref] = peers
        for client_id in before - peers:
            watchers = self._watchers[ref, client_id]
            watchers.discard(link)
            if not watchers:
                del self._watchers[ref, client_id]
        for client_id in peers - before:
            self._watchers.setdefault((ref, client_id), set()).add(link)
        return peers - before

    def watchers(self, ref: NetworkRef, client_id: ClientID) -> Collection[DeviceLink]:
        """Who said to talk to this member."""
        return self._watchers.get((ref, client_id), ())

    def following(self, ref: NetworkRef) -> dict[ClientID, DeviceLink]:
        """The clients of the network whose device is connected, also those that wait."""
        return self.networks.get(ref, {}) | self.waiting.get(ref, {})

    def waiting_link(self, ref: NetworkRef, client_id: ClientID) -> DeviceLink | None:
        return self.waiting.get(ref, {}).get(client_id)

    def link_of(self, ref: NetworkRef, client_id: ClientID) -> DeviceLink | None:
        return self.networks.get(ref, {}).get(client_id)

    def online(self, ref: NetworkRef) -> int:
        """How many of the network's clients are connected, to whatever node."""
        return len(self.presence.get(ref, ()))

    def is_online(self, ref: NetworkRef, client_id: ClientID) -> bool:
        return client_id in self.presence.get(ref, ())

    def relay_online(self, relay_id: RelayID) -> bool:
        return relay_id in self.relays or relay_id in self.relays_elsewhere

    def to_relays(self, message: LinkMessage) -> None:
        text = encode(message)
        for relay in self.relays.values():
            relay.post(text)

    def revoke(self, entry: Revocation) -> None:
        """Tells the relays that it concerns."""
        text = encode(Revocations(complete=False, entries=(entry,)))
        for relay in self.relays.values():
            if relay.hears_of(entry):
                relay.post(text)


def _take_out(
    table: dict[NetworkRef, dict[ClientID, DeviceLink]],
    mine: dict[NetworkRef, ClientID],
    link: DeviceLink,
    ref: NetworkRef,
) -> None:
    client_id, there = mine.pop(ref, None), table.get(ref)
    if there and client_id is not None and there.get(client_id) is link:
        del there[client_id]
        if not there:
            del table[ref]


async def fan_out(links: Iterable[tuple[DeviceLink, str]]) -> None:
    """Posts each its text, letting others have their turn in between."""
    for count, (link, text) in enumerate(links, 1):
        link.post(text)
        if count % FAN_OUT_TURN == 0:
            await asyncio.sleep(0)
