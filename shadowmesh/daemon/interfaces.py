"""The TUN devices of the networks that are up: made, kept as they shall be, taken away."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Iterable

from shadowmesh.daemon.environment import AnyHostNet, Environment
from shadowmesh.daemon.hostnet import HostEvent, UnderlayChanged
from shadowmesh.daemon.join import outer_error, overlap_error, refuse_overlap
from shadowmesh.daemon.network import Interface, Network
from shadowmesh.host.hostnetwork import InterfaceConfig
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import Member
from shadowmesh.model.pump import INNER_MTU


class Interfaces:
    """Everything raises ShadowMeshError where the host says no.

    A network may be put into a network namespace of the host's: there are its device, addresses and routes, and what lies
    outside concerns it no more than it concerns others. The pump's sockets stay where the daemon is.
    """

    def __init__(self, environment: Environment, host: AnyHostNet, tell: Callable[[HostEvent], None]) -> None:
        """`tell` is told what happens to interfaces in other namespaces than `host`'s."""
        self._environment = environment
        self._host = host
        self._tell = tell
        self._elsewhere: dict[str, AnyHostNet] = {}  # by namespace
        self._netns: dict[int, str | None] = {}  # of each interface, by descriptor

    def _host_in(self, netns: str | None) -> AnyHostNet:
        if netns is None:
            return self._host
        host = self._elsewhere.get(netns)
        if host is None:
            host = self._environment.host(self._told_elsewhere, lambda _: False, netns)
            try:
                host.start()
            except BaseException:
                host.stop()
                raise
            self._elsewhere[netns] = host
            asyncio.get_running_loop().call_soon(self._end_unused)
        return host

    def _told_elsewhere(self, event: HostEvent) -> None:
        if not isinstance(event, UnderlayChanged):  # no way of ours leads through there
            self._tell(event)

    def _end_unused(self) -> None:
        for netns in self._elsewhere.keys() - set(self._netns.values()):
            self._elsewhere.pop(netns).stop()

    def stop(self) -> None:
        """All interfaces have been removed."""
        self._end_unused()

    def make(self, network: Network) -> Interface:
        """A device with the addresses and routes that the network's map gives this machine."""
        netns = network.record.netns
        self._host_in(netns)
        fd, name = self._environment.open_tun(netns)
        self._netns[fd] = netns
        interface = Interface(name, fd, netns)
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
        self._host_in(interface.netns).configure(
            interface.fd, InterfaceConfig(interface.name, INNER_MTU, addresses, routes)
        )

    def remove(self, interface: Interface) -> None:
        self._host_in(interface.netns).forget(interface.fd)
        del self._netns[interface.fd]
        if interface.netns is not None:
            asyncio.get_running_loop().call_soon(self._end_unused)  # not at once: it may be its host that calls
        os.close(interface.fd)  # the pump's duplicate goes with RemoveTun; then the device is gone

    def check_subnets(
        self,
        networks: Iterable[Network],
        name: str,
        subnets: Iterable[IPNetwork],
        own: NetworkID | None = None,
        *,
        netns: str | None = None,
        lans: bool = True,
    ) -> None:
        """`netns`: where the network is, or shall be. Raises ShadowMeshError(CONFLICT) if a subnet is another running network's or (`lans`) a LAN's of this host."""
        running = {n.interface.name: n for n in networks if n.interface is not None and n.interface.netns == netns}
        host = self._host_in(netns)
        for subnet in subnets:
            for other in running.values():
                if other.id != own and other.map is not None:
                    refuse_overlap(name, subnet, other.name, other.map.head.subnets)
            for interface, lan in host.overlaps(subnet, running) if lans else ():
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
