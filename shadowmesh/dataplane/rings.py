"""Events on their way up: what the engine must not miss, and one bounded ring per kind of datagram."""

from __future__ import annotations

from collections import deque

from shadowmesh.model.pump import RING_SIZES, Datagram, Event, Kind, Lost


class EventRings:
    """A flood of one kind fills that kind's ring only; what finds it full is counted and told as `Lost`."""

    def __init__(self) -> None:
        self._notices: deque[Event] = deque()  # bounded by what causes them: peers, descriptors, one a second per path
        self._rings: dict[Kind, deque[Datagram]] = {kind: deque() for kind in Kind}
        self._lost = dict.fromkeys(Kind, 0)
        self._overflowed = False
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

    def drain(self, limit: int, now: float) -> list[Event]:
        """Up to `limit` events: notices first, then the kinds in turn, oldest first within each."""
        events: list[Event] = []
        notices = self._notices
        while notices and len(events) < limit:
            events.append(notices.popleft())
        if self._overflowed:
            for kind in Kind:
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
        self.waiting = bool(self._notices or waiting or self._overflowed)
        return events
