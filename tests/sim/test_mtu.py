"""Links that drop long packets without a word: both sides find out what gets through, on whatever way, and say so."""

from __future__ import annotations

import pytest
from simworld import Host, World

OVERHEAD = 28 + 32  # IPv4, UDP; WireGuard
RELAY = 44


def talking(kind: str, **mtus: int) -> tuple[World, Host, Host]:
    """Two hosts whose links have these MTUs, a second into a conversation of long packets."""
    world = World(5)
    world.relay("relay1")
    a, b = world.host("a", kind), world.host("b", kind)
    world.packet_size = 1100
    for host in (a, b):
        host.site.mtu = mtus.get(host.name, 1500)
    world.start()
    world.run(2.5)
    for x, y in ((a, b), (b, a)):
        world.stream(x, y, every=0.05, count=4000)
    world.run(1.0)
    return world, a, b


@pytest.mark.parametrize("link", [1400, 1340, 1280])
def test_a_direct_path_over_a_narrow_link_has_its_mtu_within_four_seconds(link: int) -> None:
    world, a, b = talking("port_restricted", a=link)
    world.run(3.0)
    for x, y in ((a, b), (b, a)):
        seen = x.to(y)
        assert (seen.path, seen.mtu) == ("direct", link - OVERHEAD)
        assert f"packets of {link - OVERHEAD} bytes" in seen.explanation
    why = a.node.why(world.network_id, b.client_id, a.clock())
    assert next(x for x in why.attempts if x.result == "answered").mtu == link - OVERHEAD


def test_the_way_through_a_relay_is_measured_too() -> None:
    world, a, b = talking("symmetric", b=1340)
    world.run(3.0)
    for x, y in ((a, b), (b, a)):
        seen = x.to(y)
        assert seen.path == "relay" and seen.mtu is not None
        assert 1340 - OVERHEAD - RELAY - 30 < seen.mtu <= 1340 - OVERHEAD - RELAY


def test_where_everything_gets_through_nothing_is_said_and_little_is_sent() -> None:
    world, a, b = talking("port_restricted")
    world.run(3.0)
    assert a.to(b).mtu is b.to(a).mtu is None
    assert "packets of" not in a.to(b).explanation


def test_a_link_that_narrows_under_a_conversation_is_found_out_and_its_end_too() -> None:
    world, a, b = talking("port_restricted")
    world.run(10.0)
    a.site.mtu = 1280
    world.run_until(lambda: a.to(b).mtu == b.to(a).mtu == 1280 - OVERHEAD, 5.0)
    assert a.to(b).path == "direct"
    a.site.mtu = 1500
    world.run_until(lambda: a.to(b).mtu is b.to(a).mtu is None, 90.0)


def test_what_is_small_is_never_probed_again() -> None:
    world, a, b = talking("port_restricted")
    world.packet_size = 64
    world.run(10.0)
    a.site.mtu = 1280
    world.run(30.0)
    assert a.to(b).mtu is None


def test_a_path_that_turns_out_narrow_is_not_taken_for_a_night_slept() -> None:
    world, a, b = talking("port_restricted", a=1340)
    world.run(3.0)
    assert a.to(b).mtu is not None
    assert not [what for _, _, what in world.log if "woke" in what]
