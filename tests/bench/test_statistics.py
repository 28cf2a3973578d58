"""Percentiles, and the search for the highest rate without loss."""

from __future__ import annotations

import random

import pytest

from shadowmesh.bench.statistics import highest_lossless, percentile


def test_percentile_is_the_nearest_rank() -> None:
    values = list(range(100, 0, -1))
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.5) == 50
    assert percentile(values, 1.0) == 100
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize("limit", [900.0, 10_000.0, 123_456.0, 2e6])
@pytest.mark.parametrize("start", [1_000.0, 50_000.0])
def test_the_search_finds_the_limit_from_either_side(limit: float, start: float) -> None:
    found = highest_lossless(lambda rate: max(0.0, 1 - limit / rate), start)
    # up to half a percent may be lost
    assert limit / 1.05 <= found <= limit / (1 - 0.005)


def test_one_loss_by_chance_does_not_mislead() -> None:
    chance = random.Random(5)
    tries: list[float] = []

    def loss_at(rate: float) -> float:
        tries.append(rate)
        unlucky = chance.random() < 0.1 and tries.count(rate) == 1
        return 0.5 if unlucky or rate > 40_000 else 0.0

    assert 40_000 / 1.05 <= highest_lossless(loss_at, 10_000) <= 40_000


def test_a_way_that_always_loses_has_no_such_rate() -> None:
    assert highest_lossless(lambda _rate: 0.02, 1e6) == 0.0
