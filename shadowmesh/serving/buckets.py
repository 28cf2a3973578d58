"""Token buckets in memory, one for each of those whose doings are counted together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shadowmesh.model.addresses import source_of

_MOST = 10_000
# 500 machines behind one address may come back at once, and ask some five times each. Who writes another's address
# on requests has no more than 100 answers a second sent there, 12 kB.
STUN_BURST: Final = 3_000
STUN_EVERY: Final = 0.01


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Buckets:
    """`burst` at once, then one every `per` seconds, for each key. Cost and memory don't grow with the keys."""

    def __init__(self, burst: int, per: float) -> None:
        self._burst = float(burst)
        self._per = per
        self._buckets: dict[str, _Bucket] = {}  # the one used last is the last

    def level(self, key: str, now: float) -> float:
        """How many the key has left."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return self._burst
        bucket.at = min(bucket.at, now)  # the clock may have been set back: nobody waits for it to be then again
        return min(self._burst, bucket.level + (now - bucket.at) / self._per)

    def take(self, key: str, now: float) -> bool:
        """Takes one, if one is left."""
        level = self.level(key, now) - 1
        if level < 0:
            return False
        self._buckets.pop(key, None)
        if len(self._buckets) >= _MOST:
            del self._buckets[next(iter(self._buckets))]  # used longest ago: the fullest, or nearly
        self._buckets[key] = _Bucket(level, now)
        return True

    def give_back(self, key: str) -> None:
        """One that was taken doesn't count after all."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.level = min(self._burst, bucket.level + 1)


class StunLimit:
    """How many STUN answers each source gets: what asks isn't proven to be there, and an answer is longer than its request."""

    def __init__(self) -> None:
        self._buckets = Buckets(STUN_BURST, STUN_EVERY)

    def allows(self, host: str, now: float) -> bool:
        """Counts an answer to this address, if it may have one."""
        return self._buckets.take(source_of(host), now)
