"""This host's links, addresses and routes, by netlink. What is ours carries our routing protocol number.

pyroute2 is imported when first needed: commands that don't touch the host must not pay for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.errors import Kind, ShadowMeshError

IPInterface: TypeAlias = IPv4Interface | IPv6Interface

ROUTE_PROTOCOL: Final = 83  # marks our routes; `ip route show proto 83`

_MAIN_TABLE: Final = 254
_UNICAST: Final = 1
_SCOPE_LINK, _SCOPE_ANY = 253, 255
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
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
class Interface:
    """What an overlay interface shall be. `addresses` are this host's own; `routes` lead into it."""

    name: str
    mtu: int
    addresses: tuple[IPAddress, ...]
    routes: tuple[IPNetwork, ...]


P = ParamSpec("P")
R = TypeVar("R")


def _on_its_thread(method: Callable[Concatenate[HostNetwork, P], R]) -> Callable[Concatenate[HostNetwork, P], R]:
    """pyroute2's blocking calls run an event loop inside, which no thread with a running one of its own may do."""

    @functools.wraps(method)
    def run(self: HostNetwork, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.thread.submit(method, self, *args, **kwargs).result()

    return run


class HostNetwork:
    """Brings overlay interfaces into the state that is wanted, and back. Blocking calls of a few milliseconds, from any thread.

    It acts in the network namespace of the thread that made its first call.

    All methods raise ShadowMeshError `host_not_allowed` without the privilege, `host_refused` where the kernel says no.
    """

    def __init__(self) -> None:
        self._netlink: Any = None
        self.thread = ThreadPoolExecutor(1, "netlink")

    def close(self) -> None:
        """Ends the netlink connection and its thread."""
        if self._netlink is not None:
            self.thread.submit(self._netlink.close).result()
            self._netlink = None
        self.thread.shutdown()

    def _ipr(self) -> Any:
        if self._netlink is None:
            from pyroute2 import IPRoute

            self._netlink = IPRoute()
        return self._netlink

    @_on_its_thread
    def apply(self, wanted: Interface) -> list[str]:
        """Makes the (existing) interface what is wanted: up, MTU, exactly these addresses and routes of ours.

        Returns what had to be changed, in words; nothing the second time.
        """
        with _told(wanted.name):
            ipr = self._ipr()
            index = self._index(wanted.name)
            changed = self._apply_link(ipr, index, wanted)
            changed += self._apply_addresses(ipr, index, wanted)
            return changed + self._apply_routes(ipr, index, wanted)

    def _apply_link(self, ipr: Any, index: int, wanted: Interface) -> list[str]:
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

    def _apply_addresses(self, ipr: Any, index: int, wanted: Interface) -> list[str]:
        present = {
            ip_address(a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS")): a["prefixlen"]
            for a in ipr.get_addr(index=index)
        }
        changed = []
        for address in wanted.addresses:
            if present.pop(address, None) != address.max_prefixlen:
                flags = _IFA_F_NOPREFIXROUTE | (_IFA_F_NODAD if address.version == 6 else 0)
                ipr.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, flags=flags)
                changed.append(f"address {address}")
        for address, length in present.items():
            if not address.is_link_local:
                ipr.addr("del", index=index, address=str(address), prefixlen=length)
                changed.append(f"no address {address}")
        return changed

    def _apply_routes(self, ipr: Any, index: int, wanted: Interface) -> list[str]:
        present = {network for network, oif in self._routes(ipr, own=True) if oif == index}
        changed = []
        for network in wanted.routes:
            if network not in present:
                source = next((a for a in wanted.addresses if a.version == network.version), None)
                extra: dict[str, Any] = {"prefsrc": str(source)} if source else {}
                if network.version == 4:
                    extra["scope"] = _SCOPE_LINK
                ipr.route("replace", dst=str(network), oif=index, proto=ROUTE_PROTOCOL, **extra)
                changed.append(f"route {network}")
        for network in present - set(wanted.routes):
            self._delete_route(ipr, network, index)
            changed.append(f"no route {network}")
        return changed

    @_on_its_thread
    def undo(self, name: str) -> None:
        """Takes our addresses and routes off the interface and sets it down. Without effect if it is gone."""
        with _told(name):
            try:
                index = socket.if_nametoindex(name)
            except OSError:
                return
            ipr = self._ipr()
            for network, oif in list(self._routes(ipr, own=True)):
                if oif == index:
                    self._delete_route(ipr, network, index)
            ipr.flush_addr(index=index)
            ipr.link("set", index=index, state="down")

    @_on_its_thread
    def clean(self) -> list[str]:
        """Removes routes of ours that a crash left on interfaces which outlived it. Returns what was removed, in words.

        TUN devices go with their pump's descriptor: one that is there belongs to a daemon that runs.
        """
        with _told("leftovers"):
            ipr = self._ipr()
            tuns = {link["index"] for link in ipr.get_links() if _kind(link) == "tun"}
            removed = []
            for network, oif in list(self._routes(ipr, own=True)):
                if oif not in tuns:
                    self._delete_route(ipr, network, oif)
                    removed.append(f"route {network}")
            return removed

    @_on_its_thread
    def find_overlaps(self, subnet: IPNetwork, ignore: Collection[str] = ()) -> list[tuple[str, IPNetwork]]:
        """Interfaces whose addresses' networks or routes (but for default routes) overlap `subnet`, with the network that does.

        `ignore`: names of interfaces that don't count, such as the overlay's own.
        """
        with _told(str(subnet)):
            ipr = self._ipr()
            names = self._names(ipr)
            found: dict[tuple[str, IPNetwork], None] = {}
            for address in ipr.get_addr():
                local = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
                network = ip_network(f"{local}/{address['prefixlen']}", strict=False)
                found[names.get(address["index"], "?"), network] = None
            for network, oif in self._routes(ipr, own=False):
                if network.prefixlen and oif is not None:
                    found[names.get(oif, "?"), network] = None
            return [
                (name, network)
                for name, network in found
                if name not in ignore and network.version == subnet.version and network.overlaps(subnet)
            ]

    @_on_its_thread
    def candidates(self, ignore: Collection[str] = ()) -> list[IPInterface]:
        """Addresses at which others may reach this host: of interfaces that are up, not loopback, not in `ignore`, and not overlays.

        With the prefix of their network. IPv6 link-local addresses and those not (or no more) in use are left out.
        """
        with _told("addresses"):
            ipr = self._ipr()
            overlays = {oif for _, oif in self._routes(ipr, own=True)}
            good = {
                link["index"]
                for link in ipr.get_links()
                if link["flags"] & _IFF_UP
                and not link["flags"] & _IFF_LOOPBACK
                and link["index"] not in overlays
                and link.get_attr("IFLA_IFNAME") not in ignore
            }
            found: list[IPInterface] = []
            for entry in ipr.get_addr():
                address = ip_address(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
                flags = entry.get_attr("IFA_FLAGS") or entry["flags"]
                if entry["index"] in good and not flags & _UNUSABLE:
                    if address.version == 6 and address.is_link_local:
                        continue
                    found.append(ip_interface(f"{address}/{entry['prefixlen']}"))
            return found

    @_on_its_thread
    def is_applied(self, wanted: Interface) -> bool:
        """Whether `apply` would change nothing."""
        with _told(wanted.name):
            ipr = self._ipr()
            index = self._index(wanted.name)
            (link,) = ipr.get_links(index)
            addresses = {
                ip_address(a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS")) for a in ipr.get_addr(index=index)
            }
            routes = {network for network, oif in self._routes(ipr, own=True) if oif == index}
            return bool(link["flags"] & _IFF_UP) and addresses >= set(wanted.addresses) and routes == set(wanted.routes)

    def _routes(self, ipr: Any, *, own: bool) -> Iterator[tuple[IPNetwork, int | None]]:
        """Unicast routes of the main table with their interface; `own`: only ours."""
        for family, default in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for route in ipr.get_routes(family=family):
                if route["type"] != _UNICAST or (route.get_attr("RTA_TABLE") or route["table"]) != _MAIN_TABLE:
                    continue
                if own and route["proto"] != ROUTE_PROTOCOL:
                    continue
                destination = route.get_attr("RTA_DST") or default
                yield ip_network(f"{destination}/{route['dst_len']}"), route.get_attr("RTA_OIF")

    @staticmethod
    def _delete_route(ipr: Any, network: IPNetwork, oif: int | None) -> None:
        with _ignored(errno.ESRCH):  # it went by itself
            extra = {"oif": oif} if oif is not None else {}
            ipr.route("del", dst=str(network), proto=ROUTE_PROTOCOL, scope=_SCOPE_ANY, **extra)

    @staticmethod
    def _names(ipr: Any) -> dict[int, str]:
        return {link["index"]: link.get_attr("IFLA_IFNAME") for link in ipr.get_links()}

    @staticmethod
    def _index(name: str) -> int:
        index = _index_or_none(name)
        if index is None:
            raise ShadowMeshError(
                "interface_gone", f"the interface {name} is gone", "restart the network: `shadowmesh down`, `up`"
            )
        return index


def _kind(link: Any) -> str | None:
    info = link.get_attr("IFLA_LINKINFO")
    return None if info is None else info.get_attr("IFLA_INFO_KIND")


def _index_or_none(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


@contextlib.contextmanager
def _ignored(number: int) -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as e:
        if e.code != number:
            raise


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns the kernel's refusals into errors for people."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as e:
        if e.code in (errno.EPERM, errno.EACCES):
            raise ShadowMeshError(
                "host_not_allowed",
                f"no permission to change the host's network ({what})",
                "run the daemon as root",
                kind=Kind.NOT_ALLOWED,
            ) from e
        raise ShadowMeshError(
            "host_refused", f"the kernel refused a change ({what}): {e}", "see `shadowmesh doctor`"
        ) from e


class Changed(Enum):
    """What a change on the host concerns."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    UNKNOWN = "unknown"  # changes were missed: look at everything


@dataclass(frozen=True, slots=True)
class Change:
    """One change that the kernel told of. `interface`: its index, 0 unknown. `ours`: a route of our protocol number. `lost`: it went."""

    what: Changed
    interface: int = 0
    ours: bool = False
    lost: bool = False


_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, IPv4 address and route, IPv6 address and route
_RTA_OIF: Final = 4


class HostWatcher:
    """Tells of changes to links, addresses and routes of the main table, others' and our own. For an event loop: wait on `fileno`, then `read`."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Change]:
        """What changed since the last call; never blocks."""
        changes: dict[Change, None] = {}
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return list(changes)
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                changes[Change(Changed.UNKNOWN)] = None
                continue
            for change in _parse(data):
                changes[change] = None

    def close(self) -> None:
        self._socket.close()


def _parse(data: bytes) -> Iterator[Change]:
    """Changes in netlink messages (rtnetlink(7))."""
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        body = data[at + 16 : at + size]
        at += max(16, (size + 3) & ~3)
        if kind in (_NEWLINK, _DELLINK) and len(body) >= 8:
            yield Change(Changed.LINK, struct.unpack_from("=i", body, 4)[0], lost=kind == _DELLINK)
        elif kind in (_NEWADDR, _DELADDR) and len(body) >= 8:
            yield Change(Changed.ADDRESS, struct.unpack_from("=I", body, 4)[0], lost=kind == _DELADDR)
        elif kind in (_NEWROUTE, _DELROUTE) and len(body) >= 12 and body[4] == _MAIN_TABLE:
            yield Change(Changed.ROUTE, _output_interface(body[12:]), body[5] == ROUTE_PROTOCOL, kind == _DELROUTE)


def _output_interface(attributes: bytes) -> int:
    at = 0
    while at + 4 <= len(attributes):
        size, kind = struct.unpack_from("=HH", attributes, at)
        if kind == _RTA_OIF and size >= 8:
            return int(struct.unpack_from("=i", attributes, at + 4)[0])
        at += max(4, (size + 3) & ~3)
    return 0
