"""Rate limits, in a time of their own."""

from __future__ import annotations

import difflib
from unittest.mock import Mock

import pytest

from shadowmesh.controller import refusals
from shadowmesh.controller.authz import Principal
from shadowmesh.controller.service import watchers
from shadowmesh.controller.service.limits import Guesses, Limiter, SharedLimits, TooMany
from shadowmesh.model.addresses import source_of
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.serving import buckets


def guesses() -> Guesses:
    shared = SharedLimits().limiter
    return Guesses(source=shared("s", 10, 6.0), target=shared("t", 20, 15.0), reserved=shared("r", 3, 200.0))


async def allowed(limiter: Guesses, source: str, target: str, now: float) -> bool:
    try:
        await limiter.take(source, target, now)
    except TooMany:
        return False
    return True


def test_a_customer_of_an_ipv6_line_is_one_source() -> None:
    assert source_of("2001:db8:1:2::1") == source_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert source_of("2001:db8:1:3::1") != source_of("2001:db8:1:2::1")
    assert source_of("::ffff:192.0.2.1") == source_of("192.0.2.1") == "192.0.2.1"
    assert source_of("fe80::1%eth0") == "fe80::/64" and source_of("local") == "local"


@pytest.mark.parametrize("addresses", [1, 60, 5000])
async def test_strangers_never_keep_the_owner_out(addresses: int) -> None:
    limiter = guesses()
    for second in range(60):
        for number in range(addresses if second % 10 == 0 else min(addresses, 60)):
            await allowed(limiter, f"stranger {number}", "ann@example.org", float(second))
        assert await allowed(limiter, f"the owner at {second // 3}", "ann@example.org", float(second))


async def test_many_addresses_guess_hardly_more_than_a_few() -> None:
    limiter, tried = guesses(), 0
    for second in range(3600):
        tried += sum(
            [await allowed(limiter, f"stranger {number}", "ann@example.org", float(second)) for number in range(60)]
        )
    assert tried < 20 + 3600 / 15 + 60 * (3 + 3600 / 200) + 1


async def test_right_ones_cost_an_office_nothing() -> None:
    limiter = guesses()
    for person in range(500):
        await limiter.take("192.0.2.1", f"person {person}", 0.0)
        await limiter.right("192.0.2.1")


def test_a_flood_of_keys_neither_grows_memory_nor_forgets_who_tries_now() -> None:
    limiter = Limiter(2, 100.0)
    limiter.take("busy", 0.0)
    limiter.take("busy", 0.0)
    for number in range(buckets._MOST - 1):
        limiter.take(f"stranger {number}", 1.0)
    assert len(limiter._buckets._buckets) == buckets._MOST
    with pytest.raises(TooMany):
        limiter.take("busy", 2.0)
    limiter.take("one more", 2.0)
    assert len(limiter._buckets._buckets) == buckets._MOST


def test_the_connections_of_one_user_are_counted_together_whatever_key_they_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchers, "MOST", 2)
    opened = watchers.Watchers()

    def watcher(user: str, key: str) -> Mock:
        return Mock(who=Principal(f"{user}@x.example by {key}", user, f"{user}@x.example"))

    close = opened.add(watcher("usr_1", "a"))
    opened.add(watcher("usr_1", "b"))
    with pytest.raises(ShadowMeshError, match="2 connections") as caught:
        opened.add(watcher("usr_1", "c"))
    assert caught.value.code == "too_many_watchers"
    opened.add(watcher("usr_2", "a"))
    close()
    opened.add(watcher("usr_1", "c"))


def test_what_was_meant_is_looked_for_among_as_many_names_as_take_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand long names take half a second of everybody's, for whoever asks for one that isn't there."""
    looked_at: list[int] = []

    def counting(word: str, words: list[str], **_: object) -> list[str]:
        looked_at.append(len(word) * sum(map(len, words)))
        return difflib.get_close_matches(word, words, n=1, cutoff=0.7)

    monkeypatch.setattr(refusals, "get_close_matches", counting)
    long = [f"{n:063d}" for n in range(2000)]
    assert "did you mean" in refusals.unknown("x", "x", long[0][:-1] + "x", long, "x").remedy
    short = [f"host-{n}" for n in range(2000)]
    assert "did you mean host-1999?" in refusals.unknown("x", "x", "hots-1999", short, "x").remedy
    assert max(looked_at) <= 200_000
