"""This host's links, addresses and routes, by netlink. How an overlay's routes lead past others' is in `policyrouting`.

pyroute2 is imported when first needed: commands that don't touch the host must not pay for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from ipaddress import collapse_addresses, ip_interface
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from shadowmesh.dataplane.outer import FirewallMark
from shadowmesh.host.interfaceroles import HostInterface, InterfaceRole, roles
from shadowmesh.host.namespaces import enter
from shadowmesh.host.onethread import OneThread
from shadowmesh.host.policyrouting import PolicyRouting
from shadowmesh.host.rtnetlink import MAIN_TABLE, ROUTE_PROTOCOL, UNICAST, KernelRoute, dump_routes, whole_dump
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.hostaddresses import HostAddresses, IPInterface

_IFF_UP: Final = 0x1
_MOST_NESTED: Final = 1024
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE, _IFA_F_NOPREFIXROUTE = (
    0x02,
    0x08,
    0x20,
    0x40,
    0x200,
)
_UNUSABLE: Final = _IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE
# A 64 KB super-packet of full segments with all headers around them doesn't fit one UDP send of the pump; this does.
_GSO_MAX_SIZE: Final = 61_000


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """What an overlay interface shall be. `addresses` are this host's own; `routes` lead into it, but not to the addresses `around`."""

    name: str
    mtu: int
    addresses: tuple[IPAddress, ...]
    routes: tuple[IPNetwork, ...]
    around: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class Applied:
    """What `HostNetwork.apply` did: `changed` in words; `failed` has a sentence for each IP version that couldn't be set up."""

    changed: tuple[str, ...] = ()
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NextHop:
    """How this host reaches an address outside the overlays: by which interface, next hop and source."""

    interface: int
    gateway: str | None
    source: str | None


_LONGEST = 10.0  # seconds for a call; one takes milliseconds

P = ParamSpec("P")
R = TypeVar("R")


def _on_its_thread(method: Callable[Concatenate[HostNetwork, P], R]) -> Callable[Concatenate[HostNetwork, P], R]:
    """pyroute2's blocking calls run an event loop inside, which no thread with a running one of its own may do."""

    @functools.wraps(method)
    def run(self: HostNetwork, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.thread.is_current:
            return method(self, *args, **kwargs)
        if self._back is not None and not self._back.done():
            raise _silent()  # waited for once, by whoever asked first
        waiting = self.thread.submit(method, self, *args, **kwargs)
        try:
            return waiting.result(_LONGEST)
        except TimeoutError as e:
            if waiting.done():
                raise  # the call's own
            waiting.cancel()  # if it hasn't begun: what was given up isn't carried out later
            self._back = self.thread.submit(lambda: None)
            raise _silent() from e

    return run


def _silent() -> ShadowMeshError:
    return ShadowMeshError(
        "host_busy", f"the kernel's netlink says nothing for {_LONGEST:.0f} s", "see the kernel's log"
    )


class HostNetwork:
    """Brings overlay interfaces into the state that is wanted, and back. Blocking calls of a few milliseconds, from any thread.

    It acts in the network namespace `netns`, or in that of the thread that made its first call.

    All methods raise ShadowMeshError `host_not_allowed` without the privilege, `host_refused` where the kernel says no.
    """

    def __init__(self, mark: FirewallMark | None = None, netns: str | None = None) -> None:
        """`netns`: a name of ip-netns(8). `mark`: of the outer sockets on this host, which go around the overlays' routes."""
        self.mark = mark or FirewallMark.from_environment()
        self._netlink: Any = None
        self._routing_of: PolicyRouting | None = None
        self._indices: dict[str, int] = {}  # of the interfaces applied: their rules outlive them
        self._back: Future[None] | None = None  # done when the thread is free that once was waited for in vain
        self.thread = OneThread("netlink") if netns is None else OneThread(f"netlink {netns}", partial(enter, netns))

    def close(self) -> None:
        """Ends the netlink connection and its thread. One that hangs in the kernel is left to itself."""
        with contextlib.suppress(ShadowMeshError):
            self._close()
        self.thread.shutdown(wait=False, cancel_futures=True)

    @_on_its_thread
    def _close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _ipr(self) -> Any:
        if self._netlink is None:
            from pyroute2 import IPRoute

            self._netlink = IPRoute()
        return self._netlink

    @property
    def _routing(self) -> PolicyRouting:
        if self._routing_of is None:
            self._routing_of = PolicyRouting(self._ipr(), self.mark, _ignored)
        return self._routing_of

    @_on_its_thread
    def apply(self, wanted: InterfaceConfig) -> Applied:
        """Makes the (existing) interface what is wanted: up, MTU, exactly these addresses and routes of ours.

        Nothing is changed the second time. What fails for one IP version leaves the other alone; raises if none is left.
        """
        with _kernel_refusals(wanted.name):
            ipr = self._ipr()
            index = self._index(wanted.name)
            self._indices[wanted.name] = index
            changed = self._apply_link(ipr, index, wanted)
            failed: dict[int, Exception] = {}
            versions = sorted({a.version for a in wanted.addresses})
            for version in versions:
                try:
                    changed += self._apply_addresses(ipr, index, version, wanted.addresses)
                    source = next(a for a in wanted.addresses if a.version == version)
                    changed += self._routing.apply(version, index, wanted.routes, source, wanted.around)
                except (_netlink_error(), OSError) as e:
                    failed[version] = e
            if failed and len(failed) == len(versions):
                raise failed[versions[0]]
            if 4 in versions:
                self._hold_sysctl()
            return Applied(
                tuple(changed), {v: f"IPv{v} doesn't work on {wanted.name}: {_why(e)}" for v, e in failed.items()}
            )

    def _hold_sysctl(self) -> None:
        with contextlib.suppress(OSError):  # /proc/sys is read-only in many containers, and few have rp_filter strict
            self._routing.hold_sysctl()

    def _apply_link(self, ipr: Any, index: int, wanted: InterfaceConfig) -> list[str]:
        (link,) = ipr.get_links(index)
        changed = []
        if link.get_attr("IFLA_MTU") != wanted.mtu:
            ipr.link("set", index=index, mtu=wanted.mtu)
            changed.append(f"mtu {wanted.mtu}")
        if link.get_attr("IFLA_GSO_MAX_SIZE") != _GSO_MAX_SIZE:
            with contextlib.suppress(Exception):  # an optimisation, and older kernels can't
                ipr.link("set", index=index, gso_max_size=_GSO_MAX_SIZE)
        if not link["flags"] & _IFF_UP:
            ipr.link("set", index=index, state="up")
            changed.append("up")
        return changed

    def _apply_addresses(self, ipr: Any, index: int, version: int, wanted: Iterable[IPAddress]) -> list[str]:
        present = {a.ip: a.network.prefixlen for _, a in _indexed_addresses(ipr, index) if a.version == version}
        changed = []
        for address in (a for a in wanted if a.version == version):
            if present.pop(address, None) != address.max_prefixlen:
                flags = _IFA_F_NOPREFIXROUTE | (_IFA_F_NODAD if address.version == 6 else 0)
                ipr.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, flags=flags)
                changed.append(f"address {address}")
        for address, length in present.items():
            if not address.is_link_local:
                ipr.addr("del", index=index, address=str(address), prefixlen=length)
                changed.append(f"no address {address}")
        return changed

    @_on_its_thread
    def is_here(self, name: str, applied_as: str) -> bool:
        """Whether the device that an interface was applied to is in this namespace, now by this name."""
        return _index_or_none(name) == self._indices.get(applied_as)

    @_on_its_thread
    def undo(self, name: str) -> None:
        """Takes our addresses, routes and rules off the interface and sets it down; one that is gone leaves rules behind."""
        with _kernel_refusals(name):
            index = self._indices.pop(name, None)
            if index is not None:
                self._routing.undo(index)
                with contextlib.suppress(OSError):
                    self._routing.release_sysctl()
            if index is not None and _index_or_none(name) == index:
                ipr = self._ipr()
                with _ignored(errno.ENODEV):
                    ipr.flush_addr(index=index)
                    ipr.link("set", index=index, state="down")

    @_on_its_thread
    def clean(self) -> list[str]:
        """Removes what a crash left behind: rules and routes of ours whose interface is gone. Returns what was removed, in words.

        TUN devices go with their pump's descriptor: one that is there belongs to a daemon that runs.
        """
        with _kernel_refusals("leftovers"), contextlib.suppress(OSError):
            return self._routing.clean(
                {link["index"] for link in whole_dump(self._ipr().get_links) if HostInterface.of(link).kind == "tun"}
            )
        return []

    @_on_its_thread
    def conflicts(self) -> list[str]:
        """Rules of other programs that take our mark for theirs, or theirs for ours: sentences for people."""
        with _kernel_refusals("rules"):
            return self._routing.conflicts()

    @_on_its_thread
    def next_hops(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, NextHop | None]:
        """How our own packets reach each address now; None: not at all."""
        ipr = self._ipr()
        found: dict[IPAddress, NextHop | None] = {}
        for address in addresses:
            try:
                (route, *_) = ipr.route("get", dst=str(address), mark=self.mark.value)
            except _netlink_error():
                found[address] = None
                continue
            gateway, via = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_VIA")
            found[address] = NextHop(
                route.get_attr("RTA_OIF") or 0,
                gateway or (str(via) if via else None),
                route.get_attr("RTA_PREFSRC"),
            )
        return found

    @_on_its_thread
    def find_overlaps(self, subnet: IPNetwork, ignore: Collection[str] = ()) -> list[tuple[str, IPNetwork]]:
        """Interfaces whose addresses' networks or routes (but for default routes) overlap `subnet`, with the network that does.

        `ignore`: names of interfaces that don't count, such as the overlay's own.
        """
        with _kernel_refusals(str(subnet)):
            ipr = self._ipr()
            names = self._names(ipr)
            found = {(names.get(i, "?"), a.network): None for i, a in _indexed_addresses(ipr)}
            routes = dump_routes(subnet.version, table=MAIN_TABLE)
            for route in routes + dump_routes(subnet.version, protocol=ROUTE_PROTOCOL):  # other daemons' overlays
                if route.kind == UNICAST and route.network.prefixlen and route.interface:
                    found[names.get(route.interface, "?"), route.network] = None
            return [
                (name, network)
                for name, network in found
                if name not in ignore and network.version == subnet.version and network.overlaps(subnet)
            ]

    @_on_its_thread
    def lans(self, ignore: Collection[str] = ()) -> list[tuple[str, IPNetwork]]:
        """The networks that this host's addresses lie in, with the interface of each; not overlays', nor those in `ignore`, and no single addresses."""
        with _kernel_refusals("addresses"):
            ipr = self._ipr()
            names, overlays = self._names(ipr), self._routing.overlays()
            return [
                (names.get(i, "?"), a.network)
                for i, a in _indexed_addresses(ipr, usable=True)
                if i not in overlays
                and names.get(i) not in ignore
                and a.network.prefixlen < a.max_prefixlen
                and not (a.ip.is_loopback or a.ip.is_link_local)
            ]

    @_on_its_thread
    def underlay(self, ignore: Collection[str] = (), in_use: Collection[int] = ()) -> HostAddresses:
        """Addresses at which others may reach this host, and where other programs' tunnels lead.

        Of interfaces that are up, not loopback, not in `ignore`, and not overlays. IPv6 link-local addresses and those not (or no more) in use
        are left out. `in_use`: indices of interfaces by which default routes and the ways to relays and controllers lead.
        """
        with _kernel_refusals("addresses"):
            ipr = self._ipr()
            overlays = self._routing.overlays()
            links = [HostInterface.of(message) for message in whole_dump(ipr.get_links)]
            role = roles(links, in_use)
            good = {
                k.index for k in links if k.up and not k.loopback and k.index not in overlays and k.name not in ignore
            }
            found: dict[InterfaceRole, list[IPInterface]] = {r: [] for r in InterfaceRole}
            for index, address in _indexed_addresses(ipr, usable=True):
                if index in good and not address.ip.is_link_local:
                    found[role[index]].append(address)
            nested = {a.network for a in found[InterfaceRole.TUNNEL] if a.network.prefixlen < a.max_prefixlen}
            for index in (i for i in good if role[i] is InterfaceRole.TUNNEL):
                nested |= {r.network for v in (4, 6) for r in dump_routes(v, interface=index) if _is_somewhere(r)}
            return HostAddresses(
                tuple(found[InterfaceRole.REAL]),
                tuple(found[InterfaceRole.TUNNEL]),
                tuple(found[InterfaceRole.CONTAINERS]),
                _merged(nested),
            )

    @staticmethod
    def _names(ipr: Any) -> dict[int, str]:
        return {link["index"]: link.get_attr("IFLA_IFNAME") for link in whole_dump(ipr.get_links)}

    @staticmethod
    def _index(name: str) -> int:
        index = _index_or_none(name)
        if index is None:
            raise ShadowMeshError(
                "interface_gone", f"the interface {name} is gone", "restart the network: `shadowmesh down`, `up`"
            )
        return index


def _is_somewhere(route: KernelRoute) -> bool:
    """Whether a route is to certain networks: neither a default route (or a half of one, as OpenVPN sets), nor of the link itself."""
    network = route.network
    return route.kind == UNICAST and network.prefixlen > 1 and not (network.is_link_local or network.is_multicast)


def _merged(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The same addresses in as few networks as may be; of very many, the largest."""
    merged: list[IPNetwork] = []
    for version in (4, 6):
        merged += collapse_addresses(n for n in networks if n.version == version)  # type: ignore[type-var]
    return tuple(sorted(merged, key=lambda n: (n.prefixlen, str(n)))[:_MOST_NESTED])


def _index_or_none(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _indexed_addresses(
    ipr: Any, index: int | None = None, *, usable: bool = False
) -> Iterator[tuple[int, IPInterface]]:
    """Addresses, of one interface or all, with the interface's index. `usable`: without those that may not, or no more, be used."""
    for entry in whole_dump(lambda: ipr.get_addr(**({} if index is None else {"index": index}))):
        flags = entry.get_attr("IFA_FLAGS") or entry["flags"]
        if not usable or not flags & _UNUSABLE:
            address = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            yield entry["index"], ip_interface(f"{address}/{entry['prefixlen']}")


def _netlink_error() -> type[Exception]:
    from pyroute2.netlink.exceptions import NetlinkError

    return NetlinkError  # type: ignore[no-any-return]


def _why(error: Exception) -> str:
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    return os.strerror(number).lower() if number else str(error)


@contextlib.contextmanager
def _ignored(number: int) -> Iterator[None]:
    try:
        yield
    except _netlink_error() as e:
        if e.code != number:  # type: ignore[attr-defined]
            raise


@contextlib.contextmanager
def _kernel_refusals(what: str) -> Iterator[None]:
    """Turns the kernel's refusals into errors for people."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except (NetlinkError, OSError) as e:
        if (getattr(e, "code", None) or getattr(e, "errno", None)) in (errno.EPERM, errno.EACCES):
            raise ShadowMeshError(
                "host_not_allowed",
                f"no permission to change the host's network ({what})",
                "run the daemon as root",
                kind=Kind.NOT_ALLOWED,
            ) from e
        raise ShadowMeshError(
            "host_refused", f"the kernel refused a change ({what}): {_why(e)}", "see `shadowmesh doctor`"
        ) from e
