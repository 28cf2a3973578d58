"""Which interfaces lead to the world, which into other programs' tunnels, which to containers alone."""

from __future__ import annotations

import pytest

from shadowmesh.dataplane.links import TUNNELS, Link, LinkRole, roles


def role(*links: Link, in_use: tuple[int, ...] = ()) -> LinkRole:
    """That of the first."""
    return roles(links, in_use)[links[0].index]


@pytest.mark.parametrize("kind", sorted(TUNNELS))
def test_a_tunnel_is_one_even_if_the_default_route_leads_there(kind: str) -> None:
    assert role(Link(1, "t0", kind), in_use=(1,)) is LinkRole.TUNNEL


@pytest.mark.parametrize("kind", ["", "veth", "ppp", "wwan", "bond", "vlan", "macvlan", "ipvlan", "macsec", "vrf"])
def test_hardware_pppoe_lte_and_a_containers_uplink_are_real(kind: str) -> None:
    assert role(Link(1, "u0", kind)) is LinkRole.REAL


def test_a_bridge_is_a_containers_if_it_has_their_ports_alone_and_nothing_leads_over_it() -> None:
    bridge, veth, ethernet = Link(1, "br0", "bridge"), Link(2, "v", "veth", master=1), Link(3, "eth0", master=1)
    assert role(bridge) is role(bridge, veth) is LinkRole.CONTAINERS
    assert role(bridge, Link(4, "vnet0", "tun", master=1)) is LinkRole.CONTAINERS
    assert role(bridge, veth, ethernet) is LinkRole.REAL
    assert role(bridge, veth, in_use=(1,)) is LinkRole.REAL
