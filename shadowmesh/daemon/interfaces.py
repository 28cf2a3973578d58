"""The TUN devices of the networks that are up: made, kept as they shall be, taken away."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

from shadowmesh.daemon.join import outer_error, overlap_error, refuse_overlap
from shadowmesh.daemon.network import Interface, Network
from shadowmesh.daemon.world import Host, World
from shadowmesh.dataplane.host import Interface as HostInterface
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import Member
from shadowmesh.model.pump import INNER_MTU


class Interfaces:
    """Everything raises ShadowMeshError where the host says no."""

    def __init__(self, world: World, host: Host) -> None:
        self._open_tun = world.open_tun
        self._host = host

    def make(self, network: Network) -> Interface:
        """A device with the addresses and routes that the network's map gives this machine."""
        fd, name = self._open_tun()
        interface = Interface(name, fd)
        try:
            self.configure(interface, network)
        except BaseException:
            self.remove(interface)
            raise
        return interface

    def configure(self, interface: Interface, network: Network) -> None:
        """Brings the device into the state that the map says now."""
        assert network.map is not None and network.me is not None
        head, me = network.map.head, network.me
        addresses: tuple[IPAddress, ...] = (me.ip,)
        routes: tuple[IPNetwork, ...] = (head.subnet,)
        if me.ip6 is not None and head.subnet6 is not None:
            addresses, routes = (me.ip, me.ip6), (head.subnet, head.subnet6)
        self._host.configure(interface.fd, HostInterface(interface.name, INNER_MTU, addresses, routes))

    def remove(self, interface: Interface) -> None:
        self._host.forget(interface.fd)
        os.close(interface.fd)  # the pump's duplicate goes with RemoveTun; then the device is gone

    def check_subnets(
        self,
        networks: Iterable[Network],
        name: str,
        subnets: Iterable[IPNetwork],
        own: NetworkID | None = None,
        *,
        lans: bool = True,
    ) -> None:
        """Raises ShadowMeshError(CONFLICT) if a subnet is another running network's or (`lans`) a LAN's of this host."""
        running = {n.interface.name: n for n in networks if n.interface is not None}
        for subnet in subnets:
            for other in running.values():
                if other.id != own and other.map is not None:
                    refuse_overlap(name, subnet, other.name, other.map.head.subnets)
            for interface, lan in self._host.overlaps(subnet, running) if lans else ():
                raise overlap_error(name, subnet, f"interface {interface}", lan)

    def check_outer(self, name: str, subnets: Iterable[IPNetwork]) -> None:
        """Raises ShadowMeshError(CONFLICT) if a subnet covers an address that this host needs outside its networks.

        For who asks for a network; one that runs is routed around such addresses.
        """
        for subnet in subnets:
            for address in self._host.outer_within(subnet):
                raise outer_error(name, subnet, address)


def own_prefixes(me: Member) -> tuple[IPNetwork, ...]:
    """This machine's addresses, as the pump wants them."""
    own: tuple[IPNetwork, ...] = (ipaddress.IPv4Network(me.ip),)
    return own if me.ip6 is None else (*own, ipaddress.IPv6Network(me.ip6))
