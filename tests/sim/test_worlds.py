"""Whole meshes in virtual time. World B's ciphers are FAKE and say so; world A's are real."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from simworld import World
from worlds import check, world_a, world_b, world_with_pauses

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_gc() -> Iterator[None]:
    """A world is a million objects that all live: looking through them for garbage would be a third of the time."""
    gc.disable()
    yield
    gc.enable()


def test_world_a_30_nodes_with_real_cryptography() -> None:
    world, pairs = world_a(1)
    world.run(6 * 60.0)
    check(world, pairs)


def test_world_b_12_nodes_half_an_hour_with_fake_ciphers() -> None:
    half_an_hour(1, 12)


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 11))
def test_world_b_200_nodes_half_an_hour_with_fake_ciphers(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    world = half_an_hour(seed, 200)
    record_property("worst silence of a pair (s)", round(max(flow.silence for flow in world.flows.values()), 1))


def half_an_hour(seed: int, count: int) -> World:
    """Long enough for key rotations, renewed relay tokens and rekeys, in which each node talks with five others."""
    world, pairs = world_b(seed, count=count)
    world.run(30 * 60.0)
    others = Counter(host for pair in pairs for host in pair)
    assert len(others) == count
    assert min(others.values()) >= 5
    assert min(flow.sent for flow in world.flows.values()) >= 400
    check(world, pairs)
    return world


def test_conversations_with_pauses() -> None:
    world, pairs = world_with_pauses(1)
    world.run(15 * 60.0)
    check(world, pairs, talking=False)


def test_the_same_seed_gives_the_same_log_and_another_seed_another() -> None:
    logs = []
    for seed in (5, 5, 6):
        world, _ = world_b(seed, count=20, minutes=3.0)
        world.run(180.0)
        logs.append((world.log, world.datagrams))
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_a_failing_seed_tells_its_story() -> None:
    world, pairs = world_b(2, count=20, minutes=3.0)
    world.run(60.0)
    a, b = pairs[0]
    for x, y in ((a, b), (b, a)):
        world.cuts.add((x.site.name, y.site.name))
    world.relays["relay1"].kill()
    world.relays["relay2"].kill()
    world.run(60.0)
    with pytest.raises(AssertionError) as failed:
        check(world, pairs)
    story = str(failed.value)
    assert "seed 2" in story
    assert "silent" in story
    assert "handshake done" in story
