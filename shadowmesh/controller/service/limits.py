"""Rate limits: token buckets, by who asks and by what is guessed at; of one node in its memory, or of all nodes together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from shadowmesh.controller.outward.redisbuckets import Level, RedisBuckets
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.buckets import Buckets

LIMITS = "limits"  # topic of notices
_MOST_NEWS = 10_000


class TooMany(ShadowMeshError):
    """`retry_after` in whole seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(
            "rate_limited",
            "too many attempts",
            f"wait {self.retry_after} s and try again",
            kind=Kind.CONFLICT,
        )


class Limiter:
    """`burst` attempts at once, then one every `per` seconds, for each key."""

    def __init__(self, burst: int, per: float) -> None:
        self._per = per
        self._buckets = Buckets(burst, per)

    def check(self, key: str, now: float) -> None:
        """Raises TooMany if the key has no attempt left; takes none."""
        level = self._buckets.level(key, now)
        if level < 1:
            raise TooMany((1 - level) * self._per)

    def take(self, key: str, now: float) -> None:
        """Counts an attempt. Raises TooMany if there is none left."""
        self.check(key, now)
        self.allows(key, now)

    def allows(self, key: str, now: float) -> bool:
        """As `take`, where who asks too often is simply not answered."""
        return self._buckets.take(key, now)

    def give_back(self, key: str) -> None:
        """An attempt that was taken doesn't count after all."""
        self._buckets.give_back(key)


class SharedLimiter:
    """A limiter that counts together with those of the same name at all nodes.

    The own bucket is asked first: it never knows of more attempts than all together, and who has none left there costs
    Redis nothing. So it is there, too, with all that this node has counted, when Redis goes away.
    """

    def __init__(self, limits: SharedLimits, name: str, burst: int, per: float) -> None:
        self._limits = limits
        self._name = name
        self._burst = burst
        self._per = per
        self._own = Limiter(burst, per)

    async def check(self, key: str, now: float) -> None:
        """Raises TooMany if the key has no attempt left; takes none."""
        self._own.check(key, now)
        found = await self._limits.ask(self._name, key, self._burst, self._per, 0)
        if found is not None and found.left < 1:
            raise TooMany((1 - found.left) * self._per)

    async def take(self, key: str, now: float) -> None:
        """Counts an attempt. Raises TooMany if there is none left."""
        self._own.take(key, now)
        found = await self._limits.ask(self._name, key, self._burst, self._per, 1)
        if found is not None and not found.granted:
            self._own.give_back(key)
            raise TooMany((1 - found.left) * self._per)

    async def allows(self, key: str, now: float) -> bool:
        """As `take`, where who asks too often is simply not answered."""
        try:
            await self.take(key, now)
        except TooMany:
            return False
        return True

    async def give_back(self, key: str) -> None:
        """An attempt that was taken doesn't count after all."""
        self._own.give_back(key)
        await self._limits.ask(self._name, key, self._burst, self._per, -1)

    def counted_elsewhere(self, key: str, taken: int, now: float) -> None:
        """Another node has counted an attempt (1), or given it back (-1)."""
        if taken > 0:
            self._own.allows(key, now)
        else:
            self._own.give_back(key)


class SharedLimits:
    """Limiters of one name count together at all nodes: in Redis, or where there is none, or it is away, each tells the
    others what it counted.

    That is told a moment later, so a crowd that asks all nodes at once has some attempts more, never a multiple of them.
    """

    def __init__(self, redis: RedisBuckets | None = None) -> None:
        self.redis = redis
        self._limiters: dict[str, SharedLimiter] = {}
        self._news: list[tuple[str, str, int]] = []
        self._wake: Callable[[], None] | None = None

    def limiter(self, name: str, burst: int, per: float) -> SharedLimiter:
        """`name` says what is counted."""
        self._limiters[name] = SharedLimiter(self, name, burst, per)
        return self._limiters[name]

    async def ask(self, name: str, key: str, burst: int, per: float, count: int) -> Level | None:
        """Redis; None where it isn't, and then the other nodes hear of what was counted."""
        found = None if self.redis is None else await self.redis.ask(name, key, burst, per, count)
        if found is None and count != 0:
            self._counted(name, key, count)
        return found

    def share(self, wake: Callable[[], None]) -> None:
        """There are other nodes. `wake` is called when there is something in `news`."""
        self._wake = wake

    def _counted(self, name: str, key: str, taken: int) -> None:
        if self._wake is not None and len(self._news) < _MOST_NEWS:
            self._news.append((name, key, taken))
            self._wake()

    def news(self, most: int) -> str | None:
        """What others don't know yet, as a text of at most so many bytes; None if there is nothing."""
        size, count = 2, 0
        while count < len(self._news) and (size := size + len(json.dumps(self._news[count])) + 2) <= most:
            count += 1
        said, self._news = self._news[:count], self._news[max(1, count) :]
        return json.dumps(said) if said else None

    def heard(self, text: str, now: float) -> None:
        """What another node's `news` gave."""
        for name, key, taken in json.loads(text):
            if name in self._limiters:
                self._limiters[name].counted_elsewhere(key, taken, now)


class Guesses:
    """Attempts at a secret that can be guessed: a password, a short code.

    Each source has its own attempts. All sources together share those at one target, which bounds what many addresses
    can guess; a source that hasn't used up its few `reserved` ones has these in any case. So strangers, from however many
    addresses, slow each other down and never keep the owner out.
    """

    def __init__(self, source: SharedLimiter, target: SharedLimiter, reserved: SharedLimiter) -> None:
        """`source`: of one source at all targets. `target`: of all sources at one. `reserved`: of one source at one target."""
        self._source = source
        self._target = target
        self._reserved = reserved

    async def take(self, source: str, target: str, now: float) -> None:
        """Counts an attempt. Raises TooMany if there is none left."""
        await self._source.take(source, now)
        if not await self._target.allows(target, now):
            await self._reserved.take(f"{source} {target}", now)

    async def right(self, source: str) -> None:
        """The attempt was no guess: it doesn't count for its source (behind one address there may be many people)."""
        await self._source.give_back(source)


class Recent:
    """A set of the last so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, None] = {}

    def add(self, key: str) -> None:
        self._known.pop(key, None)
        self._known[key] = None
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def __contains__(self, key: str) -> bool:
        return key in self._known
