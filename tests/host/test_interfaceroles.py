"""Which interfaces lead to the world, which into other programs' tunnels, which to containers alone."""

from __future__ import annotations

import pytest

from shadowmesh.host.interfaceroles import TUNNELS, HostInterface, InterfaceRole, roles


def role(*interfaces: HostInterface, in_use: tuple[int, ...] = ()) -> InterfaceRole:
    """That of the first."""
    return roles(interfaces, in_use)[interfaces[0].index]


@pytest.mark.parametrize("kind", sorted(TUNNELS))
def test_a_tunnel_is_one_even_if_the_default_route_leads_there(kind: str) -> None:
    assert role(HostInterface(1, "t0", kind), in_use=(1,)) is InterfaceRole.TUNNEL


@pytest.mark.parametrize("kind", ["", "veth", "ppp", "wwan", "bond", "vlan", "macvlan", "ipvlan", "macsec", "vrf"])
def test_hardware_pppoe_lte_and_a_containers_uplink_are_real(kind: str) -> None:
    assert role(HostInterface(1, "u0", kind)) is InterfaceRole.REAL


def test_a_bridge_is_a_containers_if_it_has_their_ports_alone_and_nothing_leads_over_it() -> None:
    bridge, veth, ethernet = (
        HostInterface(1, "br0", "bridge"),
        HostInterface(2, "v", "veth", master=1),
        HostInterface(3, "eth0", master=1),
    )
    assert role(bridge) is role(bridge, veth) is InterfaceRole.CONTAINERS
    assert role(bridge, HostInterface(4, "vnet0", "tun", master=1)) is InterfaceRole.CONTAINERS
    assert role(bridge, veth, ethernet) is InterfaceRole.REAL
    assert role(bridge, veth, in_use=(1,)) is InterfaceRole.REAL
