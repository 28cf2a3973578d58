"""A simulated home router that opens ports on request."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from shadowmesh.engine.portmapper import MappingProtocol

PCP, NAT_PMP = MappingProtocol.PCP, MappingProtocol.NAT_PMP
CLIENT = IPv4Address("192.168.1.10")


@dataclass
class SimRouter:
    """A home router as RFC 6886 and RFC 6887 have it."""

    speaks: set[MappingProtocol] = field(default_factory=lambda: {PCP, NAT_PMP})
    outer: str = "45.1.2.3"
    born: float = -5000.0  # of its epoch
    most: int = 2**32 - 1  # seconds that it grants
    port: int | None = None  # that it gives, whatever is asked for
    refuses: int = 0  # a result code for mappings
    error_lifetime: int = 60
    open: dict[int, tuple[int, float]] = field(default_factory=dict)  # port inside → outside, until
    asked: list[tuple[float, bytes]] = field(default_factory=list)

    def answers(self, request: bytes, now: float) -> bytes | None:
        self.asked.append((now, request))
        epoch = int(now - self.born) & 0xFFFFFFFF
        if request[0] == 2:
            if PCP not in self.speaks:
                return struct.pack("!BBHI", 0, 0x81, 1, epoch) if NAT_PMP in self.speaks else None
            lifetime, client, nonce, inside, suggested = struct.unpack("!4xI16s12s4xHH16x", request)
            assert IPv6Address(client).ipv4_mapped == CLIENT
            port, granted = self._map(inside, suggested, lifetime, now)
            told = self.error_lifetime if self.refuses else granted
            head = struct.pack("!BBBBII12x", 2, 0x81, 0, self.refuses, told, epoch)
            outer = b"\0" * 10 + b"\xff\xff" + IPv4Address(self.outer).packed
            return head + struct.pack("!12sB3xHH16s", nonce, 17, inside, port, outer)
        if NAT_PMP not in self.speaks:
            return None
        if request[1] == 0:
            return struct.pack("!BBHI", 0, 128, 0, epoch) + IPv4Address(self.outer).packed
        inside, suggested, lifetime = struct.unpack("!4xHHI", request)
        port, granted = self._map(inside, suggested, lifetime, now)
        return struct.pack("!BBHIHHI", 0, 129, self.refuses, epoch, inside, port, granted)

    def _map(self, inside: int, suggested: int, lifetime: int, now: float) -> tuple[int, int]:
        if self.refuses:
            return 0, 0
        if not lifetime:
            self.open.pop(inside, None)
            return 0, 0
        granted = min(lifetime, self.most)
        self.open[inside] = (self.port or suggested, now + granted)
        return self.open[inside][0], granted

    def restart(self, now: float) -> None:
        self.born = now
        self.open.clear()
