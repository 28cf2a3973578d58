"""Token buckets of all nodes together in Redis, or Valkey; none of it is needed, and nothing waits long for it.

A bucket is a hash of two numbers under a keyed hash of what is counted: neither an address nor a name lies there. It goes
away by itself when it is full again. Redis' own clock counts, so that nodes whose clocks differ count alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import structlog

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import escaped
from shadowmesh.serving.rarelog import RareLog

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("shadowmesh.controller")

LIMITS = "rate limits"  # the label of the keyed hashes
_PATIENCE = 0.5  # seconds for one answer: an attempt to sign in waits for no more
LOOK = 1.0  # seconds: so often it is looked whether it is there
_CONNECTIONS = 16
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "db", "protocol")  # nothing that lessens what is checked

# Takes (1), gives back (-1), or looks (0). Says how much is left, and whether what was asked for was there.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
local burst, per, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if count < 0 and not kept[1] then return {1, tostring(burst)} end
local at = math.min(tonumber(kept[2]) or now, now)
local level = math.min(burst, (tonumber(kept[1]) or burst) + (now - at) / per)
if level < math.max(count, 0) then return {0, tostring(level)} end
if count == 0 then return {1, tostring(level)} end
level = math.min(burst, level - count)
if level >= burst then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', KEYS[1], math.ceil((burst - level) * per * 1000) + 1000)
end
return {1, tostring(level)}
"""


class Level(NamedTuple):
    """`granted`: what was asked for was there. `left`: after that."""

    granted: bool
    left: float


def redis_url(url: str) -> str:
    """As the library takes it. Raises ValueError, which doesn't say what the URL holds."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.fragment:
        raise ValueError("it is not redis://USER:PASSWORD@HOST:PORT/0, or rediss:// for TLS")
    if parts.port == 0:  # which raises ValueError for what is no port
        raise ValueError("it has no port that can be reached")
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ValueError("what comes after the port is the number of a database")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"there is no option {name[:40]!r}: it has {', '.join(_OPTIONS)}")
    return parts._replace(scheme=scheme).geturl()


class RedisBuckets:
    """`up`: it answered the last time. While it is away nobody waits for it: `look` finds that it is back."""

    def __init__(self, url: str, hidden: Callable[[str], str]) -> None:
        """`hidden`: a keyed hash, the same at all nodes. Raises ShadowMeshError: redis_missing, bad_config."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as e:
            raise ShadowMeshError(
                "redis_missing",
                "redis.url is set, and the program has nothing to speak to Redis with",
                "install the extra `redis` (`pip install 'shadowmesh[redis]'`), or leave redis.url out",
                kind=Kind.FAILED,
            ) from e
        try:
            pool: Any = BlockingConnectionPool.from_url(
                redis_url(url),
                max_connections=_CONNECTIONS,
                timeout=_PATIENCE,
                socket_timeout=_PATIENCE,
                socket_connect_timeout=_PATIENCE,
                retry=Retry(NoBackoff(), 1),  # a connection that Redis has closed meanwhile is opened again
            )
        except ValueError as e:  # what it holds is a secret: it isn't shown
            remedy = "set redis.url to redis://USER:PASSWORD@HOST:PORT/0, or rediss:// for TLS"
            raise ShadowMeshError("bad_config", f"redis.url isn't usable: {e}", remedy, kind=Kind.USAGE) from None
        self._redis: Redis = Redis(connection_pool=pool)
        self._script = self._redis.register_script(_SCRIPT)
        self._hidden = hidden
        self._rare = RareLog("shadowmesh.controller")
        self.up = True
        self.missed = 0  # attempts that were counted without it

    async def ask(self, name: str, key: str, burst: int, per: float, count: int) -> Level | None:
        """Takes (1), gives back (-1) or looks (0) in the bucket of this key. None: Redis is away."""
        if not self.up:
            self.missed += 1
            return None
        bucket = f"shadowmesh:limit:{self._hidden(f'{name} {key}')}"
        found = await self._try(lambda: self._script(keys=[bucket], args=[burst, per, count]))
        if found is None:
            self.missed += 1
            return None
        return Level(int(found[0]) == 1, float(found[1]))

    async def look(self) -> None:
        """Whether it is there; to be called every `LOOK` seconds."""
        await self._try(self._redis.ping)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _try(self, call: Callable[[], Any]) -> Any:
        """Its answer; None where there is none."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(2 * _PATIENCE):
                answer = await call()
        except (RedisError, OSError, TimeoutError) as e:
            self._is_up(False, e)
            return None
        self._is_up(True)
        return answer

    def _is_up(self, up: bool, error: Exception | None = None) -> None:
        before, self.up = self.up, up
        if before and not up:
            why = f"{type(error).__name__}: {escaped(str(error)[:200])}"
            self._rare("Redis is away: nodes count attempts in their own memory until it is back", why=why)
        elif up and not before:
            log.info("Redis is back, and counts the attempts of all nodes")
