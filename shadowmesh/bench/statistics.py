"""What is made of measured values: percentiles, and the highest rate without loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LOSS_ALLOWED = 0.005  # of the datagrams, for a rate to count as one without loss


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values don't exceed (nearest rank). Raises ValueError if empty."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def highest_lossless(
    loss_at: Callable[[float], float], start: float, *, allowed: float = LOSS_ALLOWED, precision: float = 0.05
) -> float:
    """The highest rate at which less than `allowed` is lost, within `precision` of it; 0 if there is none above start / 1000.

    `loss_at(rate)` tries a rate and tells the share that was lost (0 to 1). From `start` it goes up by doubling or
    down by halving until the limit lies between two tries, then halves what is between them. A try that loses by
    chance would end the search too low, so each that fails is made twice.
    """

    def passes(rate: float) -> bool:
        return loss_at(rate) < allowed or loss_at(rate) < allowed

    good = bad = start
    if passes(start):
        while passes(bad := good * 2):
            good = bad
    else:
        while not passes(good := bad / 2):
            bad = good
            if bad < start / 1000:
                return 0.0
    while bad / good > 1 + precision:
        middle = math.sqrt(good * bad)
        if passes(middle):
            good = middle
        else:
            bad = middle
    return good
