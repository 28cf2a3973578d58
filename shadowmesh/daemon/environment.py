"""What the daemon stands on, handed in: clocks, the host's network, the pump, sockets, links and streams.

The defaults are the real ones. Tests hand in others and drive the whole daemon, without root and without packets.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from shadowmesh.client_api.dialing import Connect
from shadowmesh.client_api.link import ControllerLink
from shadowmesh.daemon.hostnet import HostEvent, HostNet
from shadowmesh.daemon.relay_stream import RelayStream
from shadowmesh.daemon.stunservers import Resolve, resolve
from shadowmesh.daemon.systemclock import now
from shadowmesh.dataplane.echo import EchoSocket
from shadowmesh.dataplane.interface import Pump
from shadowmesh.dataplane.outer import OuterSockets
from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import InterfaceConfig
from shadowmesh.host.namespaces import inside
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.clock import Now
from shadowmesh.model.hostaddresses import HostAddresses
from shadowmesh.protocol.natpmp import SERVER_PORT


class AnyHostNet(Protocol):
    """The host's network: `daemon.hostnet.HostNet`."""

    warnings: list[str]

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def configure(self, fd: int, wanted: InterfaceConfig) -> None: ...
    def forget(self, fd: int) -> None: ...
    def hold_outer(self, owner: Hashable, addresses: Iterable[IPAddress]) -> None: ...
    def reaching(self, address: IPAddress) -> None: ...
    def members_changed(self) -> None: ...
    def outer_within(self, subnet: IPNetwork) -> list[IPAddress]: ...
    def addresses(self) -> HostAddresses: ...
    def gateway(self) -> tuple[IPv4Address, IPv4Address] | None: ...
    def overlaps(self, subnet: IPNetwork, ignore: Collection[str]) -> list[tuple[str, IPNetwork]]: ...


class Socket(Protocol):
    """A bound UDP socket, which the pump works on."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Echo(Protocol):
    """Echo requests through an interface: `dataplane.echo.EchoSocket`."""

    async def once(self, timeout: float) -> float | None: ...
    def close(self) -> None: ...


class Stream(Protocol):
    """A connection to a relay: `daemon.relay_stream.RelayStream`."""

    async def open(self) -> int: ...
    async def run(self) -> None: ...


def _open_udp(address: IPAddress, port: int) -> Socket:
    return OuterSockets(required=True).udp(address, port)


async def _connect(host: str, port: int, timeout: float, reaching: Callable[[IPAddress], None]) -> socket.socket:
    return await OuterSockets(required=True, reaching=reaching).connect(host, port, timeout)


def _open_tun(netns: str | None) -> tuple[int, str]:
    return inside(netns, lambda: open_tun("shadowmesh%d"))


def _echo(netns: str | None, interface: str, source: IPv4Address, dest: IPv4Address) -> Echo:
    return inside(netns, lambda: EchoSocket(interface, source, dest))


def _ask_router(client: IPv4Address, gateway: IPv4Address) -> socket.socket:
    sock = OuterSockets(required=True).udp(client)
    try:
        sock.connect((str(gateway), SERVER_PORT))
    except OSError:
        sock.close()
        raise
    return sock


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """How to get each of them.

    `host` is told whom to tell of changes, and whom to ask which addresses are members'. `open_udp(address, port)` raises OSError; an address of zeros listens on all of its family.
    `connect(host, port, timeout, reaching)` is for TCP: `reaching` hears each address before it is tried; raises OSError.
    `open_tun(netns)` returns descriptor and name of a new device; ShadowMeshError. Where a network namespace is asked for, None is
    the daemon's own. `ask_router(client, gateway)` is a connected UDP socket, non-blocking; raises OSError, ShadowMeshError.
    """

    clock: Callable[[], Now] = now
    host: Callable[[Callable[[HostEvent], None], Callable[[IPAddress], bool], str | None], AnyHostNet] = HostNet
    start_pump: Callable[[], Pump] = PumpProcess
    open_udp: Callable[[IPAddress, int], Socket] = _open_udp
    connect: Callable[[str, int, float, Callable[[IPAddress], None]], Awaitable[socket.socket]] = _connect
    open_tun: Callable[[str | None], tuple[int, str]] = _open_tun
    link: Callable[..., ControllerLink] = ControllerLink
    echo: Callable[[str | None, str, IPv4Address, IPv4Address], Echo] = _echo
    ask_router: Callable[[IPv4Address, IPv4Address], socket.socket] = _ask_router
    resolve: Resolve = resolve
    stream: Callable[[str, Connect], Stream] = RelayStream


ANY_IPV4, ANY_IPV6 = ipaddress.IPv4Address(0), ipaddress.IPv6Address(0)
