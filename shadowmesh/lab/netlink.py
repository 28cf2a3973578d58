"""Links, addresses and routes inside namespaces, by netlink."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from shadowmesh.lab import netns
from shadowmesh.model.addresses import IPAddress, IPNetwork

_FORWARDING = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
}
_ALWAYS = {
    # or else packets between hosts of one LAN would pass the router's forward chain
    "bridge/bridge-nf-call-iptables": 0,
    "bridge/bridge-nf-call-ip6tables": 0,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/accept_ra": 0,
}


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its network, as an interface has it."""

    ip: IPAddress
    network: IPNetwork


def at(network: IPNetwork, number: int) -> Address:
    """The `number`-th address of the network."""
    return Address(network[number], network)


class Wires:
    """Netlink into one namespace. Interfaces are named; addresses are values."""

    def __init__(self, route: Any, namespace: str) -> None:
        self._route = route
        self.namespace = namespace

    def index(self, name: str) -> int:
        """Raises KeyError if there is no such interface."""
        found = self._route.link_lookup(ifname=name)
        if not found:
            raise KeyError(name)
        return int(found[0])

    def add_veth(self, name: str, far_namespace: str, far_name: str) -> None:
        """A pair of virtual Ethernet ends: `name` here, `far_name` there, both still down.

        The near end gets a high number: where both ends have the same one, the kernel takes the pair for an ordinary
        card and lets up to a second pass before it sends on it.
        """
        number = max(999, *(int(link["index"]) for link in self._route.get_links())) + 1
        fd = os.open(netns.RUN / far_namespace, os.O_RDONLY)
        try:
            self._route.link("add", ifname=name, index=number, kind="veth", peer={"ifname": far_name, "net_ns_fd": fd})
        finally:
            os.close(fd)

    def add_bridge(self, name: str) -> None:
        self._route.link("add", ifname=name, kind="bridge")

    def enslave(self, name: str, bridge: str) -> None:
        self._route.link("set", index=self.index(name), master=self.index(bridge))

    def move(self, name: str, far_namespace: str, far_name: str) -> None:
        """Puts an interface into another namespace (down, without addresses), under a new name."""
        index = self.index(name)
        self._route.link("set", index=index, state="down")
        fd = os.open(netns.RUN / far_namespace, os.O_RDONLY)
        try:
            self._route.link("set", index=index, net_ns_fd=fd, ifname=far_name)
        finally:
            os.close(fd)

    def up(self, name: str, *addresses: Address, ipv6: bool = True) -> None:
        """Sets the interface up with these addresses. Without IPv6 it gets not even a link-local address."""
        if not ipv6:
            with netns.entered(self.namespace):
                netns.write_sysctl({f"ipv6/conf/{name}/disable_ipv6": 1})
        index = self.index(name)
        for address in addresses:
            self._route.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        self._route.link("set", index=index, state="up")

    def drop_addresses(self, name: str) -> None:
        """Takes all global addresses away, and with them their routes."""
        index = self.index(name)
        self._route.flush_addr(index=index, scope=0)

    def route(self, to: IPNetwork, via: IPAddress) -> None:
        self._route.route("replace", dst=str(to), gateway=str(via))

    def unroute(self, to: IPNetwork) -> None:
        """No error if there is no such route."""
        try:
            self._route.route("del", dst=str(to))
        except NetlinkError as e:
            if e.code != 3:  # ESRCH
                raise

    def remove(self, name: str) -> None:
        self._route.link("del", index=self.index(name))

    def set(self, name: str, **attributes: int) -> None:
        """Link attributes by their netlink names: mtu, gso_max_segs, …"""
        self._route.link("set", index=self.index(name), **attributes)

    def limit_rate(self, name: str, bytes_per_second: int | None) -> None:
        """A token bucket on what leaves by this interface; None takes it away."""
        index = self.index(name)
        try:
            self._route.tc("del", index=index, root=True)
        except NetlinkError as e:
            if e.code not in (2, 22):  # ENOENT, EINVAL: there is none
                raise
        if bytes_per_second is not None:
            burst = max(16_000, bytes_per_second // 50)
            self._route.tc("add", "tbf", index, 0x10000, rate=bytes_per_second, burst=burst, limit=burst * 8)


ANY4 = IPv4Network("0.0.0.0/0")
ANY6 = IPv6Network("::/0")


@contextmanager
def wires(namespace: str) -> Iterator[Wires]:
    """Netlink into the namespace while inside the `with`."""
    with netns.entered(namespace):
        route = IPRoute()
    try:
        yield Wires(route, namespace)
    finally:
        route.close()


def make_namespace(name: str, *, forwards: bool) -> None:
    """A fresh namespace with loopback up and the lab's sysctls."""
    netns.create(name)
    with netns.entered(name):
        netns.write_sysctl(_ALWAYS | (_FORWARDING if forwards else {}))
    with wires(name) as inside:
        inside.up("lo")


def flush_conntrack(name: str) -> None:
    """Forgets every connection that the namespace tracks, as a router does that restarts."""
    with netns.entered(name):  # to the end: this kind of socket opens with its first request
        tracker = NFCTSocket()
        try:
            tracker.flush()
        finally:
            tracker.close()
