"""Token buckets: what each source may have."""

from __future__ import annotations

import pytest

from shadowmesh.serving.buckets import STUN_BURST, STUN_EVERY, Buckets, StunLimit


def test_a_burst_then_one_after_another() -> None:
    buckets = Buckets(3, 2.0)
    assert [buckets.take("a", 100.0) for _ in range(5)] == [True, True, True, False, False]
    assert buckets.take("b", 100.0), "each has their own"
    assert [buckets.take("a", 102.0) for _ in range(2)] == [True, False]
    buckets.give_back("a")
    assert buckets.take("a", 102.0) and buckets.level("a", 1000.0) == 3.0


def test_memory_doesnt_grow_with_those_who_ask() -> None:
    buckets = Buckets(1, 1.0)
    for number in range(12_000):
        buckets.take(str(number), float(number))
    assert len(buckets._buckets) == 10_000


@pytest.mark.parametrize("flood", [20_000, pytest.param(1_000_000, marks=pytest.mark.prove)])
def test_a_site_behind_one_address_is_answered_and_a_spoofed_victim_gets_little(flood: int) -> None:
    """500 machines come back at once, five requests each, and ask now and then from then on."""
    limit = StunLimit()
    assert all(limit.allows("192.0.2.1", 0.0) for _ in range(2_500))
    for second in range(1, 60):
        assert all(limit.allows("192.0.2.1", second) for _ in range(60))
    flooded = sum(
        limit.allows(f"2001:db8::{n % 999:x}", 10.0 + 10.0 * n / flood) for n in range(flood)
    )  # 10 s, one /64
    assert flooded <= STUN_BURST + 10.0 / STUN_EVERY + 1
    assert limit.allows("2001:db8:0:1::1", 20.0), "its neighbour"


def test_who_has_none_left_doesnt_wait_for_a_clock_that_was_set_back() -> None:
    buckets = Buckets(1, 10.0)
    assert buckets.take("a", 100_000.0) and not buckets.take("a", 100_000.0)
    assert not buckets.take("a", 50_000.0)
    assert buckets.take("a", 50_010.0)
