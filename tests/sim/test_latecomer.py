"""Who comes late to its relay is reached the moment that this is known, not at the next repetition."""

from __future__ import annotations

import pytest
from simworld import Host, World


def two() -> tuple[World, Host, Host]:
    """`b` finds only after a while that UDP doesn't get out, and then goes to its relay by a stream."""
    world = World(1)
    world.relay("relay1")
    a, b = world.host("a", "port_restricted"), world.host("b", "udp_blocked")
    world.start()
    return world, a, b


def at_home(world: World, host: Host) -> bool:
    return host.node.engines[world.network_id].relays.home is not None


@pytest.mark.parametrize("lead", [0.1, 0.2, 0.4, 0.8])
def test_first_packet_to_a_latecomer_arrives_when_its_relay_is_known(lead: float) -> None:
    world, _, b = two()
    world.run_until(lambda: at_home(world, b), 5.0)
    home_at = world.time
    world, a, b = two()
    world.run(home_at - world.time - lead)
    assert at_home(world, a)
    world.stream(a, b, every=10.0, count=1)
    world.run_until(lambda: at_home(world, b), 1.0)
    assert not world.flow(a, b).received
    world.run_until(lambda: bool(world.flow(a, b).received), 0.5)
