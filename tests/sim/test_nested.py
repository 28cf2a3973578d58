"""Another program's VPN on both hosts: the path stays on the real network; the tunnel carries it only where nothing else is left."""

from __future__ import annotations

from simworld import Host, World

from shadowmesh.model.reasons import Reason


def pair(kind: str, *, relays: int = 1, lan: bool = False) -> tuple[World, Host, Host]:
    """Two hosts with a VPN between them, not started yet."""
    world = World(11)
    for i in range(relays):
        world.relay(f"relay{i + 1}")
    site = world.site(kind)
    a, b = world.host("a", site), world.host("b", site if lan else world.site(kind))
    world.vpn(a, b)
    return world, a, b


def talking(world: World, a: Host, b: Host) -> None:
    """Five seconds into a conversation."""
    world.start()
    world.run(2.5)
    for x, y in ((a, b), (b, a)):
        world.stream(x, y, every=0.05, count=4000)
    world.run(5.0)


def reasons(a: Host, b: Host) -> set[str]:
    return {a.to(b).reason, b.to(a).reason}


def test_the_hole_that_was_punched_is_used_and_not_the_tunnel() -> None:
    world, a, b = pair("port_restricted")
    talking(world, a, b)
    assert reasons(a, b) == {Reason.DIRECT_PUNCHED}


def test_the_lan_is_used_and_not_the_tunnel() -> None:
    world, a, b = pair("port_restricted", lan=True)
    talking(world, a, b)
    assert reasons(a, b) == {Reason.DIRECT_LAN}


def test_the_relay_is_used_rather_than_the_tunnel() -> None:
    world, a, b = pair("symmetric")
    talking(world, a, b)
    assert reasons(a, b) == {Reason.RELAY_BOTH_SYMMETRIC}


def test_without_a_relay_the_tunnel_carries_the_path_and_says_so_until_a_relay_is_back() -> None:
    world, a, b = pair("symmetric")
    talking(world, a, b)
    world.relays["relay1"].kill()
    world.run_until(lambda: reasons(a, b) == {Reason.DIRECT_NESTED}, 10.0)
    before = [len(world.flow(x, y).received) for x, y in ((a, b), (b, a))]
    world.run(10.0)
    assert min(len(world.flow(x, y).received) - n for (x, y), n in zip(((a, b), (b, a)), before, strict=True)) > 190
    world.relays["relay1"].revive()
    world.run_until(lambda: reasons(a, b) == {Reason.RELAY_BOTH_SYMMETRIC}, 90.0)
    assert not any(flow.doubled for flow in world.flows.values())


def test_a_tunnel_that_only_one_side_can_see_is_avoided_by_both() -> None:
    world, a, b = pair("symmetric")
    b.tunnels, b.nested = (), ()  # on its side, the router holds the tunnel
    talking(world, a, b)
    world.run(60.0)
    assert reasons(a, b) == {Reason.RELAY_BOTH_SYMMETRIC}
    world.relays["relay1"].kill()
    world.run_until(lambda: reasons(a, b) == {Reason.DIRECT_NESTED}, 10.0)
