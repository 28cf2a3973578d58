"""Rate limits: token buckets in memory, by who asks and by what is guessed at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shadowmesh.model.errors import Kind, ShadowMeshError

_MOST = 10_000


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


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Limiter:
    """`burst` attempts at once, then one every `per` seconds, for each key. Cost and memory don't grow with the keys."""

    def __init__(self, burst: int, per: float) -> None:
        self._burst = burst
        self._per = per
        self._buckets: dict[str, _Bucket] = {}  # the one used last is the last

    def check(self, key: str, now: float) -> None:
        """Raises TooMany if the key has no attempt left; takes none."""
        level = self._level(key, now)
        if level < 1:
            raise TooMany((1 - level) * self._per)

    def take(self, key: str, now: float) -> None:
        """Counts an attempt. Raises TooMany if there is none left."""
        self.check(key, now)
        level = self._level(key, now) - 1
        self._buckets.pop(key, None)
        if len(self._buckets) >= _MOST:
            del self._buckets[next(iter(self._buckets))]  # used longest ago: the fullest, or nearly
        self._buckets[key] = _Bucket(level, now)

    def allows(self, key: str, now: float) -> bool:
        """As `take`, where who asks too often is simply not answered."""
        try:
            self.take(key, now)
        except TooMany:
            return False
        return True

    def give_back(self, key: str) -> None:
        """An attempt that was taken doesn't count after all."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.level = min(float(self._burst), bucket.level + 1)

    def _level(self, key: str, now: float) -> float:
        bucket = self._buckets.get(key)
        if bucket is None:
            return float(self._burst)
        return min(float(self._burst), bucket.level + max(0.0, now - bucket.at) / self._per)


class Guesses:
    """Attempts at a secret that can be guessed: a password, a short code.

    Each source has its own attempts. All sources together share those at one target, which bounds what many addresses
    can guess; a source that hasn't used up its few `reserved` ones has these in any case. So strangers, from however many
    addresses, slow each other down and never keep the owner out.
    """

    def __init__(self, source: Limiter, target: Limiter, reserved: Limiter) -> None:
        """`source`: of one source at all targets. `target`: of all sources at one. `reserved`: of one source at one target."""
        self._source = source
        self._target = target
        self._reserved = reserved

    def take(self, source: str, target: str, now: float) -> None:
        """Counts an attempt. Raises TooMany if there is none left."""
        self._source.take(source, now)
        if not self._target.allows(target, now):
            self._reserved.take(f"{source} {target}", now)

    def right(self, source: str) -> None:
        """The attempt was no guess: it doesn't count for its source (behind one address there may be many people)."""
        self._source.give_back(source)


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
