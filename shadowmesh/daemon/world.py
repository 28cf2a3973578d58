"""What the daemon stands on, handed in: clocks, the host's network, the pump, sockets, links and streams.

The defaults are the real ones. Tests hand in others and drive the whole daemon, without root and without packets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from shadowmesh.client_api.link import ControllerLink
from shadowmesh.daemon.clock import now
from shadowmesh.daemon.hostnet import HostNet
from shadowmesh.daemon.relay_stream import RelayStream
from shadowmesh.dataplane.host import Interface as HostInterface
from shadowmesh.dataplane.interface import Pump
from shadowmesh.dataplane.process import PumpProcess
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.clock import Now

SOCKET_MARK = 0x534D


class Host(Protocol):
    """The host's network: `daemon.hostnet.HostNet`."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def configure(self, wanted: HostInterface) -> None: ...
    def forget(self, interface: str) -> None: ...
    def addresses(self) -> list[IPv4Interface | IPv6Interface]: ...
    def overlaps(self, subnet: IPNetwork, ignore: Collection[str]) -> list[tuple[str, IPNetwork]]: ...


class Socket(Protocol):
    """A bound UDP socket, which the pump works on."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Stream(Protocol):
    """A connection to a relay: `daemon.relay_stream.RelayStream`."""

    async def open(self) -> int: ...
    async def run(self) -> None: ...


def _open_udp(address: IPAddress, port: int) -> Socket:
    return open_udp(address, port, mark=SOCKET_MARK)


def _open_tun() -> tuple[int, str]:
    return open_tun("shadowmesh%d")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How to get each of them.

    `host` is told whom to call when the underlay changed. `open_udp(address, port)` raises OSError; an address of
    zeros listens on all of its family. `open_tun()` returns descriptor and name of a new device; ShadowMeshError.
    """

    clock: Callable[[], Now] = now
    host: Callable[[Callable[[], None]], Host] = HostNet
    start_pump: Callable[[], Pump] = PumpProcess
    open_udp: Callable[[IPAddress, int], Socket] = _open_udp
    open_tun: Callable[[], tuple[int, str]] = _open_tun
    link: Callable[..., ControllerLink] = ControllerLink
    stream: Callable[[str], Stream] = RelayStream


ANY_IPV4, ANY_IPV6 = ipaddress.IPv4Address(0), ipaddress.IPv6Address(0)
