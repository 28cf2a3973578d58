"""Rate limits of all nodes together in a real Redis, and what becomes of them while it is away."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis as library
from freeport import free_port
from people import web
from prometheus_client import generate_latest
from redisserver import PASSWORD, RedisServer
from structlog.testing import capture_logs

from shadowmesh.controller.edge import controllermetrics
from shadowmesh.controller.outward.redisbuckets import RedisBuckets, redis_url
from shadowmesh.controller.service.limits import SharedLimiter, SharedLimits, TooMany
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as found:
        yield found


def hidden(text: str) -> str:
    return f"{abs(hash(text)):x}"


@asynccontextmanager
async def nodes_of(server: RedisServer, count: int = 2) -> AsyncIterator[list[SharedLimits]]:
    """As many nodes' limits, which know of one another by Redis alone."""
    found = [SharedLimits(RedisBuckets(server.url, hidden)) for _ in range(count)]
    yield found
    for limits in found:
        assert limits.redis is not None
        await limits.redis.close()


async def granted(limiter: SharedLimiter, key: str, tries: int) -> int:
    return sum([await limiter.allows(key, time.time()) for _ in range(tries)])


async def until_up(limits: SharedLimits, up: bool) -> None:
    assert limits.redis is not None
    async with asyncio.timeout(8):
        while limits.redis.up is not up:
            await limits.redis.look()


async def test_attempts_at_all_nodes_are_one_number_at_once(server: RedisServer) -> None:
    async with nodes_of(server, 3) as nodes:
        limiters = [limits.limiter("sign-in", 10, 600.0) for limits in nodes]
        got = await asyncio.gather(*(granted(limiter, "192.0.2.1", 10) for limiter in limiters))
        assert sum(got) == 10
        with pytest.raises(TooMany) as refused:
            await limiters[0].take("192.0.2.1", time.time())
        assert 590 <= refused.value.retry_after <= 600
        assert await limiters[1].allows("192.0.2.2", time.time()), "who else asks has attempts of their own"
        await limiters[2].give_back("192.0.2.1")
        await limiters[2].check("192.0.2.1", time.time())
        assert await granted(limiters[2], "192.0.2.1", 3) == 1
        with pytest.raises(TooMany):
            await limiters[0].check("192.0.2.1", time.time())


async def test_one_that_is_given_back_counts_at_no_node(server: RedisServer) -> None:
    async with nodes_of(server) as (one, two):
        here, there = one.limiter("codes", 2, 600.0), two.limiter("codes", 2, 600.0)
        for _ in range(20):
            await here.take("ann", time.time())
            await here.give_back("ann")
        assert await granted(there, "ann", 3) == 2


async def test_nothing_stays_and_nothing_says_who_it_was(server: RedisServer) -> None:
    async with nodes_of(server) as (one, _):
        limiter = one.limiter("sign-in", 5, 0.2)
        client = library.Redis.from_url(server.url)
        for name in ("ann@example.org", "192.0.2.77"):
            assert await limiter.allows(name, time.time())
        keys = [key.decode() for key in client.scan_iter()]
        assert len(keys) == 2 and all(key.startswith("shadowmesh:limit:") for key in keys)
        assert not [key for key in keys if "ann" in key or "192.0" in key]
        assert all(0 < client.pttl(key) <= 1_500 for key in keys)
        await limiter.give_back("ann@example.org")
        assert client.dbsize() == 1, "a full one isn't kept"
        async with asyncio.timeout(8):
            while client.dbsize():
                await asyncio.to_thread(time.sleep, 0.05)
        client.close()


async def test_while_it_is_away_nodes_count_for_themselves_with_one_warning_and_go_on_when_it_is_back(
    server: RedisServer,
) -> None:
    async with nodes_of(server) as (one, two):
        heard: list[int] = []
        one.share(lambda: heard.append(1))
        limiter, other = one.limiter("sign-in", 10, 600.0), two.limiter("sign-in", 10, 600.0)
        assert await granted(limiter, "x", 4) == 4 and heard == [], "Redis tells the other nodes"
        with capture_logs() as logs:
            server.kill()
            assert await granted(limiter, "x", 20) == 6, "what this node has counted before still counts"
            assert one.redis is not None and not one.redis.up and one.redis.missed > 0
            two.heard(one.news(4000) or "[]", time.time())
            assert heard and await granted(other, "x", 20) == 4, "and what others have told"
            server.start()
            await until_up(one, True)
        assert [e["log_level"] for e in logs if "Redis is away" in e["event"]] == ["warning", "warning"], "one a node"
        assert [e["event"] for e in logs if e["log_level"] == "info"][-1].startswith("Redis is back")
        assert await granted(limiter, "x", 5) == 0, "no node forgets because Redis did"
        assert await granted(limiter, "y", 20) == 10


async def test_it_dies_in_the_midst_of_a_flood_and_nobody_gets_more_than_both_together(server: RedisServer) -> None:
    async with nodes_of(server) as nodes:
        limiters = [limits.limiter("sign-in", 50, 6000.0) for limits in nodes]
        begun = asyncio.Event()
        got = [0, 0]

        async def flood(number: int) -> None:
            for _ in range(200):
                got[number] += await limiters[number].allows("x", time.time())
                if sum(got) >= 20:
                    begun.set()

        tasks = [asyncio.create_task(flood(number)) for number in (0, 1)]
        async with asyncio.timeout(10):
            await begun.wait()
            server.kill()
            await asyncio.gather(*tasks)
        assert 50 <= sum(got) <= 100 and max(got) <= 50


async def test_nobody_waits_for_one_that_hangs(server: RedisServer) -> None:
    async with nodes_of(server) as (one, _):
        limiter = one.limiter("sign-in", 100, 600.0)
        assert await limiter.allows("x", time.time())
        server.hang()
        try:
            began = time.monotonic()
            got = await asyncio.gather(*(limiter.allows(f"x{n}", time.time()) for n in range(50)))
            assert all(got) and time.monotonic() - began < 5.0
            began = time.monotonic()
            assert await granted(limiter, "y", 50) == 50
            assert time.monotonic() - began < 0.5, "it is known that it is away"
        finally:
            server.go_on()
        await until_up(one, True)
        assert await limiter.allows("x", time.time())


async def test_over_tls_with_a_password_and_not_without_one_or_by_another_authority(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "tls", tls=True) as server:
        async with nodes_of(server) as (one, two):
            limiter, other = one.limiter("sign-in", 3, 600.0), two.limiter("sign-in", 3, 600.0)
            assert await granted(limiter, "x", 2) + await granted(other, "x", 5) == 3
            assert one.redis is not None and one.redis.up
        for wrong in (server.url.replace(PASSWORD, "another"), server.url.partition("?")[0]):
            buckets = RedisBuckets(wrong, hidden)
            with capture_logs() as logs:
                await buckets.look()
            await buckets.close()
            assert not buckets.up
            assert PASSWORD not in str(logs) and "another" not in str(logs)


@pytest.mark.parametrize(
    "url",
    ["http://hush@redis", "redis://:hush@", "redis://:hush@h:0/0", "redis://:hush@h/x", "redis://:hush@h/0?ssl_cert_reqs=none",
     "redis://:hush@h:99999"],
)  # fmt: skip
def test_a_url_that_is_none_is_said_without_what_it_holds(url: str) -> None:
    with pytest.raises(ShadowMeshError) as e:
        RedisBuckets(url, hidden)
    assert e.value.code == "bad_config" and "hush" not in str(e.value) and e.value.__suppress_context__


def test_valkeys_own_schemes_are_known() -> None:
    assert redis_url("valkeys://u:p@h:6380/1") == "rediss://u:p@h:6380/1"
    assert redis_url("valkey://h") == "redis://h"


async def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ShadowMeshError, match=r"shadowmesh\[redis\]"):
        RedisBuckets("redis://h", hidden)


async def test_a_controller_keeps_guessers_out_and_lets_people_in_while_redis_dies_and_comes_back(
    server: RedisServer, data_dir: Path, serve: Callable[..., Any]
) -> None:
    """Sign-ins go on in all of it, guesses are bounded in all of it, and /metrics tells."""
    buckets = RedisBuckets(server.url, hidden)
    async with serve(data_dir, free_port(), redis=buckets) as world:
        made = await world.call("user_create", accounts.UserCreate(email="ann@example.org"))

        async def login(client: Any, password: str) -> int:
            wish = {"email": "ann@example.org", "password": password}
            return int((await client.post("/api/v1/auth/login", json=wish)).status_code)

        async with web(world) as client:
            assert [await login(client, "wrong") for _ in range(12)].count(401) == 10, "then 429"
            server.kill()
            assert {await login(client, "wrong") for _ in range(5)} == {429}, "no new attempts because Redis is gone"
            assert await login(client, made.password or "") == 429
            world.clock.advance(minutes=10)  # of the controller's own clock, by which its buckets fill
            assert await login(client, made.password or "") == 403, "password_change_required: it was right"
            assert [await login(client, "wrong") for _ in range(30)].count(401) <= 20, "as one node alone has it"
            metrics = _metrics(world)
            assert "shadowmesh_controller_redis_up 0.0" in metrics
            server.start()
            async with asyncio.timeout(8):
                while not buckets.up:
                    await asyncio.to_thread(time.sleep, 0.05)
            metrics = _metrics(world)
            assert "shadowmesh_controller_redis_up 1.0" in metrics
            assert "shadowmesh_controller_attempts_without_redis_total" in metrics


def _metrics(world: World) -> str:
    class Registry:
        def collect(self) -> Any:
            return controllermetrics._Live(world.at, lambda: None).collect()

    return generate_latest(Registry()).decode()  # type: ignore[arg-type]


def test_the_process_starts_without_redis_and_says_so_once_and_never_its_password(
    data_dir: Path, tmp_path: Path
) -> None:
    port = free_port()
    environment = os.environ | {"SHADOWMESH_REDIS_URL": f"redis://:hush-hush@127.0.0.1:{free_port()}/0"}
    command = [sys.executable, "-m", "shadowmesh", "controller", "run", "--data-dir", str(data_dir)]
    command += ["--listen", f"127.0.0.1:{port}"]
    told = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            told.append(line)
            if "controller ready" in line:
                break
        running.terminate()
        told += running.stderr.readlines()
    away = [json.loads(line) for line in told if "Redis is away" in line]
    assert len(away) == 1 and away[0]["level"] == "warning"
    assert "hush-hush" not in "".join(told)
    assert running.returncode == 0, told
