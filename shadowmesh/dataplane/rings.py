"""Events on their way up: what the engine must not miss, and one bounded ring per kind of datagram."""

from __future__ import annotations

from collections import OrderedDict, deque

from shadowmesh.model.pump import RING_SIZES, UNCLAIMED_RING, Datagram, DatagramKind, Event, Lost, Unclaimed

UNCLAIMED_PLACES = 1024  # remembered, so that each is told of once a second; the oldest makes room


class EventRings:
    """A flood of one kind fills that kind's ring only; what finds it full is counted and told as `Lost`."""

    def __init__(self) -> None:
        self._notices: deque[Event] = deque()  # bounded by what causes them: peers, descriptors, one a second per path
        self._rings: dict[DatagramKind, deque[Datagram]] = {kind: deque() for kind in DatagramKind}
        self._lost = dict.fromkeys(DatagramKind, 0)
        self._overflowed = False
        self._unclaimed: deque[Unclaimed] = deque()
        self._unclaimed_at: OrderedDict[object, float] = OrderedDict()
        self.waiting = False  # whether `drain` has something

    def notice(self, event: Event) -> None:
        self.waiting = True
        self._notices.append(event)

    def datagram(self, event: Datagram) -> None:
        self.waiting = True
        ring = self._rings[event.kind]
        if len(ring) < RING_SIZES[event.kind]:
            ring.append(event)
        else:
            self._lost[event.kind] += 1
            self._overflowed = True

    def unclaimed(self, event: Unclaimed) -> None:
        """What finds the ring full is dropped: who sent it will send again."""
        places, path = self._unclaimed_at, event.path
        place = (path.via, path.remote, path.prefix)
        if len(self._unclaimed) >= UNCLAIMED_RING or event.at - places.get(place, -1.0) < 1.0:
            return
        places.pop(place, None)
        if len(places) >= UNCLAIMED_PLACES:
            places.popitem(last=False)
        places[place] = event.at
        self.waiting = True
        self._unclaimed.append(event)

    def drain(self, limit: int, now: float) -> list[Event]:
        """Up to `limit` events: notices first, then the kinds in turn, oldest first within each, unclaimed packets last."""
        events: list[Event] = []
        notices = self._notices
        while notices and len(events) < limit:
            events.append(notices.popleft())
        if self._overflowed:
            for kind in DatagramKind:
                if self._lost[kind] and len(events) < limit:
                    events.append(Lost(now, kind, self._lost[kind]))
                    self._lost[kind] = 0
            self._overflowed = any(self._lost.values())
        waiting = [ring for ring in self._rings.values() if ring]
        while waiting and len(events) < limit:
            for ring in waiting:
                if len(events) < limit:
                    events.append(ring.popleft())
            waiting = [ring for ring in waiting if ring]
        while self._unclaimed and len(events) < limit:
            events.append(self._unclaimed.popleft())
        self.waiting = bool(self._notices or waiting or self._overflowed or self._unclaimed)
        return events
