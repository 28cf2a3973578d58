"""Who is online and where: gathered for a moment, told once, to those it concerns.

In a network with up to PRESENCE_OF_ALL clients online, at whatever node, a device hears of all others; once it has said whom it talks to (`Watch`), of
these only; in a larger network it hears of nobody else. The larger the network, the longer the gathering. Telling costs
what there is to tell: who watches a member is indexed. A device that says anew whom it talks to more often than each
`watch_every` seconds is heard at the end of these; what it said last counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from shadowmesh.controller.service.events import Events
from shadowmesh.controller.service.hub import DeviceLink, Elsewhere, Hub, encode, fan_out
from shadowmesh.controller.settings import Timing
from shadowmesh.model.devicelink import PRESENCE_OF_ALL, Presence, PresenceUpdate, Report
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import NetworkID

_PART = 64


class Presences:
    """The presence of every network's members, and what of it has still to be told."""

    def __init__(
        self,
        hub: Hub,
        events: Events,
        timing: Timing,
        went: Callable[[ClientID], None],
        share: Callable[[NetworkRef, ClientID], None] = lambda ref, client_id: None,
    ) -> None:
        """`went` hears of each client that isn't online here any more; `share` of each whose presence here has changed, for other nodes."""
        self._hub = hub
        self._events = events
        self._timing = timing
        self._went = went
        self._share = share
        self._ids: dict[NetworkRef, NetworkID] = {}
        self._changed: dict[NetworkRef, set[ClientID]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: dict[tuple[NetworkRef, ClientID], asyncio.TimerHandle] = {}
        self._watches: dict[tuple[DeviceLink, NetworkRef], frozenset[ClientID] | None] = {}  # said a moment ago

    def came(self, link: DeviceLink, ref: NetworkRef, network_id: NetworkID) -> None:
        """The link is in the hub: tell others of it, and it of others."""
        client_id = link.clients[ref]
        self._ids[ref] = network_id
        board = self._hub.presence.setdefault(ref, {})
        leaving = self._leaving.pop((ref, client_id), None)
        if leaving is not None:
            leaving.cancel()
        if client_id not in board:
            self._events.publish("client_online", ref, client_id=client_id)
            board[client_id] = Presence(client_id=client_id, online=True)
            self._mark(ref, client_id)
        self._share(ref, client_id)
        if len(board) <= PRESENCE_OF_ALL:
            self._tell(link, ref, [p for c, p in board.items() if c != client_id])

    def went(self, ref: NetworkRef, client_id: ClientID, *, at_once: bool) -> None:
        """The link is out of the hub. It may come back within a few seconds, and nobody noticed."""
        if at_once:
            self._gone(ref, client_id)
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._timing.offline_after, self._gone, ref, client_id)
        old = self._leaving.pop((ref, client_id), None)
        if old is not None:
            old.cancel()
        self._leaving[ref, client_id] = timer

    def _gone(self, ref: NetworkRef, client_id: ClientID) -> None:
        timer = self._leaving.pop((ref, client_id), None)
        if timer is not None:
            timer.cancel()
        there = self._hub.elsewhere.get(client_id)
        if there:
            self._set(ref, there[0].presence)  # it has moved to another node
        elif self._hub.presence.get(ref, {}).pop(client_id, None) is None:
            return
        else:
            self._mark(ref, client_id)
            self._events.publish("client_offline", ref, client_id=client_id)
        self._share(ref, client_id)
        self._went(client_id)

    # other nodes

    def here(self, ref: NetworkRef, client_id: ClientID) -> Presence | None:
        """How a client is that is connected to this node, or was a moment ago."""
        if self._hub.link_of(ref, client_id) is None and (ref, client_id) not in self._leaving:
            return None
        return self._hub.presence.get(ref, {}).get(client_id)

    def came_elsewhere(self, client_id: ClientID, there: Elsewhere) -> None:
        """Another node has this client. One whose link just broke here has moved there, and nobody noticed."""
        known = [e for e in self._hub.elsewhere.get(client_id, ()) if e.node != there.node]
        found = tuple(sorted((*known, there), key=lambda e: e.since, reverse=True))
        self._hub.elsewhere[client_id] = found
        leaving = self._leaving.get((there.ref, client_id))
        if leaving is not None:
            self._gone(there.ref, client_id)
        elif self._hub.link_of(there.ref, client_id) is None:
            self._set(there.ref, found[0].presence)

    def went_elsewhere(self, client_id: ClientID, node: str) -> None:
        """That node has it no more: it is offline, unless it is here or at a third one."""
        known = self._hub.elsewhere.pop(client_id, ())
        left = tuple(e for e in known if e.node != node)
        if left:
            self._hub.elsewhere[client_id] = left
        if left == known or self.here(known[0].ref, client_id) is not None:
            return
        if left:
            self._set(left[0].ref, left[0].presence)
        elif self._hub.presence.get(known[0].ref, {}).pop(client_id, None) is not None:
            self._mark(known[0].ref, client_id)

    # reports

    def report(self, link: DeviceLink, ref: NetworkRef, report: Report) -> None:
        presence = Presence(
            client_id=link.clients[ref],
            online=True,
            home=report.home,
            standby=report.standby,
            endpoints=report.endpoints,
        )
        if self._set(ref, presence):
            self._share(ref, presence.client_id)

    def watch(self, link: DeviceLink, ref: NetworkRef, peers: Iterable[ClientID]) -> None:
        """The link hears of these from now on, and at once how the new ones are."""
        if (link, ref) in self._watches:
            self._watches[link, ref] = frozenset(peers)
            return
        added = self._hub.watch(link, ref, frozenset(peers))
        board = self._hub.presence.get(ref, {})
        self._tell(link, ref, [board.get(c) or Presence(client_id=c, online=False) for c in sorted(added)])
        self._watches[link, ref] = None
        asyncio.get_running_loop().call_later(self._timing.watch_every, self._watch_again, link, ref)

    def _watch_again(self, link: DeviceLink, ref: NetworkRef) -> None:
        peers = self._watches.pop((link, ref))
        if peers is not None and ref in link.clients:
            self.watch(link, ref, peers)

    def forget(self, ref: NetworkRef) -> None:
        """The network is no more."""
        for client_id in self._hub.presence.pop(ref, {}):
            self._hub.elsewhere.pop(client_id, None)
            self._went(client_id)
        self._changed.pop(ref, None)
        for key in [key for key in self._leaving if key[0] == ref]:
            self._leaving.pop(key).cancel()

    def _set(self, ref: NetworkRef, presence: Presence) -> bool:
        """Whether it is another than before."""
        board = self._hub.presence.setdefault(ref, {})
        changed = board.get(presence.client_id) != presence
        if changed:
            board[presence.client_id] = presence
            self._mark(ref, presence.client_id)
        return changed

    def _mark(self, ref: NetworkRef, client_id: ClientID) -> None:
        if ref in self._changed:
            self._changed[ref].add(client_id)
            return
        self._changed[ref] = {client_id}
        task = asyncio.get_running_loop().create_task(self._flush(ref))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self, ref: NetworkRef) -> None:
        gather = self._timing.presence_gather + self._hub.online(ref) * self._timing.presence_gather_per_link
        await asyncio.sleep(gather)
        changed = self._changed.pop(ref, set())
        board = self._hub.presence.get(ref, {})
        news = [board.get(c) or Presence(client_id=c, online=False) for c in sorted(changed)]
        watched: dict[DeviceLink, list[Presence]] = {}
        for presence in news:
            for link in self._hub.watchers(ref, presence.client_id):
                watched.setdefault(link, []).append(presence)
        await fan_out((link, self._text(ref, mine)) for link, mine in watched.items() if ref in link.clients)
        links = list(self._hub.networks.get(ref, {}).values())
        if links and len(board) <= PRESENCE_OF_ALL:
            shared = self._text(ref, news)
            await fan_out((link, shared) for link in links if ref in link.clients and ref not in link.watching)

    def _text(self, ref: NetworkRef, changes: Iterable[Presence]) -> str:
        return encode(PresenceUpdate(network_id=self._ids[ref], changes=tuple(changes)))

    def _tell(self, link: DeviceLink, ref: NetworkRef, changes: list[Presence]) -> None:
        # In parts: OpenSSL keeps, for as long as a connection lasts, a buffer as large as the largest message.
        for start in range(0, len(changes), _PART):
            link.post(self._text(ref, changes[start : start + _PART]))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for timer in self._leaving.values():
            timer.cancel()
