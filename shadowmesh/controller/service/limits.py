"""Rate limits: token buckets in memory, by what is guessed at and by who asks."""

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
    """`burst` attempts at once, then one every `per` seconds, for each key."""

    def __init__(self, burst: int, per: float) -> None:
        self._burst = burst
        self._per = per
        self._buckets: dict[str, _Bucket] = {}

    def check(self, key: str, now: float) -> None:
        """Raises TooMany if the key has no attempt left; takes none."""
        level = self._level(key, now)
        if level < 1:
            raise TooMany((1 - level) * self._per)

    def take(self, key: str, now: float) -> None:
        """Counts an attempt. Raises TooMany if there is none left."""
        self.check(key, now)
        if len(self._buckets) >= _MOST and key not in self._buckets:
            full = [k for k in self._buckets if self._level(k, now) >= self._burst]
            for old in full or [next(iter(self._buckets))]:
                del self._buckets[old]
        self._buckets[key] = _Bucket(self._level(key, now) - 1, now)

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
