"""Which TCP connections a listening role keeps: bounded in number, and fair to those who are honest.

A connection is *unproven* until who is behind it has shown to be a user, a device or a client. Unproven ones have little
time (the protocols' business) and little room: when that is used up a newcomer is let in and an older one has to go, the one that
did nothing for longest. An honest connection proves itself within a second or two, so it is young; one that is held half-open is
old. That is why there is no small limit per source: behind one address may be a site of 500 machines that come back at once, and
these pass. Only where all are young, so many come, does each source get its share: who has more makes room for itself.

Running out of descriptors neither stops the listening nor makes it spin: with a descriptor kept for that purpose the connection is
taken and closed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from shadowmesh.serving.memory import CROWD, Memory
from shadowmesh.serving.rarelog import RareLog

_RESERVED = 128  # descriptors for the database, logs and outgoing connections
_MOST_UNPROVEN = 4096
_FEWEST_UNPROVEN = 64
_YOUNG = 2.0  # seconds in which an honest connection proves itself
NO_LINGER = struct.pack("ii", 1, 0)  # close(2) sends RST and keeps no state
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Peer = tuple[str, int]


class Accepted(socket.socket):
    """A connection's socket, which says when it is closed."""

    __slots__ = ("active", "address", "admission", "begun", "deadline", "deferred", "expected", "peer", "source")

    admission: Admission | None
    peer: Peer
    source: str
    active: float  # when an honest one did something last
    address: Any  # as accept(2) gave it
    deadline: float  # seconds on the loop's clock by which the client's first word is to be there
    expected: int  # how many bytes of it are waited for
    deferred: bool  # it was left for a later turn
    begun: bool  # its server's objects were made

    def close(self) -> None:
        super().close()
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.left(self)


class Admission:
    """The connections of one role. `limit`: how many descriptors the process may have (`descriptors.raise_limit`)."""

    def __init__(self, limit: int, log: RareLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self.most = max(_FEWEST_UNPROVEN, limit - _RESERVED)
        self.most_unproven = max(_FEWEST_UNPROVEN, min(_MOST_UNPROVEN, self.most // 2))
        self.most_of_source = self.most_unproven * 3 // 4
        self.held = self.ended = 0
        self._begun = 0  # of the unproven
        self._unproven: OrderedDict[Peer, Accepted] = OrderedDict()  # the longest inactive first
        self._by_source: dict[str, OrderedDict[Peer, Accepted]] = {}
        self._memory = Memory()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def unproven(self) -> int:
        return len(self._unproven)

    def enter(self, connection: Accepted) -> bool:
        """Takes a new connection in; False if there is no room that could be made."""
        now = self._clock()
        mine: Mapping[Peer, Accepted] = self._by_source.get(connection.source, {})
        full = len(self._unproven) >= self.most_unproven or self.held >= self.most
        if full or len(mine) >= self.most_of_source:
            victim = self._victim(mine, now)
            if victim is None:
                self._log("refusing connections", why="as many as this process may have are in use", held=self.held)
                return False
            self._evict(victim)
        self.held += 1
        connection.admission, connection.active, connection.begun = self, now, False
        self._unproven[connection.peer] = connection
        self._by_source.setdefault(connection.source, OrderedDict())[connection.peer] = connection
        return True

    def begins(self, connection: Accepted) -> None:
        """A server's objects are about to be made for it. Honest ones are through with it in a moment, however many come."""
        if self._unproven.get(connection.peer) is connection:
            connection.begun = True
            self._begun += 1
            if self._begun == CROWD:
                self._memory.crowd()

    def _victim(self, mine: Mapping[Peer, Accepted], now: float) -> Accepted | None:
        """Who makes room for a newcomer whose source has `mine`."""
        if len(mine) >= self.most_of_source:
            return next(iter(mine.values()))
        oldest = next(iter(self._unproven.values()), None)
        if (
            oldest is not None
            and now - oldest.active < _YOUNG
            and len(mine) > len(self._unproven) // len(self._by_source)
        ):
            return next(iter(mine.values()))
        return oldest

    def active(self, peer: Peer | None) -> None:
        """Something that only an honest one can do was done on it: it is the last that has to go."""
        connection = self._unproven.get(peer) if peer is not None else None
        if connection is not None:
            connection.active = self._clock()
            self._unproven.move_to_end(connection.peer)
            self._by_source[connection.source].move_to_end(connection.peer)

    def proven(self, peer: Peer | None) -> None:
        """It may stay for as long as it likes."""
        connection = self._unproven.get(peer) if peer is not None else None
        if connection is not None:
            self._forget(connection)

    def left(self, connection: Accepted) -> None:
        """It was closed."""
        self.held -= 1
        self.ended += 1
        if self._unproven.get(connection.peer) is connection:
            self._forget(connection)

    def look_after_memory(self) -> None:
        """Call every few seconds: gives back what connections used that are gone."""
        if self._begun < CROWD // 2:
            self._memory.calm()
        self._memory.look(self.held, self.ended, self._clock())

    def _forget(self, connection: Accepted) -> None:
        del self._unproven[connection.peer]
        self._begun -= connection.begun
        of_source = self._by_source[connection.source]
        del of_source[connection.peer]
        if not of_source:
            del self._by_source[connection.source]

    def _evict(self, connection: Accepted) -> None:
        """Ends it under its transport, which notices as if the other side had gone."""
        self._log("closing unproven connections", why="too many at once", unproven=len(self._unproven))
        self._forget(connection)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has just gone

    def shed(self, listener: socket.socket, error: OSError) -> None:
        """There is no descriptor for the next connection: takes it with the spare one, and closes it."""
        self._log("no descriptor for a connection", why=error.strerror, held=self.held)
        os.close(self._spare)
        try:
            connection, _ = socket.socket.accept(listener)
            connection.close()
        except OSError:
            pass
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
