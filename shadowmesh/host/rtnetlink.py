"""Reading routes from the kernel, and hearing of changes (rtnetlink(7)), without a library in between.

A router may hold a million routes: a dump names the table that it wants, so that the kernel leaves out the others (NETLINK_GET_STRICT_CHK,
Linux 4.20; older ones send all, and what doesn't belong is passed over here).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, Protocol

from shadowmesh.model.addresses import IPAddress, IPNetwork

ROUTE_PROTOCOL: Final = 83  # marks the routes and rules that are ours: `ip route show table all proto 83`, `ip rule`
MAIN_TABLE: Final = 254
UNICAST, THROW = 1, 9

_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = (
    16, 17, 20, 21, 24, 25, 26,
)  # fmt: skip
_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_DUMPS: Final = 5  # of one table, while it changes underneath
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_RTM_F_CLONED: Final = 0x200  # an entry of a cache, no route
_HEADER, _RTMSG = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 7, 15
_FRA_PROTOCOL: Final = 21
# link, IPv4 address, route and rule, IPv6 address and route; IPv6 rule has a number beyond this mask
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400
_NETLINK_ADD_MEMBERSHIP, _RTNLGRP_IPV6_RULE = 1, 19
_BUFFER: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route as the kernel holds it. `interface`: its index, 0 without one."""

    network: IPNetwork
    interface: int
    kind: int = UNICAST
    source: IPAddress | None = None
    protocol: int = ROUTE_PROTOCOL
    table: int = MAIN_TABLE


def dump_routes(
    version: int, *, table: int | None = None, protocol: int | None = None, interface: int | None = None
) -> list[KernelRoute]:
    """The routes of one IP version; only those of a table, with a protocol number, into an interface, where given. Raises OSError."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    wanted = ((_RTA_TABLE, table), (_RTA_OIF, interface))
    attributes = b"".join(struct.pack("=HHI", 8, kind, value) for kind, value in wanted if value is not None)
    request = _RTMSG.pack(family, 0, 0, 0, 0, protocol or 0, 0, 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        with contextlib.suppress(OSError):
            sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        found = [route for route in map(_route, _dump(sock, request)) if route is not None]
    return [
        route
        for route in found
        if route.network.version == version
        and interface in (None, route.interface)
        and table in (None, route.table)
        and protocol in (None, route.protocol)
    ]


def whole_dump(dump: Callable[[], Iterable[Any]]) -> list[Any]:
    """What a dump of pyroute2's says, asked again where the kernel says that it changed meanwhile, as `dump_routes` does."""
    found: list[Any] = []
    for _ in range(_DUMPS):
        found = list(dump())
        if not any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in found):
            break
    return found


class _Socket(Protocol):
    def send(self, data: bytes, /) -> int: ...

    def recv(self, size: int, /) -> bytes: ...


def _dump(sock: _Socket, request: bytes) -> list[bytes]:
    """The bodies of all routes that the kernel has for this request. Raises OSError.

    A table that changes meanwhile may have been told with gaps or doubles: the kernel says so, and is asked again. Where it
    never stands still, the last answer has to do: whoever keeps routes hears of each change (`HostWatcher`) and looks anew.
    """
    bodies: list[bytes] = []
    for number in range(1, _DUMPS + 1):
        header = _HEADER.pack(16 + len(request), _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, number, 0)
        sock.send(header + request)
        bodies, interrupted = _dumped(sock)
        if not interrupted:
            break
    return bodies


def _dumped(sock: _Socket) -> tuple[list[bytes], bool]:
    """One dump up to its end, and whether the table changed meanwhile."""
    bodies: list[bytes] = []
    interrupted = False
    while True:
        for kind, flags, body in _messages(sock.recv(_BUFFER)):
            interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return bodies, interrupted
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0]
                if number in (errno.ENOENT, errno.ENODEV):  # a table that was never used, an interface that just went
                    return bodies, False
                raise OSError(number, os.strerror(number))
            if kind == _RTM_NEWROUTE:
                bodies.append(body)


class Changed(Enum):
    """What a change on the host concerns."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    RULE = "rule"
    UNKNOWN = "unknown"  # changes were missed: look at everything


@dataclass(frozen=True, slots=True)
class Change:
    """One change that the kernel told of. `interface`: its index, 0 unknown. `ours`: a route or rule of our protocol number. `lost`: it went."""

    what: Changed
    interface: int = 0
    ours: bool = False
    lost: bool = False


class HostWatcher:
    """Tells of changes to links, addresses, routes and rules, others' and our own. For an event loop: wait on `fileno`, then `read`.

    Of others' routes only those of the main table count.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _GROUPS))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _RTNLGRP_IPV6_RULE)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Change]:
        """What changed since the last call; never blocks."""
        changes: dict[Change, None] = {}
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return list(changes)
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                changes[Change(Changed.UNKNOWN)] = None
                continue
            for kind, _, body in _messages(data):
                change = _change(kind, body)
                if change is not None:
                    changes[change] = None

    def close(self) -> None:
        self._socket.close()


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Types, flags and bodies of netlink messages."""
    at = 0
    while at + 16 <= len(data):
        size, kind, flags = struct.unpack_from("=IHH", data, at)
        yield kind, flags, data[at + 16 : at + size]
        at += max(16, (size + 3) & ~3)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        found[kind] = data[at + 4 : at + size]
        at += max(4, (size + 3) & ~3)
    return found


def _change(kind: int, body: bytes) -> Change | None:
    if kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= 8:
        return Change(Changed.LINK, struct.unpack_from("=i", body, 4)[0], lost=kind == _RTM_DELLINK)
    if kind in (_RTM_NEWADDR, _RTM_DELADDR) and len(body) >= 8:
        return Change(Changed.ADDRESS, struct.unpack_from("=I", body, 4)[0], lost=kind == _RTM_DELADDR)
    if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
        route = _route(body)
        if route is None or (route.protocol != ROUTE_PROTOCOL and route.table != MAIN_TABLE):
            return None
        ours = route.protocol == ROUTE_PROTOCOL
        return Change(Changed.ROUTE, route.interface, ours, lost=kind == _RTM_DELROUTE)
    if kind in (_RTM_NEWRULE, _RTM_DELRULE) and len(body) >= 12:
        ours = _attributes(body[12:]).get(_FRA_PROTOCOL) == bytes((ROUTE_PROTOCOL,))
        return Change(Changed.RULE, 0, ours, lost=kind == _RTM_DELRULE)
    return None


def _route(body: bytes) -> KernelRoute | None:
    """A route of a kind that leads somewhere or back out of its table, None for others."""
    if len(body) < 12:
        return None
    family, length, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6) or kind not in (UNICAST, THROW) or flags & _RTM_F_CLONED:
        return None
    attributes = _attributes(body[12:])
    size = 4 if family == socket.AF_INET else 16
    number = attributes.get(_RTA_DST, bytes(size)), length
    source = attributes.get(_RTA_PREFSRC)
    return KernelRoute(
        IPv4Network(number) if size == 4 else IPv6Network(number),
        0 if kind == THROW else int.from_bytes(attributes.get(_RTA_OIF, b""), sys.byteorder),
        kind,
        None if source is None else IPv4Address(source) if size == 4 else IPv6Address(source),
        protocol,
        int.from_bytes(attributes[_RTA_TABLE], sys.byteorder) if _RTA_TABLE in attributes else table,
    )
